"""Classifier-free guidance (Ho and Salimans 2022) and its schedules: logits = u + scale * (c - u), c with the condition, u without.

The schedules are those of ELM (Liu et al. 2025) and of Token-Shuffle (``half_linear``; Ma et al. 2025). They count codes of the image,
not rows of the sequence: a window of m codes has the scale of its first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda r: 1.0,
    "linear": lambda r: r,
    "half_linear": lambda r: min(1.0, 2.0 * r),
    "cosine": lambda r: math.cos(-math.pi / 2 + r * math.pi / 2),
    "log": lambda r: math.log1p(r * (math.e - 1)),
    "square": lambda r: r * r,
    "square_root": math.sqrt,
}
"""Name -> which share of the way from 1 to the full scale is gone at r = (i + 1) / T, code i of T."""


@dataclass(frozen=True)
class Guidance:
    """``scale`` 1 = none, and then no unconditional rows run. ``schedule`` is one of SCHEDULES, from 1 up to ``scale``."""

    scale: float = 4.0
    interval: int = -1
    """Codes that are guided; -1 = all. Behind them only c counts, as in LlamaGen; u runs on, so that rows stay rows."""
    schedule: str = "constant"

    def at(self, code: int, codes: int) -> float:
        """The scale for code number ``code`` of ``codes``."""
        if 0 <= self.interval <= code:
            return 1.0
        return 1.0 + (self.scale - 1.0) * SCHEDULES[self.schedule]((code + 1) / codes)

    def scales(self, numbers: np.ndarray, codes: int) -> np.ndarray:
        """float32 [n]: the scale of each of the code ``numbers`` int [n]; numbers behind the image count as its last code."""
        return np.array([self.at(min(int(n), codes - 1), codes) for n in numbers], np.float32)
