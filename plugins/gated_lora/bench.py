"""Rows of the speed table for ``farthing::GatedLora``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """The gate/up linear of SmolLM2-135M with adapters of rank 16 and 128: 4, 20 and 64 gated rows of 25 and 128."""
    rng = np.random.default_rng(0)
    k, n = 576, 3072
    for rank, dtype, gated, total in (
        (16, np.float32, 4, 25),
        (16, np.float32, 20, 25),
        (16, np.float16, 20, 25),
        (16, np.float32, 64, 128),
        (128, np.float32, 64, 128),
    ):
        x, base = (rng.standard_normal((1, total, width), dtype=np.float32) for width in (k, n))
        a, b = ((rng.standard_normal(shape, dtype=np.float32) * 1e-3).astype(dtype) for shape in ((rank, k), (n, rank)))
        listed = np.linspace(0, total - 1, gated).astype(np.int64)
        yield Bench(
            "GatedLora",
            f"{gated} of {total} rows, {k} to {n}, rank {rank} {np.dtype(dtype).name}",
            [x, base, a, b, listed],
            2.0 * gated * rank * (k + n),
            a.nbytes + b.nbytes + 4.0 * gated * (k + 2 * n),
            {"scale": 1e-6},
            constants=("a", "b"),
        )
