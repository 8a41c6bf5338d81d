"""Proximal policy optimisation with clipping and an adaptive KL penalty (Schulman et al. 2017).

`init` makes a state, and `update` learns from one batch of trajectories, whoever played them.
Agents that share a policy bring trajectories [T, b, n, ...] from `rollout.collect`. A learner that
is alone, such as one whose problem has one step, brings [T, b, ...].

  state = ppo.init(key, policy, config)
  played = rollout.collect(env, policy, state.agent, play_key, profiles)
  state, metrics = ppo.update(state, learn_key, played.trajectory, policy, config)

With trajectories of all agents in one batch, the gradient is the mean over agents of each agent's
own-reward policy gradient: (3) of Vadori et al. (2020) with advantages in place of returns. As
everywhere in PPO, the factor gamma^t on the step taken at t is left out; at discount 1 there is no
difference.

Glossary: B episodes of the global batch, b episodes of this device, T steps, n agents, N steps of a
minibatch; * is [b, n], or [b].
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from calsheq_jax.minibatches import group_episodes, shuffle_into_minibatches
from calsheq_jax.moments import update_moments, weighted_moments
from calsheq_jax.policy import normalised, return_scale
from calsheq_jax.types import Agent, Array, Moments, Params, Policy, Trajectory

# Number of steps in a row that the optimiser may skip because they are not finite. It is the
# largest integer, so that the optimiser never gives up; whoever trains reads the count and decides.
_SKIPPED = 2**31 - 1

# Bounds of the KL penalty's weight, from which the adaptation comes back within a few updates.
_KL_WEIGHTS = (1e-4, 1e3)


# Former names of settings, in older checkpoints, and their names of today.
FORMER_NAMES = {"trace": "gae_lambda"}


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings of the learning algorithm."""

  learning_rate: float = dataclasses.field(
      default=9e-4, metadata={"help": "Learning rate of the Adam optimiser."}
  )
  epochs: int = dataclasses.field(
      default=4, metadata={"help": "Number of passes over each batch of episodes."}
  )
  minibatches: int = dataclasses.field(
      default=8, metadata={"help": "Number of minibatches, and of optimiser steps, in one pass."}
  )
  discount: float = dataclasses.field(
      default=1.0, metadata={"help": "Discount factor gamma for each step, between 0 and 1."}
  )
  gae_lambda: float = dataclasses.field(
      default=0.95,
      metadata={"help": "Lambda of generalised advantage estimation, between 0 and 1."},
  )
  clip: float = dataclasses.field(
      default=0.2,
      metadata={"help": "Distance from 1 at which the probability ratio is clipped."},
  )
  value_clip: float = dataclasses.field(
      default=0.2,
      metadata={
          "help": "Distance at which a change of the value estimate is clipped, in standard"
          " deviations of the returns; inf switches this off."
      },
  )
  value_weight: float = dataclasses.field(
      default=0.5, metadata={"help": "Weight of the value loss in the total loss."}
  )
  entropy_weight: float = dataclasses.field(
      default=0.0, metadata={"help": "Weight of the policy's entropy, in nats, as a bonus."}
  )
  kl_weight: float = dataclasses.field(
      default=0.2,
      metadata={
          "help": "Weight of the KL penalty at the start, which is adapted after every update;"
          " 0 switches the penalty off."
      },
  )
  kl_target: float = dataclasses.field(
      default=0.01,
      metadata={
          "help": "Mean KL divergence of an update, in nats, to which the weight of the KL penalty"
          " is adapted."
      },
  )
  gradient_clip: float = dataclasses.field(
      default=0.5, metadata={"help": "Global norm to which gradients are clipped."}
  )
  normalise_observations: bool = dataclasses.field(
      default=True,
      metadata={"help": "Normalise observations by their running mean and variance."},
  )
  normalise_returns: bool = dataclasses.field(
      default=True,
      metadata={"help": "Normalise returns by their running mean and variance."},
  )

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
    for field in ("discount", "gae_lambda"):
      if not 0 <= getattr(self, field) <= 1:
        raise ValueError(f"{field}={getattr(self, field)} must lie in [0, 1]")
    for field in ("value_weight", "entropy_weight", "kl_weight"):
      if not 0 <= getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be finite and at least 0")

  def to_dict(self) -> dict[str, Any]:
    """The fields as plain numbers, for JSON."""
    return dataclasses.asdict(self)


