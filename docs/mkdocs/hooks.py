"""Hooks of MkDocs: the build notes as a page, links to files outside docs/, links of notebooks.

Pages link to sources by relative paths, such as ../../nes_jax/types.py, which work where the
repository is browsed. On the site such a link leads to the file in the repository, at `repo_url`
of mkdocs.yml.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Files of the repository that are pages of the site as well.
PAGES = {"BUILD_NOTES.md": "build_notes.md"}
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(#[^)\s]*)?(?=\))")
_PAGE = re.compile(r'href="([^":]+)\.(?:md|ipynb)(#[^"]*)?"')


def on_files(files, config):
  """Adds the pages that lie outside docs/."""
  for source, page in PAGES.items():
    text = (ROOT / source).read_text(encoding="utf-8")
    files.append(File.generated(config, page, content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Turns links that leave docs/ into links to pages, or to the repository."""
  path = page.file.src_uri
  sources = {target: source for source, target in PAGES.items()}
  # Folder of the text in the repository, to which its links are relative.
  folder = posixpath.dirname(sources.get(path, f"docs/{path}"))

  def replace(link):
    target = posixpath.normpath(posixpath.join(folder, link.group(1)))
    anchor = link.group(2) or ""
    if target in PAGES:
      return posixpath.relpath(PAGES[target], posixpath.dirname(path) or ".") + anchor
    if target.startswith("docs/"):
      inside = target.removeprefix("docs/")
      return posixpath.relpath(inside, posixpath.dirname(path) or ".") + anchor
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{config.repo_url.rstrip('/')}/{kind}/main/{target}{anchor}"

  return _LINK.sub(replace, markdown)


def on_page_content(html, page, config, files):
  """Turns a notebook's links to pages into links of the site, which mkdocs-jupyter leaves alone."""
  if not page.file.src_uri.endswith(".ipynb"):
    return html
  return _PAGE.sub(r'href="\1.html\2"', html)
