"""Training of tabular learners: all seeds and all steps in one compiled program.

Glossary: K seeds, T points of the curves, N players.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.markov.learners import Learner, State
from nes_jax.solving import checks, engines
from nes_jax.types import Array


class Environment(Protocol):
  """Functions of a game with numbered states and actions, for one episode. It is hashable."""

  def reset(self, key: Array) -> Any:
    """Begins an episode: random key -> state, a pytree of arrays."""

  def step(self, key: Array, state: Any, action: Array) -> tuple[Any, Array, Array, Array]:
    """Lets all players act.

    Args:
      key: random key.
      state: the state before the step.
      action: int32 [N].

    Returns:
      State; reward [N]; ended [] bool, nothing follows; cut [] bool, the episode stops although the
      state that it has reached still has a value.
    """

  def index(self, state: Any) -> Array:
    """The number of a state, [] int, from 0 to the learner's number of states less one."""


class Curves(NamedTuple):
  """Course of the training of K learners, as NumPy arrays."""

  steps: np.ndarray  # [T] steps that each learner has done
  scores: np.ndarray  # [K, T, N] mean undiscounted return of the episodes that ended since; or NaN
  episodes: np.ndarray  # [K, T] number of these episodes
  values: np.ndarray  # [K, T, N] learnt values of the state in which the first episode began


def train(
    learner: Learner,
    environment: Environment,
    seeds: Any,
    steps: int,
    *,
    points: int = 100,
    exploration: Callable[[Array], Array] | None = None,
) -> tuple[State, Curves]:
  """Trains a learner from several seeds at once.

  Episodes follow one another; one that has ended or was cut begins again. All seeds learn side by
  side, so that a step is one call of the solver for all of them. Everything is computed in float64,
  whether or not JAX's x64 mode is on.

  Args:
    learner: `CorrelatedQ` or `MinimaxQ`.
    environment: functions `reset`, `step` and `index`; its `num_states` and `num_actions`, if it
      has them, must be those of the learner.
    seeds: integers [K], or one integer for one seed.
    steps: number of steps of each seed, a multiple of `points`.
    points: number of points of the curves, T.
    exploration: a traceable function from the share of the steps that are done, 0 to 1, to the
      probability of exploring. None: that of the learner.

  Returns:
    The learners' states, NumPy arrays with an axis [K] in front, and curves.

  Raises:
    ValueError: an argument is wrong.
  """
  if not isinstance(learner, Learner):
    raise ValueError(f"learner must be a CorrelatedQ or a MinimaxQ, not {type(learner).__name__}")
  for name, number in (("steps", steps), ("points", points)):
    checks.check_integer(name, number, 1)
  if steps % points:
    raise ValueError(f"steps={steps} must be a multiple of points={points}")
  numbers = np.atleast_1d(np.asarray(seeds))
  if numbers.ndim > 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
    raise ValueError(f"seeds must be one integer or a list of some, not {seeds!r}")
  promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
  with engines.precision(np.float64), promotion[0], promotion[1]:
    _check(learner, environment)
    answer = _train(numbers.astype(np.uint32), learner, environment, steps, points, exploration)
    state, curves = jax.tree.map(np.asarray, answer)
  return state, Curves(np.arange(1, points + 1) * (steps // points), *curves)


def _check(learner: Learner, environment: Environment) -> None:
  """Raises ValueError if an environment has another size than the learner, or other shapes."""
  states = getattr(environment, "num_states", learner.num_states)
  actions = tuple(getattr(environment, "num_actions", learner.num_actions))

  def once(key):
    state = environment.reset(key)
    action = jnp.zeros(learner.num_players, jnp.int32)
    return environment.index(state), environment.step(key, state, action)[1:]

  index, (reward, ended, cut) = jax.eval_shape(once, jax.random.key(0))
  shapes = index.shape, reward.shape, ended.shape, cut.shape
  if shapes != ((), (learner.num_players,), (), ()):
    raise ValueError(
        f"the environment must give an index [], a reward [{learner.num_players}], ended [] and"
        f" cut [], not shapes {[list(shape) for shape in shapes]}"
    )
  if (states, actions) != (learner.num_states, learner.num_actions):
    raise ValueError(
        f"the environment has {states} states and actions {actions}, the learner"
        f" {learner.num_states} and {learner.num_actions}"
    )


class _Carry(NamedTuple):
  """The numbers that one learner hands from step to step."""

  learner: State
  environment: Any
  earned: Array  # [N] in the present episode
  total: Array  # [N] returns of the episodes that ended since the last point
  episodes: Array  # [] number of these


@functools.partial(
    jax.jit, static_argnames=("learner", "environment", "steps", "points", "exploration")
)
def _train(seeds, learner, environment, steps, points, exploration):
  """The compiled program of `train`: seeds [K] -> states, (scores, episodes, values)."""
  dtype = jnp.float64
  keys = jax.vmap(jax.random.key)(seeds)
  begun = jax.vmap(environment.reset)(keys)
  first = jax.vmap(environment.index)(begun)

  def one(carry: _Carry, key, share) -> _Carry:
    acting, stepping, beginning = jax.random.split(key, 3)
    at = environment.index(carry.environment)
    wanted = None if exploration is None else exploration(share)
    action = learner.act(carry.learner, at, acting, wanted)
    following, reward, ended, cut = environment.step(stepping, carry.environment, action)
    reward = reward.astype(dtype)
    state = learner.update(
        carry.learner, at, action, reward, environment.index(following), ended
    )
    over = ended | cut
    again = environment.reset(beginning)
    earned = carry.earned + reward
    return _Carry(
        learner=state,
        environment=jax.tree.map(lambda x, y: jnp.where(over, x, y), again, following),
        earned=jnp.where(over, 0, earned),
        total=carry.total + jnp.where(over, earned, 0),
        episodes=carry.episodes + over,
    )

  def step(carry, number):
    share = number / steps
    drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    return jax.vmap(one, (0, 0, None))(carry, drawn, share), None

  def point(carry, number):
    count = len(seeds)
    zeros = jnp.zeros((count, learner.num_players), dtype)
    carry = carry._replace(total=zeros, episodes=jnp.zeros(count, jnp.int32))
    length = steps // points
    carry, _ = jax.lax.scan(step, carry, number * length + jnp.arange(length))
    scores = jnp.where(
        carry.episodes[:, None] > 0,
        carry.total / jnp.maximum(carry.episodes, 1)[:, None],
        jnp.nan,
    )
    values = jax.vmap(lambda x, k: x[k])(carry.learner.values, first)
    return carry, (scores, carry.episodes, values)

  count = len(seeds)
  blank = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), learner.init())
  zeros = jnp.zeros((count, learner.num_players), dtype)
  carry = _Carry(blank, begun, zeros, zeros, jnp.zeros(count, jnp.int32))
  carry, curves = jax.lax.scan(point, carry, jnp.arange(points))
  return carry.learner, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), curves)
