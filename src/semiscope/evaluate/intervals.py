"""How far a figure from few units can be trusted: confidence intervals.

Wilson's score interval (1927) for a proportion; the exact upper limit of Clopper and Pearson (1934)
where a bound has to be shown; the bootstrap's percentiles (Efron 1979) for all other figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its confidence interval; all None where there is nothing to take it from."""

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion, and how many it was counted in.

    Attributes:
        count: Units that show it.
        of: Units that could have shown it.
    """

    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The proportion; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> Interval:
        """Wilson's interval at 95 % confidence."""
        if not self.of:
            return Interval(None, None, None)
        return Interval(self.value, *wilson(self.count, self.of))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"count": self.count, "of": self.of, **self.interval.to_dict()}


def wilson(count: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a proportion; it stays within [0, 1] and is not empty at 0 or 1.

    Args:
        count: Units that show it.
        of: Units, at least 1.
        confidence: In (0, 1).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = count / of, z * z / of
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    low, high = ((middle + side) / (1 + weight) for side in (-half, half))
    # rounding must not leave 1e-17 where the formula gives 0
    return (low if count else 0.0), (high if count < of else 1.0)


def upper_limit(count: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided upper limit of a proportion: higher ones would give so few less often.

    Exact for any number of units: at this proportion, the chance of at most ``count`` is
    1 - confidence.

    Args:
        count: Units that show it.
        of: Units; 0 gives 1.
        confidence: In (0, 1).
    """
    if count >= of:
        return 1.0
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if _cumulated(count, of, middle)[-1] > 1 - confidence:
            low = middle
        else:
            high = middle


def most_below(bound: float, of: int, confidence: float = CONFIDENCE) -> int:
    """The most units that may show something while its upper limit is still within a bound.

    Args:
        bound: The proportion to stay within, in (0, 1).
        of: Units.
        confidence: In (0, 1).

    Returns:
        -1 when there are so few units that even none at all would not show it.
    """
    enough = np.flatnonzero(_cumulated(int(bound * of), of, bound) <= 1 - confidence)
    return int(enough[-1]) if of and len(enough) else -1


def units_needed(bound: float, confidence: float = CONFIDENCE) -> int:
    """The fewest units that show a bound when none of them shows the thing itself."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-bound))


def _cumulated(count: int, of: int, share: float) -> NDArray[np.float64]:
    """(count + 1,) the chances of at most 0, 1, ... ``count`` of ``of``, at a share in (0, 1)."""
    k = np.arange(count + 1)
    ways = [math.lgamma(of + 1) - math.lgamma(i + 1) - math.lgamma(of - i + 1) for i in k.tolist()]
    return np.cumsum(np.exp(ways + k * math.log(share) + (of - k) * math.log1p(-share)))


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    units: int,
    confidence: float = CONFIDENCE,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A figure of units with its percentile interval over units drawn with replacement.

    Args:
        statistic: The figure of the units with these indices; NaN where it is not defined, and such
            a draw does not count.
        units: How many there are.
        confidence: In (0, 1).
        draws: How often units are drawn.
        seed: The same seed gives the same interval.
    """
    value = statistic(np.arange(units)) if units else math.nan
    if math.isnan(value):
        return Interval(None, None, None)
    rng = np.random.default_rng(seed)
    found = np.array([statistic(rng.integers(0, units, units)) for _ in range(draws)])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(found[~np.isnan(found)], tails).tolist()
    return Interval(float(value), low, high)