class State(NamedTuple):
  """Everything that learning changes."""

  agent: Agent
  optimiser: optax.OptState
  kl_weight: Array  # [] present weight of the KL penalty
  step: Array  # [] int32, number of updates done


class Samples(NamedTuple):
  """The steps of a batch or a minibatch, [N, ...]."""

  observation: Array  # [N, O] normalised observation
  action: Array  # [N, A]
  log_prob: Array  # [N] log-probability of the action under the policy that acted
  parameters: Array  # [N, P] distribution parameters of the policy that acted
  value: Array  # [N] output of the value head that acted, in normalised units of that time
  advantage: Array  # [N] advantages with zero mean and unit variance
  target: Array  # [N] what the value head should put out, in the present normalised units
  weight: Array  # [N] a weight of 0 leaves the step out


def init(key: Array, policy: Policy, config: Config) -> State:
  """Makes a state with fresh parameters and empty normalisers."""
  zero, size = jnp.zeros(()), policy.observation_size
  agent = Agent(
      policy.init(key),
      observations=Moments(zero, jnp.zeros(size), jnp.ones(size)),
      returns=Moments(zero, zero, jnp.ones(())),
  )
  return from_agent(agent, config)


def from_agent(agent: Agent, config: Config) -> State:
  """Makes a state that continues from an agent with a fresh optimiser."""
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
    gae_lambda: float,
) -> Array:
  """Generalised advantage estimates (Schulman et al. 2016, eq. 16), a truncated end kept apart.

    delta_t = r_t + gamma (1 - terminated_t) V_{t+1} - V_t
    A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

  An episode that terminated has no value to come. One that was truncated has the value of the state
  in which it was cut, but no further steps.

  Args:
    reward: [T, *].
    value: [T, *] V_t; V_{t+1} of a step that ends an episode belongs to the state it ended in.
    last_value: [*] V_T.
    done: [T, *] bool.
    truncated: [T, *] bool, true only where done is.
    discount: gamma.
    gae_lambda: lambda.

  Returns:
    Advantages A_t, [T, *].
  """
  following = jnp.concatenate([value[1:], last_value[None]])
  delta = reward + discount * jnp.where(done & ~truncated, 0, following) - value

  def back(after, inputs):
    delta, done = inputs
    now = delta + discount * gae_lambda * jnp.where(done, 0, after)
    return now, now

  _, result = jax.lax.scan(back, jnp.zeros_like(last_value), (delta, done), reverse=True)
  return result


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
  (`optax.apply_if_finite`). Normalisers leave out moments that are not finite.

  Args:
    state: the result of `init`, or of the update before.
    key: random key of this update, the same on all devices.
    trajectory: [T, b, ...], this device's episodes.
    policy, config: static under jit.
    learning_rate: factor on config.learning_rate; it may be traced, so that schedules lie outside.
      At 0 the parameters stay, while the normalisers still learn.
    exploration: factor on config.entropy_weight; it may be traced, too.
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    The new state, and metrics [] over the whole batch, without the minibatches that were skipped:
      loss/policy, loss/value   losses of the last pass
      approx_kl                 KL(before || now) in nats, exact for the states seen; a mean over
                                the last pass, each minibatch measured before its own step
      kl_weight                 weight of the KL penalty in this update
      clip_frac                 part of the steps whose ratio was clipped in the last pass
      entropy                   entropy in nats in the last pass
      gradient_norm             norm of the gradient before clipping, in the last pass
      explained_variance        part of the returns' variance that the critic's values explained
                                before this update
      first_ratio               largest |ratio - 1| on the first minibatch, 0 up to rounding

  Raises:
    ValueError: the episodes do not divide into groups (`minibatches.check_batch`).
  """
  weight = trajectory.weight
  agent, samples, explained_variance = _prepare(state.agent, trajectory, config, axis_name)
  groups = group_episodes(samples, weight.shape, config.minibatches)
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
    shuffled = shuffle_into_minibatches(shuffle_key, groups, config.minibatches, axis_name)
    return jax.lax.scan(minibatch, carry, shuffled)

  (params, optimiser_state), reports = jax.lax.scan(
      epoch, (agent.params, state.optimiser), jnp.arange(config.epochs)
  )
  metrics = {name: jnp.nanmean(x[-1]) for name, x in reports.items()}
  metrics["first_ratio"] = reports["first_ratio"][0, 0]
  metrics["explained_variance"] = explained_variance
  metrics["kl_weight"] = state.kl_weight
  agent = agent._replace(params=params)
  if config.normalise_observations:
    # These moments change after learning, because the policy that acted saw with the old ones.
    seen = weighted_moments(trajectory.observation, weight, axis_name)
    agent = agent._replace(observations=update_moments(agent.observations, seen))
  kl_weight = adapt_kl_coefficient(state.kl_weight, metrics["approx_kl"], config.kl_target)
  return State(agent, optimiser_state, kl_weight, state.step + 1), metrics


def _prepare(
    before: Agent, trajectory: Trajectory, config: Config, axis_name: str | None
) -> tuple[Agent, Samples, Array]:
  """Turns a trajectory into samples.

  Args:
    before: the agent that played.
    trajectory: [T, b, ...].
    config: static under jit.
    axis_name: as in `update`.

  Returns:
    The agent with its normaliser of returns updated, samples [T, b, ...], and the explained
    variance [].
  """
  raw = advantages(
      trajectory.reward,
      trajectory.value,
      trajectory.last_value,
      trajectory.done,
      trajectory.truncated,
      config.discount,
      config.gae_lambda,
  )
  weight = trajectory.weight
  returns = raw + trajectory.value
  seen = weighted_moments(returns, weight, axis_name)
  left = weighted_moments(raw, weight, axis_name)
  # Squares are taken about zero: a critic that is off by a constant explains less.
  unexplained = left.variance + left.mean**2
  agent = before
  if config.normalise_returns:
    agent = agent._replace(returns=update_moments(agent.returns, seen))
  samples = Samples(
      observation=normalised(agent, trajectory.observation),
      action=trajectory.action,
      log_prob=trajectory.log_prob,
      parameters=trajectory.parameters,
      value=_normalised_return(before, trajectory.value),
      advantage=(raw - left.mean) * jax.lax.rsqrt(left.variance + 1e-8),
      target=_normalised_return(agent, returns),
      weight=weight,
  )
  explained_variance = 1 - unexplained / jnp.maximum(seen.variance, 1e-12)
  return agent, jax.lax.stop_gradient(samples), explained_variance


def _normalised_return(agent: Agent, x: Array) -> Array:
  return (x - agent.returns.mean) / return_scale(agent)


def adapt_kl_coefficient(weight: Array, kl: Array, target: float) -> Array:
  """The next weight of the KL penalty (Schulman et al. 2017, section 4); 0 stays 0."""
  factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
  return jnp.where(weight > 0, jnp.clip(weight * factor, *_KL_WEIGHTS), 0.0)


def _loss(
    params: Params,
    samples: Samples,
    policy: Policy,
    config: Config,
    kl_weight: Array,
    exploration: Array | float = 1.0,
    axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
  """This device's part of the loss; the mean over devices is the loss of the minibatch."""
  parameters, value = policy.apply(params, samples.observation)
  new, old = policy.distribution(parameters), policy.distribution(samples.parameters)
  total = jnp.sum(samples.weight)
  if axis_name is not None:
    total = jax.lax.pmean(total, axis_name)

  def mean(x):
    return jnp.sum(samples.weight * x) / jnp.maximum(total, 1)

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
