"""Rows of the speed table for ``farthing::AddRMSNorm``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """One row and a prefill piece of SmolLM2-135M: an addition, a square and two products an element."""
    rng = np.random.default_rng(0)
    gain = rng.standard_normal(576, dtype=np.float32)
    for count in (1, 64):
        x, y = (rng.standard_normal((1, count, 576), dtype=np.float32) for _ in range(2))
        yield Bench(
            "AddRMSNorm",
            f"{count} x 576",
            [x, y, gain],
            5.0 * count * 576,
            16.0 * count * 576,
            {"epsilon": 1e-5},
            constants=("weight",),
            least=0.9 if count == 1 else 1.0,
            note="mostly the cost of calling any operator" if count == 1 else "",
        )
