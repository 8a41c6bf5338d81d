"""README, build notes and docs/: lengths, links, addresses, examples, commands, notebooks."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "BUILD_NOTES.md", *sorted(DOCS.rglob("*.md"))]
# Pages whose examples are run, each page in one process.
EXAMPLES = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"python3? -m (launch[\w.]*)((?:\s+--?[^\s\"&|`]+)*)")
_FLAG = re.compile(r"--([a-z][\w]*)")


def name(path):
  return str(path.relative_to(ROOT))


def text_of(path):
  """The Markdown of a page, or of the cells of a notebook."""
  text = path.read_text(encoding="utf-8")
  if path.suffix == ".ipynb":
    cells = json.loads(text)["cells"]
    text = "\n\n".join("".join(x["source"]) for x in cells if x["cell_type"] == "markdown")
  return text


def code_of(path):
  """The Python of a page's examples, or of a notebook's cells, in order."""
  if path.suffix == ".ipynb":
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(x["source"]) for x in cells if x["cell_type"] == "code"]
  return [body for _, kind, body in _FENCE.findall(text_of(path)) if kind == "python"]


def anchors(path):
  """Anchors of a page's headings, as GitHub makes them."""
  prose = _FENCE.sub("", text_of(path))
  headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(code, tmp_path, timeout=900):
  """Runs Python in a process of its own, away from the checkout's outputs."""
  script = tmp_path / "example.py"
  script.write_text("\n\n".join(code), encoding="utf-8")
  environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(
      [sys.executable, str(script)], cwd=tmp_path, env=environment, timeout=timeout,
      capture_output=True, text=True,
  )
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  return done.stdout


# Text.


def test_readme_is_short():
  assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=name)
def test_links_resolve(path):
  for link in _LINK.findall(_FENCE.sub("", text_of(path))):
    if re.match(r"[a-z]+:", link):
      continue
    target, _, anchor = link.partition("#")
    there = (path.parent / target).resolve() if target else path
    assert there.exists(), f"{name(path)}: {link}"
    assert ROOT in there.parents, f"{name(path)}: {link} leaves the repository"
    if anchor:
      assert anchor in anchors(there), f"{name(path)}: no heading #{anchor} in {name(there)}"


def test_every_page_is_linked_from_the_site():
  site = (DOCS / "mkdocs" / "mkdocs.yml").read_text(encoding="utf-8")
  for path in (*DOCS.rglob("*.md"), *NOTEBOOKS):
    assert str(path.relative_to(DOCS)) in site


def test_pictures_are_small_and_used():
  used = "".join(map(text_of, PAGES))
  pictures = list((DOCS / "images").iterdir())
  assert pictures
  for picture in pictures:
    assert picture.stat().st_size < 200_000, name(picture)
    assert f"images/{picture.name}" in used, name(picture)


def test_addresses_are_those_of_setup():
  setup = (ROOT / "setup.py").read_text(encoding="utf-8")
  repository = re.search(r'^URL = "https://github.com/([\w.-]+/[\w.-]+)"$', setup, re.MULTILINE)[1]
  found = 0
  for path in (ROOT / "README.md", DOCS / "mkdocs" / "mkdocs.yml", *NOTEBOOKS):
    addresses = re.findall(
        r"(?:colab\.research\.google\.com/github|repo_url: https://github\.com|git\+https://github\.com)"
        r"/([\w.-]+/[\w.-]+)",
        path.read_text(encoding="utf-8"),
    )
    assert addresses and set(addresses) == {repository}, name(path)
    found += len(addresses)
  assert found >= 2 + 2 * len(NOTEBOOKS)


# Commands.


def commands():
  """(page, module, flags) of every command in pages, notebooks left out."""
  found = []
  for path in PAGES:
    text = text_of(path).replace("\\\n", " ")
    for module, flags in _COMMAND.findall(text):
      found.append((name(path), module, tuple(_FLAG.findall(flags))))
  return found


