"""Rules of the whole repository: which package may import which, and how long code may be."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("nes_jax", "calsheq_jax", "envs", "launch")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Programs for users, which no module imports.
PROGRAMS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if path.parent in (ROOT / "launch", ROOT / "launch" / "checks")
    and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
]

LONGEST_FILE = 450
LONGEST_FUNCTION = 60
# Files that are longer, each with its reason.
LONG_FILES: dict[str, str] = {}
# Functions that are longer, "FILE:NAME", each with its reason.
LONG_FUNCTIONS: dict[str, str] = {}


def module_of(path):
  """The name of a file's module, and that of its package."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ".".join(parts[:-1])


def imports_of(path):
  """The names of all modules that a file may import, within functions too."""
  _, package = module_of(path)
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        outer = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*outer, base] if base else outer)
      yield base
      yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name, package):
  return name == package or name.startswith(f"{package}.")


# Packages -> packages that they may not import.
FORBIDDEN = {
    "nes_jax": ("envs", "calsheq_jax", "launch", "absl"),
    "envs": ("nes_jax", "calsheq_jax", "launch", "absl"),
    "calsheq_jax": ("launch", "absl"),
    "launch.runtime": ("envs", "calsheq_jax"),
    "launch": tuple(PROGRAMS),
}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
  found = [
      f"{module} imports {name}"
      for path in FILES
      for module in [module_of(path)[0]]
      if within(module, package)
      for name in imports_of(path)
      if any(within(name, other) for other in FORBIDDEN[package])
  ]
  assert not found


def test_the_programs_are_found():
  assert {"launch.nes_train", "launch.nes_solve", "launch.calsheq_train"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", ["launch.nes_train", "launch.nes_solve"])
def test_programs_of_the_networks_need_no_optional_package(program):
  """Packages of extras, and of the other half of the repository, may be missing."""
  hidden = ("distrax", "matplotlib", "tensorboardX", "tqdm", "cvxpy", "ecos", "pyspiel")
  code = f"import sys\nfor name in {hidden}: sys.modules[name] = None\nimport {program}"
  result = subprocess.run(
      [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr


def lengths_of_functions(path):
  """("FILE:NAME", lines of code) of every function, without docstring, comments and blank lines."""
  source = path.read_text(encoding="utf-8")
  lines = source.splitlines()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      kept = set(range(node.lineno, node.end_lineno + 1))
      if ast.get_docstring(node) is not None:
        kept -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
      code = [lines[k - 1].strip() for k in kept]
      length = sum(bool(line) and not line.startswith("#") for line in code)
      yield f"{path.relative_to(ROOT)}:{node.name}", length


def test_no_file_is_long():
  lengths = {
      str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
      for path in [*FILES, *TESTS]
  }
  long = {name: length for name, length in lengths.items() if length > LONGEST_FILE}
  assert long.keys() == LONG_FILES.keys(), long


def test_no_function_is_long():
  long = {}
  for path in [*FILES, *TESTS]:
    for name, length in lengths_of_functions(path):
      if length > LONGEST_FUNCTION:
        long[name] = length
  assert long.keys() == LONG_FUNCTIONS.keys(), long
