"""The network: input channels, initialisation, training and inference passes.

Glossary: B games, N players, Ap strategies of player p, |A| joint strategies, C channels. Problems
here carry a leading batch axis on every array, e.g. payoffs [B, N, A1, ..., AN].
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nes_jax import deviation, dual, exact, invariance
from nes_jax.network import newton, rounds, stack
from nes_jax.network.config import Config
from nes_jax.selection import LARGE_WELFARE_WEIGHT
from nes_jax.types import Array, Concept, Duals, Problem

# Number of payoffs that go through the network at a time on a CPU (`infer`).
CPU_ENTRIES = 2**15

# Own-centred payoffs below this many ulps are rounding noise, where payoffs have unit variance.
_CONSTANT_ULPS = 8


class Variables(NamedTuple):
  """Arrays that `apply` needs beside the configuration."""

  params: hk.Params
  state: hk.State  # batch moments for inference; empty unless norm is "batch"


class Answer(NamedTuple):
  """The network's answer for each game."""

  duals: Duals  # of the problem, per player [B, Ap] (CCE) or [B, Ap, Ap] (CE)
  log_joint: Array  # [B, A1, ..., AN] logarithm of the joint


class Features(NamedTuple):
  """Input channels, and the way back to the problem's units."""

  values: Array  # [B, N, A1, ..., AN, C]
  scale: Array  # [B, N] factors that make the network's duals those of the problem


def features(problem: Problem, config: Config) -> Features:
  """Preprocessing: payoffs first, then the channels of `config.inputs` (section 4.1, appendix B).

  Every channel is of order one. With centre="own" the payoffs' mean over own strategies is
  subtracted, which no deviation gain contains, and what is left is brought back to norm sqrt(|A|)
  for each player. That divides payoffs and epsilon by the norm lost, and so multiplies the duals.

  The welfare's channel grows with the logarithm of mu = omega / tau, the weight that the paper
  gives to the welfare.
  """
  payoffs = problem.payoffs
  shape = payoffs.shape  # (B, N, A1, ..., AN)
  size = math.prod(shape[2:])
  axes = tuple(range(2, payoffs.ndim))
  scale = jnp.ones(shape[:2], payoffs.dtype)
  # Problems with hard constraints are not on the sphere (`selection.problem`).
  if config.centre == "own" or math.isinf(problem.rho):
    if config.centre == "own":
      payoffs = jax.vmap(deviation.centre_own)(payoffs)
    else:
      payoffs = payoffs - payoffs.mean(axes, keepdims=True)
    scale, varies = _to_unit_variance(payoffs)
    payoffs = jnp.where(_fit(varies, payoffs), payoffs * _fit(scale, payoffs), 0)
  mu = problem.welfare_weight / problem.temperature
  channels = [payoffs]
  for name in config.inputs:
    if name == "target":
      # Eqs. (16d) and (17): unit variance where the target is a flat Dirichlet's.
      z = size * math.sqrt((size + 1) / max(size - 1, 1))
      values = (z * (problem.target - 1 / size))[:, None]
    elif name == "epsilon":
      values = _fit(problem.epsilon * scale / invariance.radius(size), payoffs)
    else:
      strength = jnp.log1p(mu) / math.log1p(LARGE_WELFARE_WEIGHT)
      values = _fit(strength, problem.welfare)[:, None] * problem.welfare[:, None]
    channels.append(jnp.broadcast_to(values, shape))
  scale = scale * _typical_dual(shape[2:], config.concept)
  return Features(jnp.stack(channels, axis=-1).astype(jnp.float32), scale)


def _to_unit_variance(centred: Array) -> tuple[Array, Array]:
  """Factors [B, N] that bring centred payoffs of each player to unit variance.

  Payoffs that are rounding noise have the factor 1, and False in the second array [B, N].
  """
  square = jnp.mean(centred**2, tuple(range(2, centred.ndim)))
  varies = square > (_CONSTANT_ULPS * jnp.finfo(centred.dtype).eps) ** 2
  return jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, square, 1)), 1), varies


def _typical_dual(counts: tuple[int, ...], concept: Concept) -> Array:
  """Size of a player's larger duals on uniform games, up to a constant: [N].

  Gains against uniform play are of order 1 / sqrt(R), R = |A| / Ap, and the duals with them. Those
  of a CE weigh gains on the 1 / Ap of the time that a strategy is recommended.
  """
  size = math.prod(counts)
  return jnp.array([
      math.sqrt(count / size) * (count if concept == "ce" else 1) for count in counts
  ])


def _fit(x, like):
  """[B, N] -> [B, N, 1, ..., 1], or [B] -> [B, 1, ..., 1]."""
  return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


