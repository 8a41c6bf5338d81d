"""launch.runtime.checkpoint: exact round trips, damage, trees that differ, and old files."""

import math
from typing import NamedTuple
import warnings

import haiku as hk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from launch.runtime import checkpoint
from launch.runtime.checkpoint import CheckpointError

SETTINGS = settings(max_examples=25, deadline=None)
OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


class TrainState(NamedTuple):
  params: hk.Params
  opt_state: optax.OptState
  key: jax.Array
  step: int


def _network(x):
  return hk.nets.MLP([4, 1], name="torso")(x)


NETWORK = hk.without_apply_rng(hk.transform(_network))


def init(seed=0):
  key = jax.random.key(seed)
  params = NETWORK.init(key, jnp.zeros(3))
  return TrainState(params, OPTIMISER.init(params), key, 0)


@jax.jit
def _update(params, opt_state, key):
  key, data_key = jax.random.split(key)
  x = jax.random.normal(data_key, (8, 3))
  grads = jax.grad(lambda p: jnp.mean((NETWORK.apply(p, x) - x.sum(1, keepdims=True)) ** 2))(params)
  updates, opt_state = OPTIMISER.update(grads, opt_state)
  return optax.apply_updates(params, updates), opt_state, key


def update(state):
  return TrainState(*_update(state.params, state.opt_state, state.key), state.step + 1)


