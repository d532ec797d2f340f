"""Rows of the speed table for ``farthing::CachedAttention``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench
from .visible import block_sees, pack_rows, tree_sees


def rows() -> Iterator[Bench]:
    """A layer of SmolLM2-135M (9 heads, 3 for keys, 64 features) in a cache of 1024 slots: decode, verify, prefill, drafts."""
    rng = np.random.default_rng(0)
    heads, kv_heads, dim, capacity = 9, 3, 64, 1024
    tree = tree_sees([-1, *((i - 1) // 2 for i in range(1, 64))])
    sets = {25: ("block of 4 masks", block_sees(5, 4)), 63: ("binary tree", tree[:63, :63]), 0: ("", tree)}
    for count, past, named in ((1, 128, 0), (1, 900, 0), (8, 128, 0), (64, 128, 0), (25, 128, 25), (63, 128, 63)):
        angles = rng.uniform(-3, 3, (1, count, dim // 2))
        inputs: list[np.ndarray | None] = [
            rng.standard_normal((1, count, (heads + 2 * kv_heads) * dim), dtype=np.float32),
            np.cos(angles).astype(np.float32),
            np.sin(angles).astype(np.float32),
            *(rng.standard_normal((1, kv_heads, capacity, dim), dtype=np.float32) for _ in range(2)),
            np.array([past], np.int64),
        ]
        what, sees = sets[named]
        if named:
            inputs += [None, None, pack_rows(sees)[None]]
        seen = past * count + int(sees.sum()) if named else sum(past + i + 1 for i in range(count))
        yield Bench(
            "CachedAttention",
            f"{count} rows after {past}" + (f", {what}" if named else ""),
            inputs,
            4.0 * heads * dim * seen,
            8.0 * kv_heads * dim * (past + count),
            {"num_heads": heads, "kv_num_heads": kv_heads, "scale": dim**-0.5, "rotary_dim": dim},
        )
