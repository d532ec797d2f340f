"""Rows of the speed table for ``farthing::AssocMemoryRead``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bench import Bench
from .cases import as_int8

SLOTS, WIDTH = 512, 512
"""The paper's sizes."""

AT_PEAK = "body and kernel both run at this machine's peak for matrix products"


def stored(bank: np.ndarray, dtype: str) -> list[np.ndarray]:
    """[mem] or, for int8, [mem, mem_scale]."""
    return list(as_int8(bank)) if dtype == "int8" else [bank.astype(dtype)]


def rows() -> Iterator[Bench]:
    """A decode step, a verify pass and a prefill piece, for each storage type of the bank."""
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((SLOTS, WIDTH), dtype=np.float32) * WIDTH**-0.5
    for dtype in ("float32", "float16", "int8"):
        memory = stored(bank, dtype)
        for count in (1, 8, 256):
            x = rng.standard_normal((1, count, WIDTH), dtype=np.float32)
            peak = count > 1 and dtype != "int8"
            yield Bench(
                "AssocMemoryRead",
                f"{count} x {WIDTH} x {SLOTS} slots {dtype}",
                [x, *memory],
                4.0 * count * SLOTS * WIDTH,
                memory[0].nbytes + 8.0 * count * WIDTH,
                constants=("mem", "mem_scale")[: len(memory)],
                least=0.95 if peak else 1.0,
                note=AT_PEAK if peak else "",
            )
