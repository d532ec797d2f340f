"""Intervals of 95 %: of a share (Wilson), of a paired loss (Tango), of a mean over items (bootstrap). Numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""97.5 % of a normal distribution lie below."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def wilson(right: int, count: int) -> Interval:
    """Share ``right / count``, by Wilson's score interval (1927), which keeps its level near 0 and 1 and for few items."""
    share, extra = right / count, Z * Z / count
    middle = (share + extra / 2) / (1 + extra)
    reach = Z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / count / 4)
    # At the ends one side is exactly 0 or 1; rounding must not say otherwise.
    low = 0.0 if right == 0 else max(0.0, middle - reach)
    return Interval(share, low, 1.0 if right == count else min(1.0, middle + reach))


def paired_loss(lost: int, won: int, count: int) -> Interval:
    """(lost - won) / count, when the same ``count`` items were tried twice: ``lost`` were right and became wrong, ``won`` the reverse.

    Tango's score interval (Statistics in Medicine 17, 1998). It is not empty where nothing changed: the high end is then z^2 / (count + z^2),
    2 % at 189 items, which is what so many items can say.
    """

    def score(loss: float) -> float:
        # Likeliest share of items won, given the loss: the larger root of a quadratic.
        b = (2 * count - lost + won) * loss - lost - won
        won_share = (math.sqrt(max(b * b + 8 * count * won * loss * (1 - loss), 0.0)) - b) / (4 * count)
        spread = count * (2 * won_share + loss * (1 - loss))
        distance = lost - won - count * loss
        return distance / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, distance) if distance else 0.0

    value = (lost - won) / count
    return Interval(value, _crossing(score, -1.0, value, Z), _crossing(score, value, 1.0, -Z))


def _crossing(falling: Callable[[float], float], low: float, high: float, wanted: float) -> float:
    """Where ``falling`` passes ``wanted`` between ``low`` and ``high``, to 1e-9."""
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > wanted else (low, middle)
    return (low + high) / 2


def mean_over_items(sums: Sequence[float], counts: Sequence[int]) -> Interval:
    """Sum of ``sums`` over sum of ``counts``, by a bootstrap that draws whole items: the tokens of an answer depend on each other."""
    total, weight = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(total), (RESAMPLES, len(total)))
    low, high = np.quantile(total[drawn].sum(1) / weight[drawn].sum(1), (0.025, 0.975))
    return Interval(float(total.sum() / weight.sum()), float(low), float(high))


def quartiles(values: Sequence[float]) -> Interval:
    """Median, with the lower and upper quartile for ends: how much items differ, not how sure the median is."""
    low, middle, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75))
    return Interval(float(middle), float(low), float(high))
