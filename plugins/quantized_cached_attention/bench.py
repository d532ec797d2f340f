"""Rows of the speed table for ``farthing::QuantizedCachedAttention``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..bench import Bench
from ..cached_attention import bench as float_bench


def rows() -> Iterator[Bench]:
    """The rows of `CachedAttention` over codes, and decoding far behind the beginning: there the cache is what is read."""
    rng = np.random.default_rng(0)
    for bench in float_bench.rows():
        yield _coded(rng, bench)
    first = next(iter(float_bench.rows()))
    for past in (2048, 8000):
        inputs = list(first.inputs)
        inputs[3:5] = [np.zeros((1, 3, 8192, 64), np.float32)] * 2
        inputs[5] = np.array([past], np.int64)
        seen = past + 1
        work, size = 4.0 * 9 * 64 * seen, 8.0 * 3 * 64 * seen
        yield _coded(rng, replace(first, name=f"1 rows after {past}", inputs=inputs, flops=work, bytes=size))


def _coded(rng: np.random.Generator, bench: Bench) -> Bench:
    qkv, cos, sin, past_k, past_v, past_len, *rest = bench.inputs
    assert past_k is not None and past_v is not None
    pasts = [rng.integers(-128, 128, p.shape).astype(np.int8) for p in (past_k, past_v)]
    scales = [np.full((past_k.shape[1], past_k.shape[3]), 0.03, np.float32)] * 2
    return replace(
        bench,
        operator="QuantizedCachedAttention",
        inputs=[qkv, cos, sin, *pasts, past_len, *scales, *rest],
        bytes=bench.bytes / 4,
    )
