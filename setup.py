"""Packaging of nes_jax, calsheq_jax, envs and launch."""

import pathlib

import setuptools

PACKAGES = ("nes_jax", "calsheq_jax", "envs", "launch")

# Draws pictures and shows progress: what the programs in launch/ need beside the libraries.
PROGRAMS = ["matplotlib>=3.8", "tqdm>=4.66"]

# Reference solvers and searchers that results are compared with.
BASELINES = [
    "cvxpy>=1.5",
    "clarabel>=0.9",
    "ecos>=2.0.14",
    "cma>=4.0",
    "bayesian-optimization>=3.0",  # 2 proposes something else each time
]

setuptools.setup(
    name="nes-calsheq-jax",
    version="0.1.0",
    description=(
        "Equilibria of normal-form games in bulk, and calibration of shared equilibria, in JAX"
    ),
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The nes-calsheq-jax authors",
    license="Apache-2.0",
    packages=setuptools.find_packages(
        include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]
    ),
    package_data={"": ["py.typed"], "nes_jax": ["weights/*"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.90",
        # Needs tfp-nightly. The stable tensorflow-probability must not be installed beside it:
        # both own the same import name.
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
        # Before 17, pygambit is published as source for Linux and needs a C++ compiler.
        "interop": ["open_spiel>=1.6", "pygambit>=17.0.0b2"],
        "tensorboard": ["tensorboardX>=2.6"],
        # One of the two: drivers from 525 run CUDA 12, drivers from 580 run CUDA 13 as well.
        "cuda": ["jax[cuda12]>=0.7"],
        "cuda13": ["jax[cuda13]>=0.7.2"],
        "tpu": ["jax[tpu]>=0.7"],
        "dev": [
            *PROGRAMS,
            *BASELINES,
            "hypothesis>=6.100",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering",
        "Typing :: Typed",
    ],
)
