"""Rows of the speed table for ``farthing::Linear``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench

CACHED = "the weight stays in L3 from call to call, where body and kernel are about equally fast; the head's rows show a weight that does not"


def rows() -> Iterator[Bench]:
    """Of SmolLM2-135M: the gate/up matrix for a decode step, a verify pass and a prefill piece, and the head, which fits no cache."""
    rng = np.random.default_rng(0)
    for n, k, counts in ((3072, 576, (1, 8, 64)), (49152, 576, (1, 8))):
        weight = rng.standard_normal((n, k), dtype=np.float32)
        for dtype in (np.float32, np.float16):
            stored = weight.astype(dtype)
            for count in counts:
                x = rng.standard_normal((1, count, k), dtype=np.float32)
                cached = n == 3072 and count <= 8
                yield Bench(
                    "Linear",
                    f"{count} x {k} x {n} {np.dtype(dtype).name}",
                    [x, stored],
                    2.0 * count * n * k,
                    stored.nbytes + 4.0 * count * (n + k),
                    constants=("weight",),
                    least=0.95 if cached else 1.0,
                    note=CACHED if cached else "",
                )
