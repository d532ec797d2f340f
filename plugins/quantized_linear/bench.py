"""Rows of the speed table for ``farthing::QuantizedLinear``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """Of SmolLM2-135M: the gate/up matrix in 4 bits with zero points for 1 to 64 rows, and the head in 8 bits, which fits no cache."""
    rng = np.random.default_rng(0)
    for n, k, kind, counts in ((3072, 576, "uint4", (1, 4, 8, 64)), (49152, 576, "int8", (1, 8))):
        low, high = (0, 16) if kind == "uint4" else (-128, 128)
        dtype = np.uint8 if kind == "uint4" else np.int8
        codes = rng.integers(low, high, (k, n)).astype(dtype)
        scales = rng.uniform(0.5, 1.5, (k // 32, n)).astype(np.float32) / 100
        zeros = rng.integers(low, high, (k // 32, n)).astype(dtype) if kind == "uint4" else None
        for count in counts:
            x = rng.standard_normal((1, count, k), dtype=np.float32)
            stored = (
                codes.nbytes / (2 if kind == "uint4" else 1) + scales.nbytes + (0 if zeros is None else zeros.nbytes)
            )
            yield Bench(
                "QuantizedLinear",
                f"{count} x {k} x {n} {kind}",
                [x, codes, scales, zeros],
                2.0 * count * n * k,
                stored + 4.0 * count * (n + k),
                {"block_size": 32},
                constants=("codes", "scales", "zeros"),
                nibbles=(("codes", kind), ("zeros", kind)) if kind == "uint4" else (),
            )
