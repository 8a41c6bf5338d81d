"""calsheq_jax.observed: numbers by hand, files, missing values, targets, and bad input."""

import pathlib

import numpy as np
import pytest

from calsheq_jax import observed, targets
from calsheq_jax.observed import Observed

DAYS = pathlib.Path(__file__).parent / "data" / "market_trades.csv"
NAN = float("nan")


def write(tmp_path, text):
  path = tmp_path / "statistics.csv"
  path.write_text(text, encoding="utf-8")
  return path


def test_missing_values_leave_with_their_row_and_column():
  matrix = np.array([[4.0, 9.0, 1.0], [9.0, 9.0, 9.0], [1.0, 9.0, 2.0]])
  found = Observed({"a": 1, "b": None, "c": 3.0}, covariance=matrix, count=4)
  assert found.names == ("a", "c") and found.missing == ("b",) and found.order == ("a", "b", "c")
  np.testing.assert_array_equal(found.values, [1, 3])
  np.testing.assert_array_equal(found.covariance, [[4, 1], [1, 2]])
  np.testing.assert_allclose(found.errors, [2, 2**0.5])
  np.testing.assert_allclose(found.spread, [4, 8**0.5])
  assert found.correlated and found.weights is None


def test_errors_and_weights():
  found = Observed({"a": 1, "b": NAN, "c": 3}, errors={"a": 0.1, "c": 0.2}, weights=[1, NAN, 2])
  np.testing.assert_allclose(found.covariance, np.diag([0.01, 0.04]))
  np.testing.assert_array_equal(found.weights, [1, 2])
  assert not found.correlated and found.count is None and found.spread is None
  assert Observed({"a": 1.0}).covariance is None


def test_long_files(tmp_path):
  text = 'name,value,error,source\na,1.5,0.1,x\n"b[0,1]",,,y\nc,-2,0.4,z\n'
  found = Observed.from_csv(write(tmp_path, text), count=9)
  assert found.names == ("a", "c") and found.missing == ("b[0,1]",) and found.count == 9
  np.testing.assert_allclose(found.errors, [0.1, 0.4])
  weighted = Observed.from_csv(write(tmp_path, "name,value,weight\na,1,3\nb,2,1\n"), columns=["b"])
  assert weighted.names == ("b",) and weighted.weights == [1] and weighted.errors is None


def test_wide_files(tmp_path):
  path = write(tmp_path, "day,a,b\n1,1,2\n2,2,\n3,3,5\n4,2,1\n5,7,8\n")
  found = Observed.from_csv(path, columns=["[ab]"])
  np.testing.assert_allclose(found.values, [3, 4])
  # Squared deviations add up to 22 of 5 values, and to 30 of 4 values.
  np.testing.assert_allclose(found.errors**2, [22 / 4 / 5, 30 / 3 / 4])
  whole = np.array([[1, 2], [3, 5], [2, 1], [7, 8]])
  correlation = found.covariance[0, 1] / np.prod(found.errors)
  np.testing.assert_allclose(correlation, np.corrcoef(whole.T)[0, 1])
  assert found.count == 5 and found.correlated
  apart = Observed.from_csv(path, columns=["a", "b"], correlated=False)
  np.testing.assert_allclose(apart.covariance, np.diag(found.errors**2))


def test_the_covariance_is_that_of_the_mean_if_nothing_is_missing(tmp_path):
  rows = np.random.default_rng(0).normal(size=(12, 3))
  path = tmp_path / "rows.csv"
  np.savetxt(path, rows, delimiter=",", header="a,b,c", comments="", fmt="%.17g")
  np.testing.assert_allclose(Observed.from_csv(path).covariance, np.cov(rows.T) / 12, rtol=1e-12)


def test_the_days_of_the_market():
  found = Observed.from_csv(DAYS, columns=["supertype_*", "concentration"])
  assert found.count == 60 and len(found.names) == 9 and not found.missing
  assert found.names[-2:] == ("supertype_smooth_percentiles[1,8]", "concentration")
  shares = found.values[:2]
  assert (shares > 0).all() and shares.sum() < 1
  with pytest.raises(ValueError, match="there is no 'shares'; there are day, supertype_share"):
    Observed.from_csv(DAYS, columns=["shares"])


