"""Command-line flags made from the fields of dataclasses.

A dataclass of options carries the help of its fields:

  @dataclasses.dataclass(frozen=True)
  class Options:
    out: pathlib.Path = dataclasses.field(
        metadata={"help": "Directory of the run.", "metavar": "DIRECTORY"}
    )
    seed: int = dataclasses.field(default=0, metadata={"help": "Seed of the random numbers."})

A program lists sections of flags, defines them all, and builds each dataclass from its section:

  SECTIONS = (Section("The run", Options),)
  define(values, SECTIONS)
  options = build(values, SECTIONS[0])

The metadata of a field may have these keys:

  help      a full sentence
  choices   the texts that are allowed
  metavar   the name of the value in --help
  kind      a `Kind`, where the type does not say how a value is written
  repeated  True for a tuple to which each occurrence of the flag adds items

The type of a field is bool, int, float, str, pathlib.Path, a Literal of texts, a tuple of any
number of these (written with commas), a tuple of shapes (8x8,4x4x4), or one of these or None.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import re
import textwrap
import types
import typing
from typing import Any

from absl import flags as absl_flags

Values = absl_flags.FlagValues

# Longest line of --help.
_COLUMNS = 96
# Longest list of choices that --help shows in place of the value.
_LONGEST_LIST = 60
# Beginning of the text that absl gives to an alias, before the name of the flag.
_ALIAS = "Alias for --"


def field(default: Any, text: str, **metadata: Any) -> Any:
  """A field of a dataclass with its default and the metadata of its flag; `text` is the help."""
  return dataclasses.field(default=default, metadata={"help": text, **metadata})


class UsageError(ValueError):
  """A flag is wrong; the message says which, and what to do."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """The way in which values of a flag are written."""

  metavar: str  # the value's name in --help
  convert: Callable[[str], Any]  # text -> value; raises ValueError that says what is expected
  show: Callable[[Any], str] = str  # value -> text
  note: str = ""  # a sentence that --help adds


def _integer(text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise ValueError("an integer is expected") from None


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise ValueError("a number is expected") from None


def _shape(text: str) -> tuple[int, ...]:
  try:
    return tuple(int(part) for part in text.split("x"))
  except ValueError:
    raise ValueError(
        f"{text!r} is no shape: write 8x8, or 4x4x4 for three players"
    ) from None


INTEGER = Kind("INTEGER", _integer)
NUMBER = Kind("NUMBER", _number, "{:g}".format)
TEXT = Kind("TEXT", str)
PATH = Kind("PATH", pathlib.Path)
SHAPE = Kind("SHAPE", _shape, lambda shape: "x".join(map(str, shape)))

_KINDS = {int: INTEGER, float: NUMBER, str: TEXT, pathlib.Path: PATH}
_PLURALS = {INTEGER: "integers are expected", NUMBER: "numbers are expected"}


def one_of(choices: Sequence[str]) -> Kind:
  """The kind of a text that must be one of `choices`."""

  def convert(text: str) -> str:
    if text not in choices:
      raise ValueError(f"use one of {', '.join(choices)}")
    return text

  listed = "|".join(choices)
  if len(listed) <= _LONGEST_LIST:
    return Kind(listed, convert)
  return Kind("NAME", convert, note=f"One of {', '.join(choices)}.")


def several(item: Kind) -> Kind:
  """The kind of a tuple whose items are separated by commas; the empty text is the empty tuple."""

  def convert(text: str) -> tuple[Any, ...]:
    try:
      return tuple(item.convert(part.strip()) for part in text.split(",")) if text else ()
    except ValueError as error:
      raise ValueError(_PLURALS.get(item, str(error))) from None

  def show(value: Sequence[Any]) -> str:
    return ",".join(map(item.show, value))

  return Kind(f"{item.metavar},...", convert, show, item.note)


@dataclasses.dataclass(frozen=True)
class Section:
  """The flags of one subject: fields of one dataclass.

  By default every field is a flag of the same name. The mappings are from names of fields.
  """

  title: str  # the heading in --help
  source: Any  # a dataclass, or an instance, whose values are then the defaults
  only: Sequence[str] = ()  # fields that are flags; () means all
  skip: Sequence[str] = ()  # fields that are no flags
  prefix: str = ""  # precedes the names of fields that `names` does not have
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name of the flag
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)  # second name of the flag
  # Defaults that replace those of the source.
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Helps that replace those of the metadata.
  help: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Choices that replace those of the metadata.
  choices: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  # Kinds that replace those of the fields' types.
  kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    known = {field.name for field in dataclasses.fields(self.source)}
    named = {*self.only, *self.skip}.union(
        self.names, self.aliases, self.defaults, self.help, self.choices, self.kinds
    )
    if not named <= known:
      raise ValueError(
          f"section {self.title!r} names {sorted(named - known)}, which are no fields of its"
          f" dataclass; those are {sorted(known)}"
      )

  def fields(self) -> list[dataclasses.Field]:
    """The fields that are flags, in the order of the dataclass."""
    fields = dataclasses.fields(self.source)
    return [f for f in fields if f.name not in self.skip and (not self.only or f.name in self.only)]

  def flag(self, field: str) -> str:
    """The name of the flag of a field."""
    return self.names.get(field, self.prefix + field)

  def default(self, field: dataclasses.Field) -> Any:
    """The default of a field's flag; dataclasses.MISSING if a value must be given."""
    if field.name in self.defaults:
      return self.defaults[field.name]
    if not isinstance(self.source, type):
      return getattr(self.source, field.name)
    if field.default_factory is not dataclasses.MISSING:
      return field.default_factory()
    return field.default

  def kind(self, field: dataclasses.Field) -> Kind:
    """The way in which values of a field's flag are written.

    Raises:
      TypeError: the field's type is none of those that a flag can have.
    """
    if field.name in self.kinds:
      return self.kinds[field.name]
    if "kind" in field.metadata:
      return field.metadata["kind"]
    cls = self.source if isinstance(self.source, type) else type(self.source)
    choices = self.choices.get(field.name, field.metadata.get("choices", ()))
    hint = _without_none(typing.get_type_hints(cls)[field.name])
    kind = _kind_of(hint, tuple(choices))
    if kind is None:
      raise TypeError(f"{cls.__name__}.{field.name} is of type {hint}: give its flag a `kind`")
    metavar = field.metadata.get("metavar", kind.metavar)
    return dataclasses.replace(kind, metavar=metavar)


