"""Proximal policy optimisation with clipping and an adaptive KL penalty (Schulman et al. 2017).

One learner for all: `init` makes a state, `update` learns from one batch of trajectories, whoever
played them. Agents that share a policy bring trajectories [T, b, n, ...] of `rollout.collect`; a
learner that is alone, such as one whose problem has one step, brings [T, b, ...].

  state = ppo.init(key, policy, config)
  played = rollout.collect(env, policy, state.agent, play_key, profiles)
  state, metrics = ppo.update(state, learn_key, played.trajectory, policy, config)

With trajectories of all agents in one batch, the gradient is the mean over agents of each agent's
own-reward policy gradient: (3) of Vadori et al. (2020) with advantages in place of returns. As
everywhere in PPO, the factor gamma^t on the step taken at t is left out; at discount 1 there is no
difference.

Minibatches are the same on any number of devices: consecutive episodes form groups, each group
deals out its shuffled steps evenly, so that a minibatch has as many from every group.

Glossary: B episodes of the global batch, b those of this device, T steps, n agents, M minibatches,
N = T b n steps in all; * is [b, n], or [b].
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from calsheq_jax.policy import normalised, return_scale
from calsheq_jax.rollout import keys_of
from calsheq_jax.types import Agent, Array, Moments, Params, Policy, Trajectory

# Steps in a row that are skipped when they are not finite: all. Who trains sees their count.
_SKIPPED = 2**31 - 1

# Steps that running moments remember: beyond, older ones fade.
_MEMORY = 1e6


@dataclasses.dataclass(frozen=True)
class Config:
  """How to learn."""

  learning_rate: float = 9e-4  # of Adam
  epochs: int = 4  # passes over a batch
  minibatches: int = 8  # M, of a pass
  discount: float = 1.0  # gamma, a step
  trace: float = 0.95  # lambda of GAE
  clip: float = 0.2  # of the probability ratio
  value_clip: float = 0.2  # in standard deviations of returns; inf: no clipping
  value_weight: float = 0.5
  entropy_weight: float = 0.0
  kl_weight: float = 0.2  # to start with; 0: no penalty, ever
  kl_target: float = 0.01  # nats a batch, which the weight of the penalty is adapted to
  gradient_clip: float = 0.5  # global norm
  normalise_observations: bool = True
  normalise_returns: bool = True

  def __post_init__(self):
    for field in ("epochs", "minibatches"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field}={getattr(self, field)} must be at least 1")
    for field in ("learning_rate", "clip", "value_clip", "kl_target", "gradient_clip"):
      if not getattr(self, field) > 0:
        raise ValueError(f"{field}={getattr(self, field)} must be positive")
    if self.kl_weight > 0 and self.epochs * self.minibatches == 1:
      raise ValueError(
          "kl_weight > 0 with one epoch of one minibatch: nothing has been learnt when the KL is"
          " measured; take more of them, or kl_weight=0"
      )
    for field in ("discount", "trace"):
      if not 0 <= getattr(self, field) <= 1:
        raise ValueError(f"{field}={getattr(self, field)} must lie in [0, 1]")
    for field in ("value_weight", "entropy_weight", "kl_weight"):
      if not 0 <= getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be finite and at least 0")

  def to_dict(self) -> dict[str, Any]:
    """Plain numbers, for JSON."""
    return dataclasses.asdict(self)


class State(NamedTuple):
  """All that learning changes."""

  agent: Agent
  optimiser: optax.OptState
  kl_weight: Array  # [] of the penalty
  step: Array  # [] int32, updates done


class Samples(NamedTuple):
  """Steps as a minibatch has them, [N, ...]."""

  observation: Array  # [N, O] normalised
  action: Array  # [N, A]
  log_prob: Array  # [N] of the policy that acted, as the next two
  parameters: Array  # [N, P]
  value: Array  # [N] what the network put out, which the normaliser of that time made a return
  advantage: Array  # [N] zero mean, unit variance
  target: Array  # [N] what it should put out, by the normaliser of now
  weight: Array  # [N] 0 leaves a step out


def init(key: Array, policy: Policy, config: Config) -> State:
  """Fresh parameters and empty normalisers."""
  zero, size = jnp.zeros(()), policy.observation_size
  agent = Agent(
      policy.init(key),
      observations=Moments(zero, jnp.zeros(size), jnp.ones(size)),
      returns=Moments(zero, zero, jnp.ones(())),
  )
  return from_agent(agent, config)


def from_agent(agent: Agent, config: Config) -> State:
  """A state that goes on from an agent with a fresh optimiser."""
  return State(
      agent,
      _optimiser(config).init(agent.params),
      jnp.asarray(config.kl_weight, jnp.float32),
      jnp.zeros((), jnp.int32),
  )


def _optimiser(config: Config) -> optax.GradientTransformation:
  chain = optax.chain(
      optax.clip_by_global_norm(config.gradient_clip),
      optax.adam(config.learning_rate, eps=1e-5),
  )
  return optax.apply_if_finite(chain, _SKIPPED)


# Advantages.


def advantages(
    reward: Array,
    value: Array,
    last_value: Array,
    done: Array,
    truncated: Array,
    discount: float,
    trace: float,
) -> Array:
  """Generalised advantage estimates (Schulman et al. 2016, eq. 16), a truncated end kept apart.

    delta_t = r_t + gamma (1 - terminated_t) V_{t+1} - V_t
    A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

  An episode that terminated has no value to come; one that was truncated has that of the state it
  was cut in, but no further steps.

  Args:
    reward: [T, *].
    value: [T, *] V_t; V_{t+1} of a step that ends an episode is that of the state it ended in.
    last_value: [*] V_T.
    done: [T, *] bool.
    truncated: [T, *] bool, true only where done is.
    discount: gamma.
    trace: lambda.

  Returns:
    [T, *].
  """
  following = jnp.concatenate([value[1:], last_value[None]])
  delta = reward + discount * jnp.where(done & ~truncated, 0, following) - value

  def back(after, inputs):
    delta, done = inputs
    now = delta + discount * trace * jnp.where(done, 0, after)
    return now, now

  _, result = jax.lax.scan(back, jnp.zeros_like(last_value), (delta, done), reverse=True)
  return result


# Means over the batch of all devices.


def moments(x: Array, weight: Array, axis_name: str | None = None) -> Moments:
  """Of a batch over all devices: x [*, d] or [*], weight [*] -> mean [d] or []."""
  axes = tuple(range(weight.ndim))
  spread = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))

  def total(x):
    x = jnp.sum(x, axes)
    return x if axis_name is None else jax.lax.psum(x, axis_name)

  count = total(weight)
  mean = total(x * spread) / jnp.maximum(count, 1)
  variance = total(jnp.square(x - mean) * spread) / jnp.maximum(count, 1)
  return Moments(count, mean, variance)


def merged(old: Moments, new: Moments) -> Moments:
  """The moments of both together (Chan et al. 1983); at most a million steps are remembered.

  New ones that are not finite leave the old ones as they are.
  """
  sound = jnp.isfinite(new.mean).all() & jnp.isfinite(new.variance).all()
  new = jax.tree.map(lambda x: jnp.where(sound, x, 0), new)
  count = old.count + new.count
  part = new.count / jnp.maximum(count, 1)
  shift = new.mean - old.mean
  variance = (1 - part) * old.variance + part * new.variance + part * (1 - part) * shift**2
  return Moments(jnp.minimum(count, _MEMORY), old.mean + part * shift, variance)


# Learning.


def update(
    state: State,
    key: Array,
    trajectory: Trajectory,
    policy: Policy,
    config: Config,
    learning_rate: Array | float = 1.0,
    exploration: Array | float = 1.0,
    axis_name: str | None = None,
) -> tuple[State, dict[str, Array]]:
  """Learns from one batch of episodes, played by state.agent.

  A minibatch whose loss or gradient is not finite is skipped, and counted in the optimiser's state
  (`optax.apply_if_finite`); normalisers leave out what is not finite.

  Args:
    state: from `init`, or an update before.
    key: of this update, the same on all devices.
    trajectory: [T, b, ...], this device's episodes.
    policy, config: static under jit.
    learning_rate: multiplies the config's; may be traced, so that schedules lie outside. At 0 the
      parameters stay, and normalisers go on.
    exploration: multiplies the config's entropy_weight; may be traced, too.
    axis_name: of the devices that share the batch; None: there is one.

  Returns:
    The new state, and metrics over the whole batch, [], but for what was skipped:
      loss/policy, loss/value   of the last pass
      approx_kl                 nats, exact for the states seen: KL(before || now), a mean over the
                                last pass, each minibatch before its own step
      kl_weight                 of the penalty, as this update used it
      clip_frac                 part of the steps whose ratio was clipped, last pass
      entropy                   nats, last pass
      gradient_norm             before clipping, last pass
      explained_variance        of returns by the values that the critic gave before
      first_ratio               largest |ratio - 1| on the first minibatch: 0 but for rounding

  Raises:
    ValueError: the episodes do not divide into groups (`check_batch`).
  """
  agent = state.agent
  to_value = lambda agent, x: (x - agent.returns.mean) / return_scale(agent)
  raw = advantages(
      trajectory.reward,
      trajectory.value,
      trajectory.last_value,
      trajectory.done,
      trajectory.truncated,
      config.discount,
      config.trace,
  )
  weight = trajectory.weight
  returns = raw + trajectory.value
  seen = moments(returns, weight, axis_name)
  left = moments(raw, weight, axis_name)
  # Squares about zero: a critic that is off by a constant explains less.
  unexplained = left.variance + left.mean**2
  if config.normalise_returns:
    agent = agent._replace(returns=merged(agent.returns, seen))
  samples = Samples(
      observation=normalised(agent, trajectory.observation),
      action=trajectory.action,
      log_prob=trajectory.log_prob,
      parameters=trajectory.parameters,
      value=to_value(state.agent, trajectory.value),
      advantage=(raw - left.mean) * jax.lax.rsqrt(left.variance + 1e-8),
      target=to_value(agent, returns),
      weight=weight,
  )
  samples = jax.lax.stop_gradient(samples)
  groups = _grouped(samples, config.minibatches)
  optimiser = _optimiser(config)

  def minibatch(carry, samples):
    params, optimiser_state = carry
    (loss, report), gradient = jax.value_and_grad(_loss, has_aux=True)(
        params, samples, policy, config, state.kl_weight, exploration, axis_name
    )
    if axis_name is not None:
      largest = jax.lax.pmax(report["first_ratio"], axis_name)
      loss, gradient, report = jax.lax.pmean((loss, gradient, report), axis_name)
      report["first_ratio"] = largest
    report["gradient_norm"] = optax.global_norm(gradient)
    gradient = jax.tree.map(lambda x: jnp.where(jnp.isfinite(loss), x, jnp.nan), gradient)
    step, optimiser_state = optimiser.update(gradient, optimiser_state, params)
    step = jax.tree.map(lambda x: learning_rate * x, step)
    report = jax.tree.map(lambda x: jnp.where(optimiser_state.last_finite, x, jnp.nan), report)
    return (optax.apply_updates(params, step), optimiser_state), report

  def epoch(carry, index):
    shuffle_key = jax.random.fold_in(key, index)
    dealt = _dealt(shuffle_key, groups, config.minibatches, axis_name)
    return jax.lax.scan(minibatch, carry, dealt)

  (params, optimiser_state), reports = jax.lax.scan(
      epoch, (agent.params, state.optimiser), jnp.arange(config.epochs)
  )
  metrics = {name: jnp.nanmean(x[-1]) for name, x in reports.items()}
  metrics["first_ratio"] = reports["first_ratio"][0, 0]
  metrics["explained_variance"] = 1 - unexplained / jnp.maximum(seen.variance, 1e-12)
  metrics["kl_weight"] = state.kl_weight
  agent = agent._replace(params=params)
  if config.normalise_observations:
    # After learning: the policy that acted saw with the old ones.
    flat = moments(trajectory.observation, weight, axis_name)
    agent = agent._replace(observations=merged(agent.observations, flat))
  kl_weight = adapted(state.kl_weight, metrics["approx_kl"], config.kl_target)
  return State(agent, optimiser_state, kl_weight, state.step + 1), metrics


def adapted(weight: Array, kl: Array, target: float) -> Array:
  """The next weight of the KL penalty (Schulman et al. 2017, section 4); 0 stays 0."""
  factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
  # Bounds from which it comes back within a few updates.
  return jnp.where(weight > 0, jnp.clip(weight * factor, 1e-4, 1e3), 0.0)


def _loss(
    params: Params,
    samples: Samples,
    policy: Policy,
    config: Config,
    kl_weight: Array,
    exploration: Array | float = 1.0,
    axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
  """This device's part of the loss: the mean over devices of these is that of the minibatch."""
  parameters, value = policy.apply(params, samples.observation)
  new, old = policy.distribution(parameters), policy.distribution(samples.parameters)
  total = jnp.sum(samples.weight)
  if axis_name is not None:
    total = jax.lax.pmean(total, axis_name)
  mean = lambda x: jnp.sum(samples.weight * x) / jnp.maximum(total, 1)

  ratio = jnp.exp(new.log_prob(samples.action) - samples.log_prob)
  clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
  gain = mean(jnp.minimum(ratio * samples.advantage, clipped * samples.advantage))
  near = samples.value + jnp.clip(value - samples.value, -config.value_clip, config.value_clip)
  error = jnp.maximum((value - samples.target) ** 2, (near - samples.target) ** 2)
  value_loss = 0.5 * mean(error)
  kl = mean(old.kl_divergence(new))
  entropy = mean(new.entropy())
  loss = (
      -gain
      + config.value_weight * value_loss
      + kl_weight * kl
      - exploration * config.entropy_weight * entropy
  )
  report = {
      "loss/policy": -gain,
      "loss/value": value_loss,
      "approx_kl": kl,
      "clip_frac": mean((jnp.abs(ratio - 1) > config.clip).astype(ratio.dtype)),
      "entropy": entropy,
      "first_ratio": jnp.max(jnp.abs(ratio - 1) * samples.weight),
  }
  return loss, report


