"""Rows of the parity table for ``AssocMemoryRead``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats

OP = "AssocMemoryRead"


def as_int8(bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 [M,C], float32 [M]): each row in steps of its largest magnitude / 127."""
    step = np.maximum(np.abs(bank).max(axis=1), 1e-30) / 127
    return np.rint(bank / step[:, None]).astype(np.int8), step.astype(np.float32)


def cases() -> Iterator[Case]:
    """Tails of slots and channels, several spans and blocks of rows, every storage type, ties; then what must be refused."""
    rng = np.random.default_rng(11)
    # rows, slots, channels: one slot, one channel, tails, more than a span (256), more than a block of rows (48)
    for rows, m, c in [
        (1, 1, 1),
        (1, 64, 32),
        (3, 7, 5),
        (2, 65, 33),
        (7, 300, 48),
        (49, 70, 17),
        (100, 257, 64),
        (1, 1030, 9),
    ]:
        x, bank = floats(rng, 1, rows, c, scale=c**-0.25), floats(rng, m, c, scale=c**-0.25)
        yield Case(OP, f"{rows}x{c}m{m}", [x, bank])
        yield Case(OP, f"{rows}x{c}m{m}-half", [x, bank.astype(np.float16)])
        yield Case(OP, f"{rows}x{c}m{m}-int8", [x, *as_int8(bank)])
    x, bank = floats(rng, 2, 5, 24), floats(rng, 40, 24)
    yield Case(OP, "scale", [x, bank], {"scale": 0.125})
    for k in (1, 3, 40):
        yield Case(OP, f"top{k}", [x, bank], {"top_k": k}, **_discrete())
    yield Case(OP, "top3-int8", [x, *as_int8(bank)], {"top_k": 3, "scale": 0.5}, **_discrete())
    # Equal slots: all scores tie, and the first ones win, which only differ in a channel that x does not see.
    tied = np.zeros((6, 4), np.float32)
    tied[:, 3] = np.arange(6)
    yield Case(OP, "top2-ties", [np.array([[[1, 1, 1, 0]]], np.float32), tied], {"top_k": 2})
    yield Case(OP, "constant-scores", [np.zeros((1, 3, 24), np.float32), bank])
    # Scores of +-2000: without the running maximum this overflows.
    loud = np.array([[[20, 0], [0, -20], [20, 20]]], np.float32)
    yield Case(OP, "loud", [loud, np.array([[100, 0], [0, 100], [-100, 0], [99, 0]], np.float32)])
    yield Case(OP, "two-dimensions", [floats(rng, 4, 24), bank])
    yield Case(OP, "no-rows", [np.zeros((1, 0, 24), np.float32), bank])
    yield Case(OP, "bad-width", [floats(rng, 1, 2, 23), bank], refuses=("x is [1,2,23]", "mem is [40,24]"))
    yield Case(OP, "bad-rank", [x, floats(rng, 1, 40, 24)], refuses="mem is [1,40,24]")
    yield Case(OP, "bad-top-k", [x, bank], {"top_k": 41}, refuses="top_k is 41")
    yield Case(OP, "bad-top-k-negative", [x, bank], {"top_k": -1}, refuses="top_k is -1", stage="attributes")
    yield Case(OP, "bad-no-scale", [x, as_int8(bank)[0]], refuses="mem_scale is missing")
    yield Case(
        OP,
        "bad-scale-of-float",
        [x, bank, np.ones(40, np.float32)],
        refuses=("mem_scale is given", "mem_scale is [40]"),
    )
    yield Case(
        OP,
        "bad-scale-length",
        [x, as_int8(bank)[0], np.ones(39, np.float32)],
        refuses=("mem_scale is [39]", "mem is [40,24]"),
    )


def _discrete() -> dict[str, Any]:
    return {"half_tolerance": None, "half_reason": "rounding the inputs may choose other slots"}