def _without_none(hint: Any) -> Any:
  """X for X | None; other types stay."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    rest = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
    return typing.Union[tuple(rest)]  # noqa: UP007
  return hint


def _kind_of(hint: Any, choices: tuple[str, ...]) -> Kind | None:
  """The kind of values of a type; None if there is none. `choices` are () where all is allowed."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
    item = SHAPE if args[0] == tuple[int, ...] else _kind_of(args[0], choices)
    return None if item is None else several(item)
  if choices:
    return one_of(choices)
  if origin is typing.Literal:
    return one_of(args)
  if origin is typing.Union and all(_kind_of(arg, ()) is not None for arg in args):
    return TEXT if str in args else None
  return _KINDS.get(hint, Kind("", str) if hint is bool else None)


class _Parser(absl_flags.ArgumentParser):
  """Parses values of a kind for absl."""

  def __init__(self, kind: Kind):
    self.kind = kind

  def parse(self, argument: Any) -> Any:
    return self.kind.convert(argument) if isinstance(argument, str) else argument

  def flag_type(self) -> str:
    return self.kind.metavar


class _Serializer(absl_flags.ArgumentSerializer):
  """Writes values of a kind for absl."""

  def __init__(self, kind: Kind):
    self.kind = kind

  def serialize(self, value: Any) -> str:
    return self.kind.show(value)


class _Repeated(absl_flags.Flag):
  """A flag whose occurrences on a command line add up to one tuple."""

  def parse(self, argument: Any) -> None:
    before: Sequence[Any] = (self.value or ()) if self.present else ()
    super().parse(argument)
    self.value = (*before, *(self.value or ()))


