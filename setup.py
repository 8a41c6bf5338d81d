"""Packaging of nes_jax, calsheq_jax, envs and launch.

The exact engine for CPUs (nes_jax/native/cpu) is compiled if there is a C++17 compiler, which the
environment variable CXX names or which is found as c++, g++ or clang++. Without a compiler the
package installs too, and `nes_jax.engines()` says what is missing. NES_JAX_SANITIZE=1 compiles with
AddressSanitizer and UBSan.
"""

import concurrent.futures
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys

import setuptools
from setuptools.command import build_ext

# Top-level packages.
PACKAGES = ("nes_jax", "calsheq_jax", "envs", "launch")

# Further requirements of the programs in launch/, for pictures and progress bars.
PROGRAMS = ["matplotlib>=3.8", "tqdm>=4.66"]

# Reference solvers and search methods, with which results are compared.
BASELINES = [
    "cvxpy>=1.5",
    "clarabel>=0.9",
    "ecos>=2.0.14",
    "cma>=4.0",
    # Version 2 proposes different points each time.
    "bayesian-optimization>=3.0",
]

# Console scripts, each for the program of that module in launch/.
SCRIPTS = {
    "nes-solve": "nes_solve",
    "nes-train": "nes_train",
    "nes-eval": "nes_eval",
    "nes-rate": "rate",
    "nes-design-tolls": "design_tolls",
    "nes-markov-game": "markov_game",
    "nes-region": "region",
    "market-game": "market_game",
    "market-train": "market_train",
    "calsheq-train": "calsheq_train",
    "calsheq-report": "calsheq_report",
    "calsheq-paper": "calsheq_paper",
}

# The address of the repository. `tests/test_docs.py` compares it with those in docs/ and README.md.
URL = "https://github.com/nes-calsheq-jax/nes-calsheq-jax"

# Folder of the repository.
HERE = pathlib.Path(__file__).parent
# Folder of the compiled engines.
NATIVE = pathlib.Path("nes_jax", "native")
# Flags of the libraries, one for each instruction set. `nes_jax.native` loads the best one that the
# processor can run.
CPU_LEVELS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
  CPU_LEVELS["avx2"] = ["-mavx2", "-mfma"]
  CPU_LEVELS["avx512"] = [
      "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"
  ]
# Flags of all libraries.
COMPILE = [
    "-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
    # Floating-point exceptions are not used. The order of operations stays as it is written.
    "-fno-math-errno", "-fno-trapping-math",
]
if sys.platform == "linux":
  # The C++ library is linked statically, so that the result runs on systems with an older one.
  COMPILE += ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
if os.environ.get("NES_JAX_SANITIZE"):
  COMPILE = [x for x in COMPILE if not x.startswith(("-static", "-Wl"))]
  COMPILE += ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def xla_headers() -> str | None:
  """Folder of XLA's headers in the installed jaxlib, or None if there is none."""
  found = importlib.util.find_spec("jaxlib")
  folder = found and pathlib.Path(found.origin).parent / "include"
  return str(folder) if folder and folder.exists() else None


