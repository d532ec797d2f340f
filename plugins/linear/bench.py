"""Rows of the speed table for ``farthing::Linear``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """The gate/up matrix of SmolLM2-135M for one decode step, a verify pass and a prefill piece, in both stored dtypes."""
    rng = np.random.default_rng(0)
    n, k = 3072, 576
    weight = rng.standard_normal((n, k), dtype=np.float32)
    for dtype in (np.float32, np.float16):
        stored = weight.astype(dtype)
        for count in (1, 8, 64):
            x = rng.standard_normal((1, count, k), dtype=np.float32)
            yield Bench(
                "Linear",
                f"{count} x {k} x {n} {np.dtype(dtype).name}",
                [x, stored],
                2.0 * count * n * k,
                stored.nbytes + 4.0 * count * (n + k),
                constants=("weight",),
            )
