"""A Griffe extension that reads docstrings and comments as this project writes them.

Three habits of the sources are not Markdown:

* Fields of dataclasses and named tuples are described by comments, `x: Array  # [B, N] meaning`, or
  by the "help" of their metadata, which --help shows as well. Either becomes the field's
  documentation.
* Equations and small tables are indented by two spaces. They become blocks of code, so that they
  keep their lines.
* Shapes such as [B, A1, ..., AN] stand in the text as they are. They become inline code.
"""

import ast
import functools
import io
import pathlib
import re
import textwrap
import tokenize

import griffe

# Titles of Google style whose indented text is left to the parser of docstrings.
_SECTIONS = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Example|Examples|Note):\s*$")
_CODE = re.compile(r"``.+?``|`[^`]*`", re.DOTALL)
# A shape, or an indexed name: [B, N], [[np, *b]], blocks[p][q].
_SHAPE = re.compile(r"[\w.]*(?:\[+[^\[\]\n`]*\]+)+(?!\()")
_LISTS = ("* ", "- ")


class Comments(griffe.Extension):
  """Turns comments of fields into docstrings, and every docstring into Markdown."""

  def on_attribute_instance(self, *, attr: griffe.Attribute, **_) -> None:
    """Documents a field by its comment or its help, unless it has a docstring."""
    if attr.docstring is None and isinstance(attr.filepath, pathlib.Path) and attr.lineno:
      text = field_comment(comments_of(attr.filepath), attr.lineno, attr.endlineno or attr.lineno)
      if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function).endswith("field"):
        given = {x.name: x.value for x in attr.value.arguments if isinstance(x, griffe.ExprKeyword)}
        text = text or field_help(given.get("metadata"))
        attr.value = given.get("default")
      if text:
        attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)

  def on_object(self, *, obj: griffe.Object, **_) -> None:
    """Rewrites the docstring of an object whose members have all been read."""
    if obj.docstring is not None:
      obj.docstring.value = markdown(obj.docstring.value)


@functools.cache
def comments_of(path: pathlib.Path) -> dict[int, tuple[int, str]]:
  """The comments of a file: line number -> the column and the text without `#`.

  A comment that stands beside code has a negative column.
  """
  found = {}
  with tokenize.open(path) as file:
    source = file.read()
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      line, column = token.start
      alone = not token.line[:column].strip()
      found[line] = (column if alone else -1, token.string.lstrip("#").strip())
  return found


def field_comment(comments: dict[int, tuple[int, str]], first: int, last: int) -> str:
  """The comment lines directly above a field, and the comment beside it, as one text.

  Args:
    comments: of the file, from `comments_of`.
    first: number of the field's first line.
    last: number of its last line.

  Returns:
    The text; empty where there is no comment.
  """
  above = []
  line = first - 1
  while line in comments and comments[line][0] >= 0:
    above.insert(0, comments[line][1])
    line -= 1
  beside = [comments[line][1] for line in range(first, last + 1) if line in comments]
  return " ".join(above + beside)


def field_help(metadata: griffe.Expr | str | None) -> str:
  """The "help" of a dataclass field's metadata; empty where there is none."""
  if not isinstance(metadata, griffe.ExprDict):
    return ""
  for key, value in zip(metadata.keys, metadata.values):
    if str(key).strip("\"'") == "help":
      try:
        return ast.literal_eval(str(value))
      except (SyntaxError, ValueError):  # made by an expression
        return ""
  return ""


def markdown(text: str) -> str:
  """Turns the text of a docstring into Markdown, but for its sections such as Args."""
  lines = textwrap.dedent(text).expandtabs().splitlines()
  result, block, in_section = [], [], False
  for line in [*lines, ""]:
    if line.startswith(" ") and not in_section:
      block.append(line)
      continue
    if block and not line:  # A blank line may be within the block.
      block.append("")
      continue
    result += _block(block) + [_inline(line)]
    block = []
    if line.strip():
      in_section = bool(_SECTIONS.match(line)) or (in_section and line.startswith(" "))
  result += _block(block)
  return "\n".join(result).rstrip()


def _block(lines: list[str]) -> list[str]:
  """An indented block: a list where it begins as one, else code."""
  while lines and not lines[-1]:
    lines = lines[:-1]
  if not lines:
    return []
  lines = textwrap.dedent("\n".join(lines)).splitlines()
  if lines[0].startswith(_LISTS):
    return ["", *map(_inline, lines), ""]
  return ["", "```text", *lines, "```", ""]


def _inline(line: str) -> str:
  """Marks shapes as code where they are not code already, and keeps asterisks as they are."""
  parts, end = [], 0
  for code in _CODE.finditer(line):
    parts += [_plain(line[end : code.start()]), code.group()]
    end = code.end()
  return "".join([*parts, _plain(line[end:])])


def _plain(text: str) -> str:
  text = _SHAPE.sub(lambda shape: f"`{shape.group()}`", text)
  pieces = text.split("`")  # Every second piece is code.
  return "`".join(
      piece if i % 2 else re.sub(r"(?<!^)\*", r"\\*", piece) for i, piece in enumerate(pieces)
  )
