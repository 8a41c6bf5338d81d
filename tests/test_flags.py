"""launch.runtime.flags: from dataclasses to flags and back, messages, and --help."""

import dataclasses
import importlib
import math
import pathlib
import re
from typing import Literal

import pytest

from launch.runtime import flags, program
from launch.runtime.flags import Section, UsageError

PROGRAMS = (
    "benchmark", "calsheq_report", "calsheq_train", "demo", "market_train", "nes_eval", "nes_solve",
    "nes_train", "checks.census", "checks.fuzz", "checks.gpu_report", "checks.survival",
)


@dataclasses.dataclass(frozen=True)
class Options:
  """One field of every type that a flag can have."""

  out: pathlib.Path = dataclasses.field(
      metadata={"help": "Directory of the run.", "metavar": "DIRECTORY"}
  )
  kind: str = dataclasses.field(
      default="adam", metadata={"help": "Optimiser of the run.", "choices": ("adam", "muon")}
  )
  concept: Literal["cce", "ce"] = dataclasses.field(
      default="cce", metadata={"help": "Concept of the equilibrium."}
  )
  norm: Literal["l1", "l2"] | str = dataclasses.field(
      default="l2", metadata={"help": "Norm of the sphere."}
  )
  updates: int = dataclasses.field(default=10, metadata={"help": "Number of updates."})
  rate: float = dataclasses.field(default=4e-4, metadata={"help": "Learning rate."})
  limit: float | None = dataclasses.field(default=None, metadata={"help": "Highest loss."})
  pictures: bool = dataclasses.field(default=True, metadata={"help": "Draw pictures."})
  batched: bool | None = dataclasses.field(default=None, metadata={"help": "Read a batch axis."})
  sizes: tuple[int, ...] = dataclasses.field(default=(4, 4), metadata={"help": "Sizes of layers."})
  shapes: tuple[tuple[int, ...], ...] = dataclasses.field(
      default=((8, 8),), metadata={"help": "Shapes of games."}
  )
  only: tuple[str, ...] = dataclasses.field(
      default=(), metadata={"help": "Parts of the work.", "choices": ("a", "b"), "repeated": True}
  )
  inner: dict = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    flags.at_least_one(self, "updates")
    if not self.rate > 0:
      raise ValueError(f"rate={self.rate} must be positive")


SECTION = Section("Options", Options, skip=("inner",))


def parsed(*argv, section=SECTION):
  return program.parse(["program", *argv], [section])


def built(*argv, section=SECTION):
  return flags.build(parsed(*argv, section=section), section)


def test_defaults_are_those_of_the_dataclass():
  assert built("--out=x") == Options(pathlib.Path("x"))


def test_values_have_the_types_of_the_fields():
  options = built(
      "--out=a/b", "--kind=muon", "--concept=ce", "--norm=linf", "--updates=3", "--rate=inf",
      "--limit=1e3", "--nopictures", "--batched", "--sizes=1,2,3", "--shapes=4x4x4, 2x3",
      "--only=a",
  )
  assert options == Options(
      pathlib.Path("a/b"), "muon", "ce", "linf", 3, math.inf, 1000.0, False, True, (1, 2, 3),
      ((4, 4, 4), (2, 3)), ("a",),
  )
  assert type(options.updates) is int and type(options.limit) is float


def test_the_last_flag_counts_unless_occurrences_add_up():
  options = built("--out=x", "--sizes=1", "--sizes=2", "--only=a", "--only=b,a", "--shapes=")
  assert (options.sizes, options.only, options.shapes) == ((2,), ("a", "b", "a"), ())


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--updates=many", "--updates=many: an integer is expected"),
        ("--rate=", "--rate=: a number is expected"),
        ("--kind=sgd", "--kind=sgd: use one of adam, muon"),
        ("--concept=nash", "--concept=nash: use one of cce, ce"),
        ("--sizes=1,x", "--sizes=1,x: integers are expected"),
        ("--shapes=3by3", "--shapes=3by3: '3by3' is no shape: write 8x8"),
        ("--only=c", "--only=c: use one of a, b"),
        ("--pictures=perhaps", "--pictures=perhaps"),
        ("--unknown=1", "unknown"),
        ("--updates=0", "--updates=0 must be at least 1"),
        ("--rate=-1", "--rate=-1.0 must be positive"),
        ("--out", "--out"),
        ("more", "unexpected argument 'more'"),
    ],
)
def test_wrong_values_name_the_flag(flag, message):
  with pytest.raises(UsageError, match=re.escape(message)):
    built("--out=x", flag)


