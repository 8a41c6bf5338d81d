"""Derivatives of equilibria in payoffs, against central differences, and what they compile."""

import functools

import jax
import jax.numpy as jnp
from native_answers import slow
import numpy as np
import pytest

import nes_jax
from nes_jax import Selection
from nes_jax.native import cpu

native = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))

# Games of a batch.
GAMES = 32
# Residual to which the games of differences are solved.
FINE = 1e-11
# Step of the differences. Games are away from ties if an eighth of it gives the same slope.
STEP = 1e-5
# Largest relative difference of the slopes of both steps.
SMOOTH = 1e-4
# Largest relative errors of derivatives.
TOLERANCE = 1e-5
TOLERANCE_FLOAT32 = 1e-2
MEDIAN_FLOAT32 = 1e-3


class Setting:
  """Random games of a shape, a direction of each game, and weights of their joints."""

  def __init__(self, shape, games=GAMES, seed=0):
    rng = np.random.default_rng(seed)
    self.payoffs = rng.normal(size=(games, len(shape)) + shape)
    self.direction = rng.normal(size=self.payoffs.shape)
    self.weights = rng.normal(size=shape)
    self.target = rng.dirichlet(np.ones(self.weights.size)).reshape(shape)
    self.welfare = rng.normal(size=shape)

  def selection(self, name):
    return {
        "max_entropy": "max_entropy",
        "target": Selection(target=self.target),
        "welfare": Selection(welfare=self.welfare, welfare_weight=3.0),
        "max_welfare": "max_welfare",
        "epsilon": Selection(epsilon=0.1, rho=100.0),
        "max_strength": "max_strength",
    }[name]

  def values(self, payoffs, concept, name, **options):
    """Sums of the joints times the weights, [B]."""
    solution = nes_jax.solve(
        payoffs, concept=concept, selection=self.selection(name), batched=True, **options
    )
    return (solution.joint * self.weights).reshape(len(payoffs), -1).sum(1)

  def slopes(self, concept, name, dtype):
    """Directional derivatives of the values, by reverse mode, [B]."""
    gradient = jax.grad(lambda x: self.values(x, concept, name).sum())(
        jnp.asarray(self.payoffs, dtype)
    )
    assert gradient.dtype == dtype
    products = np.asarray(gradient, np.float64) * self.direction
    return products.reshape(len(products), -1).sum(1)

  def differences(self, concept, name, step=STEP, **options):
    """Central differences of the values, [B]."""
    ahead, behind = (
        np.asarray(
            self.values(
                self.payoffs + h * self.direction, concept, name, tolerance=FINE, **options
            )
        )
        for h in (step, -step)
    )
    return (ahead - behind) / (2 * step)

  def smooth(self, concept, name, **options):
    """Differences, [B], and which games are away from ties, [B]: at least nine of ten."""
    found = self.differences(concept, name, **options)
    finer = self.differences(concept, name, step=STEP / 8, **options)
    smooth = relative(finer, found) <= SMOOTH
    assert smooth.mean() >= 0.9
    assert np.abs(found).max() > 0.1, "no influence: the test tests nothing"
    return found, smooth


def relative(found, expected):
  return np.abs(found - expected) / (1 + np.abs(expected))


SELECTIONS = ("max_entropy", "target", "welfare", "max_welfare", "epsilon", "max_strength")
# Each case compiles two programs, so that most of them are slow together.
QUICK = (("ce", "max_entropy"), ("cce", "max_welfare"))
CASES = [(concept, name) for concept in ("cce", "ce") for name in SELECTIONS]


@native
@pytest.mark.parametrize(
    "concept, name", [case if case in QUICK else slow(*case) for case in CASES]
)
def test_slopes_are_central_differences(x64, concept, name):
  setting = Setting((4, 4))
  expected, smooth = setting.smooth(concept, name)
  errors = relative(setting.slopes(concept, name, jnp.float64), expected)
  assert errors[smooth].max() <= TOLERANCE
  errors = relative(setting.slopes(concept, name, jnp.float32), expected)
  assert errors[smooth].max() <= TOLERANCE_FLOAT32
  assert np.median(errors) <= MEDIAN_FLOAT32


@native
@pytest.mark.parametrize("name", [slow("max_entropy"), slow("epsilon")])
def test_slopes_with_three_players(x64, name):
  setting = Setting((3, 2, 3), games=16)
  expected, smooth = setting.smooth("cce", name)
  errors = relative(setting.slopes("cce", name, jnp.float64), expected)
  assert errors[smooth].max() <= TOLERANCE
  errors = relative(setting.slopes("cce", name, jnp.float32), expected)
  assert errors[smooth].max() <= TOLERANCE_FLOAT32


@pytest.mark.slow
def test_slopes_of_correlated_equilibria_of_three_players(x64):
  """The JAX engine solves these games, whatever the machine."""
  setting = Setting((2, 2, 2), games=16)
  expected, smooth = setting.smooth("ce", "max_entropy")
  errors = relative(setting.slopes("ce", "max_entropy", jnp.float64), expected)
  assert errors[smooth].max() <= TOLERANCE


@native
@pytest.mark.parametrize("concept", ["cce", slow("ce")])
def test_second_derivatives(x64, concept):
  """Forward over reverse mode, against differences of the gradient."""
  setting = Setting((3, 3), games=4)

  def value(payoffs):
    return (setting.values(payoffs, concept, "welfare", tolerance=FINE) ** 2).sum()

  gradient = jax.jit(jax.grad(value))
  payoffs, direction = jnp.asarray(setting.payoffs), jnp.asarray(setting.direction)
  _, found = jax.jit(lambda x: jax.jvp(jax.grad(value), (x,), (direction,)))(payoffs)
  step = 1e-5
  ahead, behind = (gradient(payoffs + h * direction) for h in (step, -step))
  expected = (ahead - behind) / (2 * step)
  assert np.abs(expected).max() > 0.1, "no influence: the test tests nothing"
  assert relative(np.asarray(found), np.asarray(expected)).max() <= 1e-5


@functools.cache
def compiled():
  """A list that names each program that XLA compiles in this process from the first call on."""
  events = []

  def listen(event, duration, **_):
    if "backend_compile" in event:
      events.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  return events


def compilations(run):
  """The number of programs that XLA compiles while `run` runs."""
  before = len(compiled())
  run()
  return len(compiled()) - before


@native
@pytest.mark.parametrize("kind", ["anew", slow("named")])
def test_eager_gradients_compile_once(kind):
  """Also if the selection, the function, and the arrays are new at each call."""
  rng = np.random.default_rng(1)
  weights = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)

  def step():
    games = jnp.asarray(rng.normal(size=(5, 2, 3, 4)), jnp.float32)
    selection = "max_entropy"
    if kind == "anew":
      welfare = rng.normal(size=(3, 4)).astype(np.float32)
      selection = Selection(welfare=welfare, welfare_weight=rng.uniform(1, 3))

    def loss(games):
      return (nes_jax.solve(games, selection=selection).joint * weights).sum()

    return jax.block_until_ready(jax.grad(loss)(games))

  assert compilations(step) > 0
  assert compilations(step) == 0
