"""Linear programs over (C)CEs by HiGHS, as oracles of tests."""

import numpy as np
from scipy.optimize import linprog


def deviation_rows(payoffs, concept="cce"):
  """Rows of A in A sigma <= epsilon: [D, |A|], of payoffs [N, A1, ..., AN]."""
  rows = []
  for p, payoff in enumerate(np.asarray(payoffs, float)):
    for k in range(payoff.shape[p]):
      gain = np.take(payoff, [k], axis=p) - payoff
      if concept == "cce":
        rows.append(gain.ravel())
        continue
      for told in range(payoff.shape[p]):
        shape = [-1 if q == p else 1 for q in range(payoff.ndim)]
        rows.append((gain * (np.arange(payoff.shape[p]) == told).reshape(shape)).ravel())
  return np.array(rows)


def largest(payoffs, welfare, concept="cce"):
  """The largest expected welfare of an equilibrium, welfare [A1, ..., AN]."""
  return cost_range(payoffs, welfare, concept)[1]


def cost_range(payoffs, cost, concept="cce", epsilon=0.0):
  """Smallest and largest expected cost of an equilibrium, cost [A1, ..., AN]."""
  rows = deviation_rows(payoffs, concept)
  values = []
  for sign in (1, -1):
    done = linprog(
        sign * np.ravel(cost), A_ub=rows, b_ub=np.full(len(rows), epsilon),
        A_eq=np.ones((1, np.size(cost))), b_eq=[1.0], method="highs",
    )
    assert done.status == 0
    values.append(sign * done.fun)
  return tuple(values)
