"""Random numbers of drawing. Every draw has a number of its own, so no engine, batch or neighbour can change an image.

Number n under a seed is the top 24 bits of SplitMix64 (Steele et al. 2014), as in `sampling.uniform`, times 2^-24: exact in float32,
and below 1. `runtime/core` counts the same way.
"""

from __future__ import annotations

import numpy as np

WORD = 2**64


def uniforms(seed: int, first: int, count: int) -> np.ndarray:
    """float32 [count] in [0, 1): numbers ``first``, ``first`` + 1, ... under ``seed``."""
    n = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    x = np.uint64(seed % WORD) + n * np.uint64(0x9E3779B97F4A7C15)  # numpy wraps at 2^64, as the generator wants
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


class Stream:
    """The numbers of one image, one after the other. ``taken`` says how many are gone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.taken = 0

    def take(self, count: int) -> np.ndarray:
        """float32 [count]: the next numbers."""
        self.taken += count
        return uniforms(self._seed, self.taken - count, count)


def draw(weights: np.ndarray, uniform: np.float32) -> int:
    """The first index whose running sum of ``weights`` float32 [V], in ascending order, exceeds ``uniform`` times their total."""
    running = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(running, float(uniform) * running[-1], side="right"))
