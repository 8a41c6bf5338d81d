"""Suite `neural` of `launch.benchmark`: inference and training of networks.

  python -m launch.benchmark --suite=neural --out=out/benchmark

The networks have fresh parameters, and the games are uniform on the L2 sphere. Batches are larger
on accelerators. Columns:

  size, concept               shape of the games, and solution concept
  parameters                  number of parameters of the network
  answer                      what the network answers with: duals, or a joint beside them
  rounds, newton              rounds of descent, and Newton steps after them: with none of either
                              the network is the paper's, with both it is like those in
                              nes_jax/weights
  batch                       games of a forward pass
  infer_us, infer_floor_us    microseconds per game of a forward pass, and floating-point operations
                              over measured rate
  exact_us                    microseconds per game of the exact engine on the same games
  train_batch, train_us       games of an update, and its microseconds per game: drawing, forward
                              and backward pass, optimiser
  games_second                games per second in training
  train_floor_us              operations of three forward passes over measured rate
  activations_kb              kilobytes that a forward pass writes per game, at least
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from launch.bench.exact import newton_flops
from launch.bench.record import Row
from launch.bench.suite import Suite
from launch.runtime.timing import median_seconds
import nes_jax
from nes_jax import network, training
from nes_jax.games import spheres
from nes_jax.network import newton, stack
from nes_jax.types import Concept

_CALLS = 5
# Number of games of a batch with --quick.
_QUICK_GAMES = 16
# Factor by which batches are larger on an accelerator.
_ACCELERATOR_FACTOR = 16


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of the suite."""

  concept: Concept
  shape: tuple[int, ...]
  batch: int  # games of a forward pass
  train_batch: int  # games of an update
  rounds: int = 0  # rounds of descent
  newton: int = 0  # Newton steps after the rounds
  answer: str = "duals"  # the network's answer
  small: bool = False  # a network of few channels

  @property
  def size(self) -> str:
    """The shape as text, such as 8x8."""
    return training.shape_name(self.shape)

  @property
  def name(self) -> str:
    """The name for --only."""
    extras = [str(x) for x in (self.rounds, self.newton) if x]
    extras += [self.answer] if self.answer != "duals" else []
    extras += ["small"] if self.small else []
    return ":".join([self.concept, self.size, *extras])

  @property
  def network(self) -> network.Config:
    """The network."""
    few: dict[str, Any] = {"payoff_channels": (8, 8), "dual_channel": 16, "dual_channels": (8,)}
    return network.Config(
        self.concept,
        rounds=self.rounds,
        newton=self.newton,
        answer=self.answer,
        **(few if self.small else {}),
    )


ENTRIES = (
    Entry("cce", (4, 4), 4096, 512),
    Entry("cce", (8, 8), 4096, 256),
    Entry("cce", (16, 16), 1024, 64),
    Entry("cce", (32, 32), 256, 16),
    Entry("ce", (8, 8), 4096, 128),
    Entry("cce", (8, 8), 4096, 256, small=True),
    Entry("ce", (8, 8), 4096, 128, small=True),
    Entry("cce", (8, 8), 4096, 256, rounds=4, newton=4),
    Entry("cce", (16, 16), 1024, 64, rounds=4, newton=4),
    Entry("ce", (8, 8), 4096, 128, rounds=4, newton=8, answer="joint"),
)


