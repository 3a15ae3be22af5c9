from __future__ import annotations

import math

import numpy as np
import pytest

from semiscope.evaluate.intervals import (
    Rate,
    bootstrap,
    most_below,
    units_needed,
    upper_limit,
    wilson,
)

# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: methods 3
# (score) and 5 (Clopper-Pearson), 95 %
NEWCOMBE = [
    (81, 263, (0.2553, 0.3662), 0.3676),
    (15, 148, (0.0624, 0.1605), 0.1617),
    (0, 20, (0.0, 0.1611), 0.1684),
    (1, 29, (0.0061, 0.1718), 0.1776),
]


@pytest.mark.parametrize(("count", "of", "score", "exact"), NEWCOMBE)
def test_published_intervals(count: int, of: int, score: tuple[float, float], exact: float):
    assert wilson(count, of) == pytest.approx(score, abs=5e-5)
    # the upper end of a two-sided interval at 95 % is a one-sided limit at 97.5 %
    assert upper_limit(count, of, 0.975) == pytest.approx(exact, abs=5e-5)


def test_wilson_at_the_ends():
    # 0 of n: from 0 to z² / (n + z²)
    assert wilson(0, 10) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-4)
    low, high = wilson(10, 10)
    assert (1 - high, 1 - low) == pytest.approx(wilson(0, 10))
    assert wilson(0, 10)[0] == 0 and high == 1


def test_the_rule_of_three():
    assert upper_limit(0, 50) == pytest.approx(1 - 0.05 ** (1 / 50), rel=1e-12)
    assert upper_limit(0, 50) == pytest.approx(3 / 50, abs=0.002)
    assert upper_limit(0, 0) == upper_limit(7, 7) == 1
    assert units_needed(0.01) == 299
    assert most_below(0.01, 299) == 0 and most_below(0.01, 298) == -1


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("of", [1, 20, 100, 700])
def test_the_most_that_stays_below_a_bound(bound: float, of: int):
    most = most_below(bound, of)
    assert most == -1 or upper_limit(most, of) <= bound
    assert upper_limit(most + 1, of) > bound


def test_the_upper_limit_is_the_beta_quantile():
    stats = pytest.importorskip("scipy.stats")
    for count, of in ((0, 1), (3, 12), (40, 1000), (999, 1000), (1500, 5000)):
        exact = stats.beta.ppf(0.95, count + 1, of - count)
        assert upper_limit(count, of) == pytest.approx(exact, rel=1e-9)


def test_a_rate_and_a_rate_of_nothing():
    told = Rate(15, 148).to_dict()
    assert (told["count"], told["of"], told["value"]) == (15, 148, 15 / 148)
    assert (told["low"], told["high"]) == wilson(15, 148)
    assert Rate(0, 0).to_dict() == {"count": 0, "of": 0, "value": None, "low": None, "high": None}


def test_the_bootstrap_of_a_mean():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = bootstrap(lambda units: float(values[units].mean()), len(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.value == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    again = bootstrap(lambda units: float(values[units].mean()), len(values))
    assert (again.low, again.high) == (found.low, found.high)


def test_draws_without_a_figure_do_not_count():
    # a unit in a hundred has a value; a draw without it has none
    values = np.full(100, np.nan)
    values[0] = 5.0

    def mean(units):
        chosen = values[units]
        return float(chosen[~np.isnan(chosen)].mean()) if not np.isnan(chosen).all() else math.nan

    found = bootstrap(mean, 100, draws=200)
    assert (found.value, found.low, found.high) == (5, 5, 5)
    assert bootstrap(mean, 0).value is None
    assert bootstrap(lambda units: math.nan, 5).low is None
