"""Rows of the parity table for ``SwiGLU``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case, floats


def cases() -> Iterator[Case]:
    """Tails, and gates at both ends of exp's range; then what must be refused."""
    rng = np.random.default_rng(3)
    for rows, f in [(1, 1536), (3, 5), (50, 17), (2, 1)]:
        yield Case("SwiGLU", f"{rows}x{f}", [floats(rng, 1, rows, 2 * f, scale=3.0)])
    extreme = np.array([[[-200, -90, -87.5, -1e-30, 0, 87.5, 90, 200, 1, 1, 1, 1, 1, 1, 1, 1]]], np.float32)
    yield Case("SwiGLU", "extremes", [extreme])
    yield Case("SwiGLU", "bad-odd", [floats(rng, 1, 2, 5)], refuses="gate_up is [1,2,5]")
