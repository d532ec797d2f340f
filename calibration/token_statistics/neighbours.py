"""Mutual information of neighbouring codes in bits, to the right (x), below (y) and between codes of a diagonal.

I = H(A) + H(B) - H(A,B), plug-in, is above 0 for independent codes too: there are more kinds of pairs than pairs. ``floor`` is what it is when the
second codes of all pairs are dealt out at random, and is taken off. Dependent codes occupy fewer kinds of pairs than random ones do, so too much is
taken off if anything: the result is on the low side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..visual.intervals import Interval
from .entropy import plug_in
from .grams import DIRECTIONS, Grams, pairs
from .resample import Resampler
from .stream import Stream


@dataclass(frozen=True)
class Neighbours:
    """Of ``direction`` (`grams.DIRECTIONS`). ``bits``: mutual information above ``floor``; ``share``: of the entropy of a code."""

    direction: str
    pairs: int
    floor: float
    bits: Interval
    share: Interval


def mutual_information(grams: Grams, counts: np.ndarray) -> tuple[float, float]:
    """(I, H of the second code), plug-in."""
    last = plug_in(np.bincount(grams.last, counts))
    return last + plug_in(grams.context_counts(counts)) - plug_in(counts), last


def neighbours(
    stream: Stream, resampler: Resampler, seed: int = 0, tick: Callable[[], None] | None = None
) -> list[Neighbours]:
    """Of every direction in which the grid has neighbours."""
    random = np.random.default_rng(seed)
    found = []
    rows, columns = stream.codes.shape[1:]
    for direction, (down, right) in DIRECTIONS.items():
        if rows <= down or columns <= abs(right):
            continue
        grams = pairs(stream, direction)
        floor = _floor(grams, random)

        def measured(weights: np.ndarray | None, grams: Grams = grams, floor: float = floor) -> np.ndarray:
            bits, whole = mutual_information(grams, grams.counts(weights))
            bits = max(0.0, bits - floor)
            return np.array([bits, bits / whole if whole > 0 else 0.0])

        bits, share = resampler.intervals(measured, tick)
        found.append(Neighbours(direction, len(grams.ids), floor, bits, share))
    return found


def _floor(grams: Grams, random: np.random.Generator) -> float:
    """Mutual information of the same codes in random pairs; one deal is enough, since it averages over all pairs."""
    first, second = grams.context[grams.ids], random.permutation(grams.last[grams.ids])
    _, ids = np.unique(first * (int(second.max()) + 1) + second, return_inverse=True)
    return plug_in(np.bincount(first)) + plug_in(np.bincount(second)) - plug_in(np.bincount(ids))
