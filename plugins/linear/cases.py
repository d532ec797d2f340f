"""Rows of the parity table for ``Linear``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case, floats


def cases() -> Iterator[Case]:
    """One row, tails in every dimension, float16 weights with subnormals and extremes; then what must be refused."""
    rng = np.random.default_rng(1)
    for rows, n, k in [
        (1, 64, 64),
        (2, 7, 33),
        (3, 5, 1),
        (5, 130, 48),
        (6, 9, 16),
        (7, 66, 576),
        (13, 3, 100),
        (64, 257, 96),
    ]:
        x = floats(rng, 1, rows, k)
        weight = floats(rng, n, k)
        yield Case("Linear", f"{rows}x{k}x{n}", [x, weight])
        yield Case("Linear", f"{rows}x{k}x{n}-bias", [x, weight, floats(rng, n)])
        yield Case("Linear", f"{rows}x{k}x{n}-half", [x, weight.astype(np.float16)])
    tiny = np.array([[6e-8, -6e-8, 6e-5, -6e-5, 65504, -65504, 0, -0.0] * 5], np.float16)
    yield Case("Linear", "half-extremes", [np.eye(40, dtype=np.float32)[None], tiny])
    yield Case("Linear", "four-dimensions", [floats(rng, 2, 3, 4, 20), floats(rng, 11, 20)])
    x, weight = floats(rng, 1, 2, 6), floats(rng, 4, 6)
    yield Case("Linear", "bad-width", [x[..., :5].copy(), weight], refuses=("x is [1,2,5]", "weight is [4,6]"))
    yield Case("Linear", "bad-rank", [x, weight[0].copy()], refuses="weight is [6]")
    yield Case("Linear", "bad-bias", [x, weight, floats(rng, 3)], refuses="bias is [3]")