def define(values: Values, sections: Sequence[Section]) -> None:
  """Adds the flags of all sections to `values`.

  Raises:
    ValueError: two fields have the same flag.
    TypeError: a field has a type that no flag can have.
  """
  for section in sections:
    for field in section.fields():
      name, default = section.flag(field.name), section.default(field)
      if name in values:
        raise ValueError(f"section {section.title!r}: there is a flag --{name} already")
      default = None if default is dataclasses.MISSING else default
      text = section.help.get(field.name, field.metadata.get("help", ""))
      kind = section.kind(field)
      if kind.metavar:
        make = _Repeated if field.metadata.get("repeated") else absl_flags.Flag
        flag = make(_Parser(kind), _Serializer(kind), name, default, text)
      else:
        flag = absl_flags.BooleanFlag(name, default, text)
      flag.help = text  # absl puts words of its own in place of an empty text
      absl_flags.DEFINE_flag(flag, values, module_name=section.title)
      if field.name in section.aliases:
        alias = section.aliases[field.name]
        absl_flags.DEFINE_alias(alias, name, values, module_name=section.title)


def read(values: Values, section: Section) -> dict[str, Any]:
  """The values of a section's flags, by field.

  Raises:
    UsageError: a flag without a default is not given.
  """
  found = {}
  for field in section.fields():
    name = section.flag(field.name)
    found[field.name] = values[name].value
    if found[field.name] is None and section.default(field) is dataclasses.MISSING:
      raise UsageError(f"--{name}={section.kind(field).metavar} is needed")
  return found


def build(values: Values, section: Section, **others: Any) -> Any:
  """The dataclass of a section with the values of its flags.

  Args:
    values: parsed flags.
    section: whose source is the dataclass, or an instance; fields of the instance that are no
      flags keep their values.
    **others: further fields; they go before the flags.

  Raises:
    UsageError: a flag without a default is not given, or the dataclass refuses a value.
  """
  fields = read(values, section) | others
  try:
    if isinstance(section.source, type):
      return section.source(**fields)
    return dataclasses.replace(section.source, **fields)
  except ValueError as error:
    raise UsageError(_named(str(error), section)) from error


def _named(message: str, section: Section) -> str:
  """A dataclass's message with the flag in place of the field that it begins with."""
  field = re.match(r"(\w+)=", message)
  if field and field[1] in {field.name for field in section.fields()}:
    return f"--{section.flag(field[1])}{message[field.end(1):]}"
  return message


def at_least_one(options: Any, *fields: str) -> None:
  """Checks fields of a dataclass, for its __post_init__.

  Raises:
    ValueError: a field is below 1. `build` puts the flag in place of the field's name.
  """
  for name in fields:
    if getattr(options, name) < 1:
      raise ValueError(f"{name}={getattr(options, name)} must be at least 1")


def help_text(values: Values) -> str:
  """All flags by section, with their second names and defaults, for --help."""
  blocks = []
  for title, group in values.flags_by_module_dict().items():
    also = {}  # name of a flag -> its second name
    for flag in group:
      if flag.help.startswith(_ALIAS):
        also[flag.help.removeprefix(_ALIAS).removesuffix(".")] = flag.name
    lines = [f"{title}:"]
    for flag in group:
      if not flag.help.startswith(_ALIAS):
        lines += _described(flag, also.get(flag.name))
    blocks.append("\n".join(lines))
  return "\n\n".join(blocks)


def _described(flag: absl_flags.Flag, alias: str | None) -> list[str]:
  """The lines of one flag in --help."""
  usage = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}={flag.flag_type()}"
  also = "" if alias is None else f" (also --{alias})"
  text = flag.help
  if isinstance(flag.parser, _Parser) and flag.parser.kind.note:
    text += f" {flag.parser.kind.note}"
  if flag.boolean and flag.default is not None:
    text += f" Default: {'yes' if flag.default else 'no'}."
  elif flag.serializer is not None and flag.default not in (None, (), [], ""):
    text += f" Default: {flag.serializer.serialize(flag.default)}."
  indent = " " * 6
  return [
      f"  {usage}{also}",
      *textwrap.wrap(text, _COLUMNS, initial_indent=indent, subsequent_indent=indent),
  ]
