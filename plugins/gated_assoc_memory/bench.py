"""Rows of the speed table for ``farthing::GatedAssocMemory``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..assoc_memory_read.bench import SLOTS, WIDTH, stored
from ..bench import Bench

TAPS = 3
NAMES = ("conv_w", "conv_b", "mem", "gate_w", "gate_b", "mem_scale")


def rows() -> Iterator[Bench]:
    """The paper's layer: a decode step, a verify pass and a prefill piece. int8 is an int8 bank with float16 gates."""
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((SLOTS, WIDTH), dtype=np.float32) * WIDTH**-0.5
    gate = rng.standard_normal((2 * WIDTH, WIDTH), dtype=np.float32) * WIDTH**-0.5
    taps, zeros = rng.standard_normal((WIDTH, TAPS), dtype=np.float32), np.zeros(2 * WIDTH, np.float32)
    for dtype in ("float32", "float16", "int8"):
        memory = stored(bank, dtype)
        gates = gate.astype(np.float32 if dtype == "float32" else np.float16)
        for count in (1, 8, 256):
            n = rng.standard_normal((1, count, WIDTH), dtype=np.float32)
            state = rng.standard_normal((1, TAPS - 1, WIDTH), dtype=np.float32)
            yield Bench(
                "GatedAssocMemory",
                f"{count} x {WIDTH} x {SLOTS} slots {dtype}",
                [n, state, taps, zeros[:WIDTH], memory[0], gates, zeros, *memory[1:]],
                count * (4.0 * SLOTS * WIDTH + 4.0 * WIDTH * WIDTH + 2.0 * TAPS * WIDTH),
                memory[0].nbytes + gates.nbytes + 12.0 * count * WIDTH,
                {"kernel_size": TAPS},
                constants=NAMES[: 5 + len(memory[1:])],
            )
