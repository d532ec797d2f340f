"""The largest value of an activation that int8 codes can say: by maximum, percentile, entropy or squared error.

All work on one histogram of absolute values, BINS wide from 0 to the largest value seen; codes are symmetric, as TensorRT wants them.
"""

from __future__ import annotations

import numpy as np

BINS = 2048
PERCENTILE = 0.9999
LEVELS = 128
"""Codes of an absolute value: 0 to 127."""


def limit(histogram: np.ndarray, largest: float, method: str) -> float:
    """The value that code 127 stands for. ``histogram`` [BINS] counts of absolute values, evenly from 0 to ``largest`` > 0."""
    if method == "max":
        return largest
    if method == "percentile":
        share = histogram.cumsum() / histogram.sum()
        return float((np.searchsorted(share, PERCENTILE) + 1) / BINS * largest)
    candidates = range(LEVELS, BINS + 1, 16)
    losses = [_entropy_loss(histogram, n) if method == "entropy" else _squared_loss(histogram, n) for n in candidates]
    return float(candidates[int(np.argmin(losses))] / BINS * largest)


def _squared_loss(histogram: np.ndarray, bins: int) -> float:
    """Squared error, in bins, of rounding to steps of bins / 127 and cutting off what is beyond."""
    middles = np.arange(BINS) + 0.5
    step = bins / (LEVELS - 1)
    said = np.minimum(np.rint(middles / step), LEVELS - 1) * step
    return float((histogram * (middles - said) ** 2).sum())


def _entropy_loss(histogram: np.ndarray, bins: int) -> float:
    """KL divergence of the histogram cut off at ``bins`` from the same with LEVELS levels (Migacz, GTC 2017)."""
    kept = histogram[:bins].astype(np.float64)
    cut = kept.copy()
    cut[-1] += histogram[bins:].sum()
    groups = np.minimum(np.arange(bins) * LEVELS // bins, LEVELS - 1)
    filled = kept > 0
    sums = np.bincount(groups, kept, LEVELS)
    counts = np.bincount(groups, filled, LEVELS)
    spread = np.where(filled, sums[groups] / np.maximum(counts[groups], 1), 0)
    p, q = cut / cut.sum(), spread / max(spread.sum(), 1)
    # What is cut off into an empty last bin has no level: a little of it, or the divergence would be endless.
    q = np.maximum(q, 1e-9)
    return float(np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0)))
