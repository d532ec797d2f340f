"""Rows of the parity table for ``AddRMSNorm``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case, floats


def cases() -> Iterator[Case]:
    """Tails, one feature, tiny and huge values, zeros; then what must be refused."""
    rng = np.random.default_rng(2)
    for rows, width in [(1, 576), (3, 7), (40, 33), (2, 1)]:
        for scale in (1.0, 1e-4, 1e4):
            x, y = floats(rng, 1, rows, width, scale=scale), floats(rng, 1, rows, width, scale=scale)
            yield Case("AddRMSNorm", f"{rows}x{width}-{scale}", [x, y, floats(rng, width)], {"epsilon": 1e-5})
    zeros = np.zeros((1, 2, 8), np.float32)
    yield Case("AddRMSNorm", "zeros", [zeros, zeros, np.ones(8, np.float32)], {"epsilon": 1e-6})
    x, weight = floats(rng, 1, 2, 8), floats(rng, 8)
    yield Case("AddRMSNorm", "bad-residual", [x, x[..., :7].copy(), weight], refuses="residual is [1,2,7]")
    yield Case("AddRMSNorm", "bad-weight", [x, x, weight[:7].copy()], refuses="weight is [7]")
