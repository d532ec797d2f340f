"""Rows of the speed table for ``farthing::KvCompact``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench


def rows() -> Iterator[Bench]:
    """A path of 5 in a tree of 64, one layer of SmolLM2-135M, in caches of 1,024 and 8,192 slots."""
    for capacity in (1024, 8192):
        cache = [np.zeros((1, 3, capacity, 64), np.float32) for _ in range(2)]
        listed = np.array([[0, 3, 17, 30, 60]], np.int64)
        yield Bench(
            "KvCompact",
            f"4 rows that move, capacity {capacity}",
            [*cache, np.array([500], np.int64), listed, np.array([5], np.int64)],
            0.0,
            4 * 2 * 2.0 * 3 * 64 * 4,
        )