@functools.cache
def flags_of(module):
  """Names of the flags that a program's --help lists."""
  done = subprocess.run(
      [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=300,
  )
  listed = re.findall(r"^ +(?:-\w,)?--(\[no\])?(\w+)(?:[:=]|$)", done.stdout, re.MULTILINE)
  names = {flag for _, flag in listed} | {f"no{flag}" for no, flag in listed if no}
  assert names, f"{module} --help: {done.stdout[-500:]}{done.stderr[-1000:]}"
  return names | {"help"}


def test_programs_named_in_pages_exist():
  found = commands()
  assert len(found) > 20
  for page, module, _ in found:
    assert importlib.util.find_spec(module) is not None, f"{page}: {module}"


@pytest.mark.slow
def test_flags_named_in_pages_exist():
  for page, module, flags in commands():
    assert set(flags) <= flags_of(module), f"{page}: {module} {set(flags) - flags_of(module)}"
  programs = {module for _, module, _ in commands()}
  known = set().union(*map(flags_of, programs))
  for path in PAGES:
    prose = _FENCE.sub("", text_of(path))
    for code in re.findall(r"`(--[^`]+)`", prose):
      assert set(_FLAG.findall(code)) <= known, f"{name(path)}: {code}"


def test_console_scripts_have_programs():
  setup = (ROOT / "setup.py").read_text(encoding="utf-8")
  block = re.search(r"SCRIPTS = \{(.*?)\}", setup, re.DOTALL)[1]
  scripts = dict(re.findall(r'"([\w-]+)": "(\w+)"', block))
  guide = (DOCS / "guides" / "command_line.md").read_text(encoding="utf-8")
  assert scripts
  for script, module in scripts.items():
    source = (ROOT / "launch" / f"{module}.py").read_text(encoding="utf-8")
    assert re.search(r"^def main\(", source, re.MULTILINE), module
    assert f"| `python -m launch.{module}` | `{script}` |" in guide, script


# Examples.


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_run(path, tmp_path):
  run(code_of(path), tmp_path)


def test_readme_has_three_examples():
  assert len(code_of(ROOT / "README.md")) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_are_stored_without_outputs(path):
  notebook = json.loads(path.read_text(encoding="utf-8"))
  cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
  assert "find_spec" in "".join(cells[0]["source"])  # the first cell installs the package on Colab
  assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_run(path, tmp_path):
  assert run(code_of(path), tmp_path)


# The site, where what builds it is installed.


@functools.cache
def docstrings():
  pytest.importorskip("griffe")
  spec = importlib.util.spec_from_file_location("docstrings", DOCS / "mkdocs" / "docstrings.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_comments_of_fields(tmp_path):
  source = tmp_path / "source.py"
  source.write_text("class A:\n  # above\n  # it\n  x: int  # [B] beside it\n  y: int = 1\n")
  comments = docstrings().comments_of(source)
  assert docstrings().field_comment(comments, 4, 4) == "above it [B] beside it"
  assert docstrings().field_comment(comments, 5, 5) == ""


def test_help_of_fields():
  module = docstrings()
  import griffe

  source = """
import dataclasses
class A:
  x: int = dataclasses.field(default=1, metadata={"unit": "m", "help": "Number" " of x."})
"""
  with griffe.temporary_visited_module(source) as found:
    metadata = next(x for x in found["A.x"].value.arguments if x.name == "metadata")
    assert module.field_help(metadata.value) == "Number of x."
  assert module.field_help(None) == ""


def test_docstrings_become_markdown():
  text = "It is\n\n  a = b * c\n\nof [B, *b] and x[p][q].\n\nArgs:\n  x: [B] sizes."
  block = "\n\n```text\na = b * c\n```\n\n"
  expected = f"It is\n{block}of `[B, *b]` and `x[p][q]`.\n\nArgs:\n  x: `[B]` sizes."
  assert docstrings().markdown(text) == expected


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
  for package in ("mkdocs", "mkdocstrings", "mkdocs_jupyter", "material"):
    pytest.importorskip(package)
  done = subprocess.run(
      [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file",
       "docs/mkdocs/mkdocs.yml", "--site-dir", str(tmp_path)],
      cwd=ROOT, capture_output=True, text=True, timeout=600,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  page = (tmp_path / "api" / "nes_jax.html").read_text(encoding="utf-8")
  assert "sum over players of the largest gain above epsilon" in page