class BuildNative(build_ext.build_ext):
  """Build step for libraries that are loaded with ctypes and do not use Python's C interface."""

  def get_ext_filename(self, fullname: str) -> str:
    """Name of a library's file, without the suffix of Python modules."""
    return os.path.join(*fullname.split(".")) + ".so"

  def build_extensions(self) -> None:
    """Compiles all libraries in parallel, or none if there is no compiler."""
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((x for x in compilers if x and shutil.which(x.split()[0])), None)
    if compiler is None:
      print("nes_jax: no C++ compiler: the native engines are left out", file=sys.stderr)
      return
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      list(pool.map(lambda extension: self.compile(compiler, extension), self.extensions))

  def compile(self, compiler: str, extension: setuptools.Extension) -> None:
    """Compiles one library. A failure is printed and does not stop the installation."""
    target = self.get_ext_fullpath(extension.name)
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{folder}" for folder in extension.include_dirs]
    command = [
        *compiler.split(), *COMPILE, *extension.extra_compile_args, *includes,
        *extension.sources, "-o", target, *extension.extra_link_args,
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
      # Errors stand between long lists of notes.
      lines = done.stderr.splitlines()
      errors = [line for line in lines if "error" in line.lower()] or lines[-20:]
      message = "\n".join(errors[:20])
      print(f"nes_jax: {extension.name} is left out: {message}", file=sys.stderr)


def native_extensions() -> list[setuptools.Extension]:
  """Libraries to compile. Without XLA's headers, the CPU engine cannot serve traced calls."""
  headers = xla_headers()
  includes = [headers] if headers else []
  cpu = [str(NATIVE / "cpu" / "api.cpp")]
  if headers:
    cpu.append(str(NATIVE / "cpu" / "ffi.cpp"))
  libraries = {f"cpu._cpu_{level}": (cpu, flags) for level, flags in CPU_LEVELS.items()}
  if headers and sys.platform == "linux":
    # The library loads those of CUDA at run time, and is not used if there are none.
    libraries["cuda._launch"] = ([str(NATIVE / "cuda" / "launch.cpp")], ["-ldl"])
  return [
      setuptools.Extension(
          f"nes_jax.native.{name}",
          sources,
          include_dirs=includes,
          # XLA's headers have warnings.
          extra_compile_args=["-w"],
          extra_link_args=flags,
          depends=sorted(map(str, NATIVE.glob("*/*.h"))),
          # The package can be installed without the library.
          optional=True,
      )
      for name, (sources, flags) in libraries.items()
  ]


setuptools.setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=native_extensions(),
    name="nes-calsheq-jax",
    version="0.1.0",
    description=(
        "Equilibria of normal-form games in bulk, and calibration of shared equilibria, in JAX"
    ),
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=URL,
    author="The nes-calsheq-jax authors",
    license="Apache-2.0",
    packages=setuptools.find_packages(
        include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]
    ),
    package_data={"": ["py.typed"], "nes_jax": ["weights/*", "native/cpu/*", "native/cuda/*"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.90",
        # Distrax needs tfp-nightly. The stable tensorflow-probability must not be installed beside
        # it, because both have the same import name.
        "distrax>=0.1.7",
        "dm-haiku>=0.0.17",
        "jax>=0.7",
        "jaxlib>=0.7",
        "numpy>=1.26",
        "optax>=0.2.5",
    ],
    extras_require={
        "programs": PROGRAMS,
        "baselines": BASELINES,
        # Solvers with which `launch.benchmark` compares.
        "peers": ["cvxpylayers>=1.2", "diffcp>=1.1", "moreau>=0.4.1", "polarix>=0.1.2"],
        # Before version 17, pygambit comes as source code on Linux and needs a C++ compiler.
        # OpenSpiel's JPSRO imports networkx, which OpenSpiel does not require.
        "interop": ["open_spiel>=1.6", "networkx>=3.0", "pygambit>=17.0.0b2"],
        "tensorboard": ["tensorboardX>=2.6"],
        # One of "cuda" and "cuda13" is enough. Drivers from version 525 on run CUDA 12, and drivers
        # from version 580 on also run CUDA 13.
        "cuda": ["jax[cuda12]>=0.7"],
        "cuda13": ["jax[cuda13]>=0.7.2"],
        "tpu": ["jax[tpu]>=0.7"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocs-jupyter>=0.26",
                 "mkdocstrings[python]>=1.0", "mkdocstrings-python>=2.0"],
        "dev": [
            *PROGRAMS,
            *BASELINES,
            "hypothesis>=6.100",
            "mypy>=1.10",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
        ],
    },
    entry_points={
        "console_scripts": [f"{name} = launch.{module}:main" for name, module in SCRIPTS.items()]
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering",
        "Typing :: Typed",
    ],
)
