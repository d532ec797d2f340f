"""Rows of the speed table for ``farthing::SwiGLU``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """One row and a prefill piece of SmolLM2-135M. About 20 FLOP an element: one exponential, one division."""
    for count in (1, 64):
        x = np.random.default_rng(0).standard_normal((1, count, 3072), dtype=np.float32)
        yield Bench("SwiGLU", f"{count} x 1536", [x], 20.0 * count * 1536, 12.0 * count * 1536)