def network_work(config: network.Config, shape: Sequence[int]) -> tuple[float, float]:
  """Least floating-point operations of a forward pass per game, and numbers that it writes.

  Only products of full-size features count; pools are small. A multiplication and an addition are
  two operations.

  - A payoff layer multiplies a player's own activations, of |A| entries, and their sum over
    players.
  - A dual layer multiplies its own activations and, for CE, their transpose. They have Ap entries
    for CCE and Ap^2 for CE.
  - A round has a dual layer. It computes the joint, its gains and their squares, with two
    operations for each payoff (for CE: for each payoff and alternative).
  - A round of a network that answers with a joint has a payoff layer, too. It takes derivatives at
    two joints, and a product for each of the channels that pass between the two layers.
  - A Newton step on duals computes the same as a round, two such products for each of its conjugate
    gradients, and one for each length that it tries. With a joint it is a step of the exact engine.

  Args:
    config: the network.
    shape: (A1, ..., AN).
  """
  size, n = math.prod(shape), len(shape)
  widths = (1 + len(config.inputs), *config.payoff_channels)
  flops = sum(2 * (n + 1) * size * a * b for a, b in zip(widths, widths[1:]))
  written = sum(n * size * b for b in widths[1:])
  power, copies = (1, 1) if config.concept == "cce" else (2, 2)
  entries = sum(count**power for count in shape)
  duals = (config.dual_channel, *config.dual_channels, 1)
  flops += sum(2 * copies * entries * a * b for a, b in zip(duals, duals[1:]))
  written += sum(entries * b for b in duals)
  last = config.dual_channels[-1]
  gains = sum(size * (1 if config.concept == "cce" else count) for count in shape)
  if config.answer == "duals":
    products = copies * entries * ((last + 3) * last + last)
    flops += config.rounds * 2 * (3 * gains + products)
    flops += config.newton * 2 * gains * (3 + 2 * newton.CONJUGATE + len(newton.LENGTHS))
  else:
    products = copies * entries * ((last + 5 + 2 * stack.MESSAGES) * last + last + stack.MESSAGES)
    width = config.payoff_channels[-1]
    seen = width + widths[0] + stack.MESSAGES + 3
    products += (n + 1) * size * (seen * width + width) + n * size * width * stack.MESSAGES
    flops += config.rounds * 2 * ((6 + 3 * stack.MESSAGES) * gains + products)
    flops += (n + 1) * 2 * size * width + config.newton * newton_flops(shape, config.concept)
    written += config.rounds * n * size * (width + 1)
  written += config.rounds * entries * (last + 1)
  return float(flops), float(written)


def row(entry: Entry, rate: float, *, quick: bool = False) -> Row:
  """Measures an entry; `rate` is `suite.machine_rate()`."""
  batch, train_batch, calls = entry.batch, entry.train_batch, _CALLS
  if jax.default_backend() != "cpu":
    batch, train_batch = _ACCELERATOR_FACTOR * batch, _ACCELERATOR_FACTOR * train_batch
  if quick:
    batch, train_batch, calls = min(batch, _QUICK_GAMES), min(train_batch, _QUICK_GAMES), 1
  loss = "dual" if entry.answer == "duals" else "labels"
  config = training.Config(
      entry.network, shapes=(entry.shape,), batches=(train_batch,), loss=loss
  )
  state = jax.jit(training.init, static_argnums=1)(jax.random.key(0), config)
  payoffs = spheres.sample(jax.random.key(1), batch, entry.shape, dtype=jnp.float32)
  selection = nes_jax.Selection()
  problem = jax.jit(jax.vmap(lambda game: nes_jax.selection.problem(game, selection)[0]))(payoffs)
  entries = network.CPU_ENTRIES if jax.default_backend() == "cpu" else None
  infer = jax.jit(lambda variables, x: network.infer(variables, config.network, x, entries=entries))
  update = jax.jit(training.update, static_argnums=2)
  key = jax.random.key(2)
  variables = training.inference(state.params, config, entry.shape)
  infer_us = median_seconds(lambda: infer(variables, problem), calls) / batch * 1e6
  train_us = median_seconds(lambda: update(state, key, config), calls) / train_batch * 1e6

  def solve():
    return nes_jax.solve(payoffs, concept=entry.concept, precision="float32", batched=True)

  flops, written = network_work(config.network, entry.shape)
  # Training leaves out the Newton steps.
  train_flops, _ = network_work(dataclasses.replace(config.network, newton=0), entry.shape)
  return {
      "size": entry.size,
      "concept": entry.concept,
      "parameters": network.num_parameters(state.params),
      "answer": entry.answer,
      "rounds": entry.rounds,
      "newton": entry.newton,
      "batch": batch,
      "infer_us": infer_us,
      "infer_floor_us": flops / rate * 1e6,
      "exact_us": median_seconds(solve, calls) / batch * 1e6,
      "train_batch": train_batch,
      "train_us": train_us,
      "games_second": 1e6 / train_us,
      "train_floor_us": 3 * train_flops / rate * 1e6,
      "activations_kb": written * 4 / 1e3,
  }


SUITE = Suite(ENTRIES, row)