@functools.cache
def _network(config: Config) -> hk.TransformedWithState:
  """Transformed network: `Features` and the problem -> `stack.Stack.answer`."""

  def forward(inputs: Features, problem: Problem, is_training: bool, axis_name: str | None):
    return stack.Stack(config, *inputs, problem, is_training, axis_name).answer()

  return hk.transform_with_state(forward)


def init(key: Array, config: Config, problem: Problem) -> Variables:
  """Parameters and state, from a batch of problems like those to be solved.

  Args:
    key: PRNG key.
    config: configuration of the network.
    problem: arrays with a leading batch axis; its moments set the scale of the weights and are
      the state, so a few dozen games or more.
  """
  inputs = features(problem, config)
  return Variables(*_network(config).init(key, inputs, problem, True, None))


def apply(
    variables: Variables,
    config: Config,
    problem: Problem,
    *,
    is_training: bool = False,
    axis_name: str | None = None,
) -> tuple[Answer, hk.State]:
  """The network's answers to a batch of problems.

  Args:
    variables: from `init`; games of any shape may use the same ones.
    config: configuration of the network; static under jit.
    problem: arrays with a leading batch axis.
    is_training: normalise by this batch's moments, which are the new state; the state given does
      not matter then, and may be empty.
    axis_name: mapped axis over which the moments of a training batch are averaged, or None.

  Returns:
    The answers, and the new state.
  """
  inputs = features(problem, config)
  (blocks, logits), state = _network(config).apply(
      variables.params, variables.state, None, inputs, problem, is_training, axis_name
  )
  return _answer(rounds.in_units(blocks, inputs.scale), logits, problem, config), state


def _answer(duals: Duals, logits: Array | None, problem: Problem, config: Config) -> Answer:
  """The answer of given logits, or of the duals' own, eq. (8)."""
  if logits is None:
    logits = jax.vmap(lambda x, y: dual.logits(x, y, config.concept))(problem, duals)
  axes = tuple(range(1, logits.ndim))
  return Answer(duals, jax.nn.log_softmax(jnp.log(problem.target) + logits, axis=axes))


def infer(
    variables: Variables, config: Config, problem: Problem, *, entries: int | None = CPU_ENTRIES
) -> Answer:
  """Inference: `apply`, and the Newton steps if there are any.

  They are those of `newton.descend` for a network that answers with duals, and the first steps of
  the exact engine for one that answers with a joint, too.

  A chunk of the batch goes at a time, so that memory stays small. On a CPU activations then stay in
  its caches, which is up to twice as fast. An accelerator wants the whole batch at once, as far as
  it has the memory: entries=None.

  Args:
    variables: from `init`.
    config: configuration of the network.
    problem: arrays with a leading batch axis.
    entries: payoffs (N times |A| a game) in a chunk at most, if that is not less than a game.

  Returns:
    The answers, as from `apply`.
  """
  batch, game = problem.payoffs.shape[0], math.prod(problem.payoffs.shape[1:])
  chunks = 1 if entries is None else -(-batch // max(entries // game, 1))

  def answer(problem: Problem) -> Answer:
    found, _ = apply(variables, config, problem)
    if not config.newton:
      return found
    if config.answer == "duals":
      # Barriers are set for payoffs of unit variance. Problems with hard constraints have others.
      payoffs = problem.payoffs
      axes = tuple(range(2, payoffs.ndim))
      scale, _ = _to_unit_variance(payoffs - payoffs.mean(axes, keepdims=True))
      sphere = dataclasses.replace(
          problem, payoffs=payoffs * _fit(scale, payoffs), epsilon=problem.epsilon * scale
      )
      duals = rounds.in_units(found.duals, 1 / scale)
      duals = newton.descend(duals, sphere, config.concept, config.newton)
      return _answer(rounds.in_units(duals, scale), None, problem, config)
    joint, dtype = jnp.exp(found.log_joint), problem.payoffs.dtype
    engine = exact.Config.default(
        config.concept, dtype, problem.rho, max_iterations=config.newton
    )
    start = jax.tree.map(lambda x: x.astype(dtype), exact.Start(found.duals, joint))
    near = exact.solve(problem, engine, config.concept, start, batch_axis=0)
    return Answer(near.duals, jnp.log(near.joint))

  if chunks <= 1:
    return answer(problem)
  size = -(-batch // chunks)

  def split(x):  # [B, ...] -> [chunks, size, ...]; the last game fills up the last chunk
    filled = jnp.pad(x, [(0, chunks * size - batch)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return filled.reshape((chunks, size) + x.shape[1:])

  answers = jax.lax.map(answer, jax.tree_util.tree_map(split, problem))
  return jax.tree.map(lambda x: x.reshape((chunks * size,) + x.shape[2:])[:batch], answers)


def num_parameters(params: hk.Params) -> int:
  """Number of trainable scalars."""
  return sum(math.prod(x.shape) for x in jax.tree_util.tree_leaves(params))