def assert_same(a, b):
  """Checks that two trees have equal structures, types, dtypes and bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      assert jax.random.key_impl(x) == jax.random.key_impl(y)
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    elif not hasattr(x, "dtype"):
      assert type(x) is type(y)
      if type(x) is not float:
        assert x == y
        continue
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype.name, x.shape) == (y.dtype.name, y.shape)
    native = x.dtype.newbyteorder("=")
    assert x.astype(native).tobytes() == y.astype(native).tobytes()


def abstract(tree):
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x, tree
  )


def truncate(path, size):
  path.write_bytes(path.read_bytes()[:size])


def steps(directory):
  return sorted(checkpoint.load_metadata(path)["step"] for path in directory.glob("*.npz"))


# Round trips.


def test_continuing_is_bit_equal_to_not_stopping(tmp_path):
  state = init()
  for _ in range(3):
    state = update(state)
  path = checkpoint.save(tmp_path, state, step=state.step, config={"lr": 1e-2}, metric=0.5)
  for _ in range(3):
    state = update(state)
  resumed = checkpoint.restore(path, init(seed=1))
  assert resumed.step == 3
  assert checkpoint.load_metadata(path) == {
      "format": checkpoint.FORMAT, "step": 3, "config": {"lr": 1e-2}, "metric": 0.5
  }
  for _ in range(3):
    resumed = update(resumed)
  assert_same(resumed, state)


def test_arrays_come_back_as_writable_numpy_and_an_abstract_tree_is_enough(tmp_path):
  state = init()
  restored = checkpoint.restore(checkpoint.save(tmp_path, state, step=0), abstract(state))
  assert_same(restored, state)
  for leaf in jax.tree.leaves(restored.params):
    assert isinstance(leaf, np.ndarray) and leaf.flags.writeable


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint32", "float16", "float32", "bfloat16", "float8_e4m3fn", "int4",
     "complex64"],
)
def test_dtypes_of_jax(tmp_path, dtype):
  values = jnp.array([[0, 1, 1], [1, 0, 1]], dtype)
  state = {"matrix": values, "scalar": values[0, 1], "none": values[:0]}
  assert_same(checkpoint.restore(checkpoint.save(tmp_path, state, step=0), state), state)


def test_wide_and_foreign_ordered_numpy_arrays(tmp_path):
  state = [
      np.array([1e300, -0.0, math.nan]), np.arange(3, dtype=">i8"), np.asfortranarray(np.eye(3, 2)),
      np.float32(0.1),
  ]
  restored = checkpoint.restore(checkpoint.save(tmp_path, state, step=0), state)
  assert_same(restored, state)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_draw_the_same_numbers(tmp_path, impl):
  state = {"one": jax.random.key(7, impl=impl),
           "many": jax.random.split(jax.random.key(1, impl=impl), 3)}
  path = checkpoint.save(tmp_path, state, step=0)
  for like in (state, abstract(state)):
    restored = checkpoint.restore(path, like)
    assert_same(restored, state)
    np.testing.assert_array_equal(
        jax.random.normal(restored["one"], 4), jax.random.normal(state["one"], 4)
    )
  other = "rbg" if impl == "threefry2x32" else "threefry2x32"
  with pytest.raises(CheckpointError, match="'one'"):
    checkpoint.restore(path, state | {"one": jax.random.key(7, impl=other)})


def test_python_values(tmp_path):
  state = {"step": 3 * 10**12, "huge": 10**40, "lr": -0.0, "nan": math.nan, "on": True, "id": "é\0"}
  path = checkpoint.save(tmp_path, state, step=0)
  like = {"step": 0, "huge": 0, "lr": 0.0, "nan": 0.0, "on": False, "id": ""}
  assert_same(checkpoint.restore(path, like), state)


ARRAYS = st.one_of(
    hnp.arrays(
        st.sampled_from(["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    hnp.arrays("u2", hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)).map(
        lambda x: x.view(jnp.bfloat16)
    ),
)
LEAVES = st.one_of(ARRAYS, st.integers(), st.floats(width=64), st.booleans(), st.text(max_size=3))
# Trees with any names, with None and with empty nodes.
TREES = st.recursive(
    st.one_of(LEAVES, st.none()),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), children, max_size=3),
        st.tuples(children, children).map(lambda pair: optax.ScaleByAdamState(7, *pair)),
    ),
    max_leaves=6,
)


@SETTINGS
@given(state=TREES)
def test_any_tree_comes_back(tmp_path_factory, state):
  path = checkpoint.save(tmp_path_factory.mktemp("tree"), state, step=0)
  assert_same(checkpoint.restore(path, state), state)


# States of another structure.


def test_errors_name_the_first_leaf_that_differs(tmp_path):
  state = {"a": jnp.zeros(2), "b": {"w": jnp.zeros((2, 3))}, "n": 1, "z": jnp.zeros(1)}
  path = checkpoint.save(tmp_path, state, step=0)

  def message(**changes):
    with pytest.raises(CheckpointError) as raised:
      checkpoint.restore(path, {k: v for k, v in (state | changes).items() if v is not None})
    assert str(path) in str(raised.value)
    return str(raised.value)

  assert "leaf \"['b']['w']\" has the shape [2, 3], and [3, 2]" in message(
      b={"w": jnp.zeros((3, 2))}
  )
  assert "leaf \"['a']\" has the dtype float32, and bfloat16" in message(
      a=jnp.zeros(2, jnp.bfloat16), z=np.zeros(9)
  )
  assert "leaf \"['c']\" is missing" in message(c=1)
  assert "leaf \"['a']\" is there and not expected" in message(a=None, z=None)
  assert "leaf \"['n']\" has the kind int, and array" in message(n=jnp.zeros(()))


def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path):
  for leaf in (object(), np.array(["text"]), np.array([None]), 1j):
    with pytest.raises(TypeError, match="'x'"):
      checkpoint.save(tmp_path, {"x": leaf}, step=0)
  with pytest.raises(TypeError):
    checkpoint.save(tmp_path, {}, step=0, config={"x": object()})
  with pytest.raises(ValueError, match="-1"):
    checkpoint.save(tmp_path, {}, step=-1)
  with pytest.raises(ValueError, match="keep = 0"):
    checkpoint.save(tmp_path, {}, step=0, keep=0)
  assert not list(tmp_path.iterdir())


# Damaged files.


def test_latest_passes_over_a_file_cut_short(tmp_path):
  first = checkpoint.save(tmp_path, init(), step=1)
  second = checkpoint.save(tmp_path, init(), step=2)
  assert checkpoint.latest(tmp_path) == second
  truncate(second, second.stat().st_size // 2)
  with pytest.warns(UserWarning, match=second.name):
    assert checkpoint.latest(tmp_path) == first
  truncate(first, 0)
  with pytest.warns(UserWarning):
    assert checkpoint.latest(tmp_path) is None


def test_latest_compares_checksums(tmp_path):
  state = {"w": np.arange(1000.0)}
  first = checkpoint.save(tmp_path, state, step=1)
  second = checkpoint.save(tmp_path, state, step=2)
  data = bytearray(second.read_bytes())
  data[data.index(state["w"][500:510].tobytes())] ^= 1
  second.write_bytes(data)
  with pytest.raises(CheckpointError, match="damaged"):
    checkpoint.restore(second, state)
  with pytest.warns(UserWarning, match="w|checksum"):
    assert checkpoint.latest(tmp_path) == first


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  state = {"w": np.arange(6.0), "n": 3}
  directory = tmp_path_factory.mktemp("small")
  return state, checkpoint.save(directory, state, step=4).read_bytes(), directory / "damaged.npz"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_raises_one_error_or_does_no_harm(small, data):
  state, content, path = small
  position = data.draw(st.integers(0, len(content) - 1))
  if data.draw(st.booleans()):
    damaged = content[:position]
  else:
    flipped = content[position] ^ data.draw(st.integers(1, 255))
    damaged = content[:position] + bytes([flipped]) + content[position + 1 :]
  path.write_bytes(damaged)
  try:
    restored = checkpoint.restore(path, state)
    assert len(damaged) == len(content)
  except CheckpointError:
    return
  assert_same(restored, state)


def test_foreign_files(tmp_path):
  name = tmp_path / "checkpoint-000000000009.npz"
  np.savez(tmp_path / "weights.npz", w=np.zeros(3))
  pickled = tmp_path / "pickled.npz"
  np.savez(pickled, metadata=np.array([{}], object), schema=np.array("[]"))
  for content in (b"", b"text", (tmp_path / "weights.npz").read_bytes(), pickled.read_bytes()):
    name.write_bytes(content)
    for read in (checkpoint.load_metadata, lambda path: checkpoint.restore(path, {})):
      with pytest.raises(CheckpointError, match="not a checkpoint"):
        read(name)
  with pytest.raises(FileNotFoundError):
    checkpoint.restore(tmp_path / "missing.npz", {})


def test_a_later_format_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, "FORMAT", 99)
  path = checkpoint.save(tmp_path, {}, step=0)
  monkeypatch.undo()
  with pytest.raises(CheckpointError, match="format 99"):
    checkpoint.restore(path, {})


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
  path = checkpoint.save(tmp_path, {"w": np.zeros(3)}, step=1)
  before = path.read_bytes()

  def fail(file, **arrays):
    file.write(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(np, "savez", fail)
  with pytest.raises(OSError, match="disk full"):
    checkpoint.save(tmp_path, {"w": np.ones(3)}, step=1)
  assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


def test_leftovers_of_a_killed_run_are_swept_and_other_files_stay(tmp_path):
  (tmp_path / ".checkpoint-000000000001.npz.0a.tmp").write_bytes(b"half")
  others = [tmp_path / name for name in ("metrics.csv", "checkpoint-12.npz", "best.npz")]
  for other in others:
    other.write_bytes(b"x")
  for step in range(4):
    checkpoint.save(tmp_path, {}, step=step, keep=1)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"checkpoint-000000000003.npz", *(other.name for other in others)}


# Checkpoints that are kept.


def test_no_directory_and_no_metric(tmp_path):
  assert checkpoint.latest(tmp_path / "none") is None and checkpoint.best(tmp_path / "none") is None
  checkpoint.save(tmp_path / "a" / "b", {}, step=1)
  checkpoint.save(tmp_path / "a" / "b", {}, step=2, metric=math.nan)
  assert checkpoint.best(tmp_path / "a" / "b") is None


def test_going_back_never_deletes_what_was_just_written(tmp_path):
  for step in (100, 200, 300):
    checkpoint.save(tmp_path, {}, step=step, keep=2)
  path = checkpoint.save(tmp_path, {}, step=150, keep=2)
  assert path.exists() and steps(tmp_path) == [150, 200, 300]


METRICS = st.one_of(
    st.none(), st.just(math.nan), st.sampled_from([0.0, 0.5, 1.0]), st.floats(allow_nan=False)
)


@SETTINGS
@given(
    saves=st.lists(st.tuples(st.integers(1, 10**9), METRICS), min_size=1, max_size=8),
    keep=st.integers(1, 3),
)
def test_the_last_and_the_best_survive(tmp_path_factory, saves, keep):
  directory = tmp_path_factory.mktemp("kept")
  step, history = 0, []
  for more, metric in saves:
    step += more
    checkpoint.save(directory, {"step": step}, step=step, metric=metric, keep=keep)
    history.append((step, metric))
    measured = [(m, s) for s, m in history if m is not None and not math.isnan(m)]
    best = min(measured)[1] if measured else None
    expected = {s for s, _ in history[-keep:]} | ({best} if measured else set())
    assert steps(directory) == sorted(expected)
    found = checkpoint.best(directory)
    assert (found and checkpoint.load_metadata(found)["step"]) == best
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      assert checkpoint.restore(checkpoint.latest(directory), {"step": 0}) == {"step": step}