def test_targets():
  wanted = observed.targets_of(
      Observed({"share[0, 1]": 0.2, "x": 4.0}, errors=[0.1, 2.0], weights=[1, 3]),
      {"x": lambda outputs: outputs["share"].sum()},
  )
  assert [(t.output, t.index, t.value, t.weight, t.scale) for t in wanted] == [
      ("share", (0, 1), 0.2, 1.0, 0.1), ("x", (), 4.0, 3.0, 2.0),
  ]
  assert wanted[1].read({"share": np.ones((2, 2))}) == 4
  [spread] = observed.targets_of(Observed({"x": 4.0}, errors=[0.5], count=16))
  [relative] = observed.targets_of(Observed({"x": -4.0}))
  assert spread.scale == 2.0 and relative.scale == pytest.approx(0.4)


def test_targets_with_a_covariance():
  matrix = np.array([[4.0, 1.0], [1.0, 2.0]])
  wanted = observed.targets_of(Observed({"a": 1.0, "b": 2.0}, covariance=matrix, count=3))
  error = np.array([0.5, -1.5])
  squared = error @ np.linalg.solve(3 * matrix, error)
  values = np.float32([1.0, 2.0]) - np.float32(error)
  goals = targets.goals_of(wanted)
  left = targets.residuals(wanted, values, goals)
  np.testing.assert_allclose((left**2).sum(), squared / 2, rtol=1e-5)
  expected = 1 / (1 + np.sqrt(squared / 2))
  np.testing.assert_allclose(targets.reward(wanted, values, goals), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "values, more, message",
    [
        ([1.0], {}, "must be a mapping"),
        ({}, {}, "no value is observed"),
        ({"a": NAN}, {}, "no value is observed"),
        ({"a": "much"}, {}, "value 'much' of a is not a number"),
        ({"a": float("inf")}, {}, "value of a is inf: it must be finite"),
        ({"a": 1}, {"errors": {"b": 1}}, "errors of 'b', which is none of a"),
        ({"a": 1, "b": 1}, {"errors": {"b": 1}}, "'a' has none"),
        ({"a": 1}, {"weights": [1, 2]}, r"weights have the shape \[2\]: give 1 numbers"),
        ({"a": 1}, {"errors": [0.0]}, "errors must be positive and finite: 'a' has 0"),
        ({"a": 1}, {"weights": [1], "covariance": [[1]]}, "without weights"),
        ({"a": 1}, {"covariance": [1]}, r"shape \[1\]: 1 statistics need \[1, 1\]"),
        ({"a": 1, "b": 2}, {"covariance": [[1, 0], [0.5, 1]]}, "not symmetric"),
        ({"a": 1, "b": 2}, {"covariance": [[1, 2], [2, 1]]}, "not positive definite: the smallest"),
        ({"a": 1, "b": 2}, {"covariance": [[1, 0], [0, 0]]}, "variance of 'b' is not positive"),
        ({"a": 1}, {"covariance": [[NAN]]}, "must be finite"),
        ({"a": 1}, {"count": 0}, "count=0"),
    ],
)
def test_bad_observations(values, more, message):
  with pytest.raises(ValueError, match=message):
    Observed(values, **more)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the file is empty"),
        ("a,b\n", "no line below"),
        ("a,a\n1,2\n", "2 columns are called 'a'"),
        ("a,b\n1,2\n1\n", "line 3: 1 cells, but 2 columns"),
        ("a,b\n1,x\n2,3\n", "line 2: 'x' in column 'b' is not a number"),
        ("a,b\n1,inf\n2,3\n", "line 2: the number in column 'b' is not finite"),
        ("a,b\n1,2\n2,2\n3,2\n", "column 'b' is constant"),
        ("a,b\n1,2\n2,\n3,\n", "column 'b' has one value"),
        ("a,b\n1,2\n2,5\n", "2 rows without an empty cell are too few"),
        ("a,b\n1,2\n2,4\n3,6\n", "not positive definite"),
        ("name,value\na,1\na,2\n", "line 3: a second value of 'a'"),
    ],
)
def test_bad_files(tmp_path, text, message):
  with pytest.raises(ValueError, match=message):
    Observed.from_csv(write(tmp_path, text))


def test_targets_that_cannot_be():
  with pytest.raises(ValueError, match="'a' is 0, so that a tenth of it is no scale"):
    observed.targets_of(Observed({"a": 0.0}))
  with pytest.raises(ValueError, match="the statistic 'b' is none of the observed ones: a"):
    observed.targets_of(Observed({"a": 1.0}), {"b": lambda outputs: 0})