def test_a_field_without_a_default_must_be_given():
  with pytest.raises(UsageError, match="--out=DIRECTORY is needed"):
    built()
  assert flags.read(parsed("--out=x"), SECTION)["out"] == pathlib.Path("x")


def test_names_prefixes_aliases_and_other_defaults():
  section = Section(
      "Learner", Options(pathlib.Path("kept"), rate=2.0), only=("updates", "rate", "limit"),
      prefix="shared_", names={"rate": "speed"}, aliases={"limit": "bend"}, defaults={"updates": 7},
  )
  values = parsed("--bend=5", section=section)
  assert {"shared_updates", "speed", "shared_limit", "bend"} <= set(values)
  assert "rate" not in values and "shared_kind" not in values
  options = flags.build(values, section, kind="muon")
  assert options == Options(pathlib.Path("kept"), "muon", updates=7, rate=2.0, limit=5.0)
  assert flags.build(parsed("--shared_limit=6", section=section), section).limit == 6
  with pytest.raises(UsageError, match="--speed=-1.0 must be positive"):
    flags.build(parsed("--speed=-1", section=section), section)


def test_help_and_choices_and_kinds_of_a_section_come_before_those_of_the_field():
  section = Section(
      "Other", Options, only=("kind", "norm", "inner"), help={"kind": "Something else."},
      choices={"norm": ("l1", "l2")}, kinds={"inner": flags.SHAPE}, defaults={"inner": (2, 2)},
  )
  values = parsed("--inner=3x4", section=section)
  assert values.inner == (3, 4) and "Something else. Default: adam." in flags.help_text(values)
  with pytest.raises(UsageError, match="--norm=linf: use one of l1, l2"):
    parsed("--norm=linf", section=section)


def test_mistakes_of_a_section_are_named():
  with pytest.raises(ValueError, match=r"'Wrong' names \['rates'\]"):
    Section("Wrong", Options, names={"rates": "x"})
  with pytest.raises(ValueError, match="'Options': there is a flag --out already"):
    flags.define(flags.Values(), [SECTION, SECTION])
  with pytest.raises(TypeError, match="Options.inner is of type .*dict"):
    flags.define(flags.Values(), [Section("All", Options)])


def test_help_text():
  section = dataclasses.replace(SECTION, aliases={"limit": "bend"})
  text = flags.help_text(parsed("--out=x", "--limit=3", section=section))
  assert text.index("Options:") < text.index("Several hosts:") < text.index("Help:")
  for part in (
      "  --out=DIRECTORY\n      Directory of the run.\n",
      "  --kind=adam|muon\n      Optimiser of the run. Default: adam.\n",
      "  --rate=NUMBER\n      Learning rate. Default: 0.0004.\n",
      "  --limit=NUMBER (also --bend)\n      Highest loss.\n",
      "  --[no]pictures\n      Draw pictures. Default: yes.\n",
      "  --[no]batched\n      Read a batch axis.\n",
      "  --sizes=INTEGER,...\n      Sizes of layers. Default: 4,4.\n",
      "  --shapes=SHAPE,...\n      Shapes of games. Default: 8x8.\n",
      "  --only=a|b,...\n      Parts of the work.\n",
  ):
    assert part in text
  assert "Alias" not in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_every_flag_is_a_sentence(name):
  values = vars(importlib.import_module(f"launch.{name}")).values()
  lists = [value if isinstance(value, tuple) else (value,) for value in values]
  sections = [one for many in lists for one in many if isinstance(one, Section)]
  assert sections
  wrong = []
  for section in [*sections, program.HOSTS]:
    for field in section.fields():
      text = section.help.get(field.name, field.metadata.get("help", ""))
      if not re.fullmatch(r"[A-Z].*[.]", text, re.DOTALL):
        wrong.append(f"--{section.flag(field.name)}: {text!r}")
  assert not wrong
