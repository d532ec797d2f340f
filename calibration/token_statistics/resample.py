"""Intervals of 95 % by a bootstrap over images (Efron 1979): codes of one image depend on each other, so whole images are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..visual.intervals import Interval
from .stream import Stream


@dataclass(frozen=True)
class Resampler:
    """``resamples`` draws, the same ones for every figure of a stream."""

    stream: Stream
    resamples: int = 200
    seed: int = 0

    def weights(self) -> Iterator[np.ndarray]:
        """float64 [N]: how often each image is in a draw of as many units as there are."""
        random = np.random.default_rng(self.seed)
        units = int(self.stream.units.max()) + 1
        for _ in range(self.resamples):
            drawn = np.bincount(random.integers(0, units, units), minlength=units).astype(np.float64)
            yield drawn[self.stream.units]

    def intervals(
        self, statistic: Callable[[np.ndarray | None], np.ndarray], tick: Callable[[], None] | None = None
    ) -> list[Interval]:
        """Intervals of the numbers [S] that ``statistic`` makes of weights (None: all images once)."""
        whole = statistic(None)
        drawn = []
        for weights in self.weights():
            drawn.append(statistic(weights))
            if tick:
                tick()
        return [around(float(v), np.array(d)) for v, d in zip(whole, np.transpose(drawn), strict=True)]


def around(value: float, drawn: np.ndarray) -> Interval:
    """``value`` with the spread of ``drawn`` [B] about their own mean.

    A draw with replacement has fewer different n-grams than the data, which lowers its entropy: a bias of the bootstrap and not of the figure. Only
    the spread is taken from the draws.
    """
    low, high = np.quantile(drawn - drawn.mean(), (0.025, 0.975))
    return Interval(value, value + float(low), value + float(high))