# Minibatches.


def group_size(steps: int, minibatches: int) -> int:
  """How many consecutive episodes form a group: as few as deal out evenly to M minibatches.

  Args:
    steps: of an episode and all its agents, T n.
    minibatches: M.
  """
  return minibatches // math.gcd(steps, minibatches)


def check_batch(steps: int, episodes: int, minibatches: int) -> None:
  """Raises ValueError if a device's episodes do not divide into groups.

  Args:
    steps: of an episode and all its agents, T n.
    episodes: b.
    minibatches: M.
  """
  size = group_size(steps, minibatches)
  if episodes % size:
    raise ValueError(
        f"{episodes} episodes of {steps} steps on a device do not deal out to {minibatches}"
        f" minibatches: give a multiple of {size} episodes a device, or fewer minibatches"
    )


def _grouped(samples: Samples, minibatches: int) -> Samples:
  """[T, b, ...] -> [G, S, ...]: G groups of S steps."""
  shape = samples.weight.shape
  steps, episodes = math.prod(shape) // shape[1], shape[1]
  check_batch(steps, episodes, minibatches)
  size = group_size(steps, minibatches)

  def group(x):
    x = jnp.swapaxes(x, 0, 1)  # [b, T, ...]
    return x.reshape((episodes // size, size * steps) + x.shape[len(shape):])

  return jax.tree.map(group, samples)


def _dealt(key: Array, groups: Samples, minibatches: int, axis_name: str | None) -> Samples:
  """Shuffles within groups and deals out: [G, S, ...] -> [M, N / M, ...]."""
  count, size = groups.weight.shape
  keys = keys_of(key, count, axis_name)
  order = jax.vmap(lambda k: jax.random.permutation(k, size))(keys)  # [G, S]

  def deal(x):
    x = jax.vmap(lambda rows, order: rows[order])(x, order)
    x = x.reshape((count, minibatches, size // minibatches) + x.shape[2:])
    return jnp.swapaxes(x, 0, 1).reshape((minibatches, -1) + x.shape[3:])

  return jax.tree.map(deal, groups)
