"""Rows of the parity table for ``GatedAssocMemory``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..assoc_memory_read.cases import as_int8
from ..case import Case, floats

OP = "GatedAssocMemory"


def _inputs(rng: np.random.Generator, batch: int, rows: int, c: int, m: int, k: int) -> list[Any]:
    scale = c**-0.5
    return [
        floats(rng, batch, rows, c),
        floats(rng, batch, k - 1, c),
        floats(rng, c, k),
        floats(rng, c),
        floats(rng, m, c, scale=scale),
        floats(rng, 2 * c, c, scale=scale),
        floats(rng, 2 * c),
    ]


def _worked() -> Case:
    """A small example of steps 2 to 5 worked through by hand: C = 2, k = 2, M = 3, zero state."""
    n = np.array([[[1, 0], [0.5, -1], [-0.25, 2]]], np.float32)
    taps, bias = np.array([[0.5, 1], [-1, 0.25]], np.float32), np.array([0.1, 0], np.float32)
    bank = np.array([[1, 0], [0, 1], [1, -1]], np.float32)
    gate = np.array([[1, 0], [0, 1], [0.5, 0.5], [-1, 1]], np.float32)
    gate_bias = np.array([0, 0.1, -0.1, 0], np.float32)
    return Case(
        OP, "worked", [n, np.zeros((1, 1, 2), np.float32), taps, bias, bank, gate, gate_bias], {"kernel_size": 2}
    )


def cases() -> Iterator[Case]:
    """The worked example; decode and prefill shapes with tails; every mode, storage type and kernel size; then refusals."""
    rng = np.random.default_rng(12)
    yield _worked()
    # batch, rows, channels, slots, taps: fewer rows than the state, one row, more than a block of rows (48), spans (256)
    shapes = [
        (1, 1, 32, 64, 3),
        (2, 3, 5, 7, 2),
        (1, 1, 17, 300, 4),
        (3, 2, 24, 33, 5),
        (1, 60, 19, 70, 3),
        (2, 33, 64, 257, 3),
    ]
    for batch, rows, c, m, k in shapes:
        inputs = _inputs(rng, batch, rows, c, m, k)
        name = f"b{batch}t{rows}c{c}m{m}k{k}"
        for window in (0, 1):
            yield Case(OP, f"{name}w{window}", inputs, {"kernel_size": k, "return_window": window})
        half = [*inputs[:4], inputs[4].astype(np.float16), inputs[5].astype(np.float16), inputs[6]]
        yield Case(OP, f"{name}-half", half, {"kernel_size": k})
        slots, step = as_int8(inputs[4])
        yield Case(OP, f"{name}-int8", [*inputs[:4], slots, *inputs[5:], step], {"kernel_size": k})
        yield Case(OP, f"{name}-sum", inputs[:5], {"kernel_size": k, "mode": "sum"})
        yield Case(OP, f"{name}-global", [*inputs[:2], None, None, inputs[4]], {"kernel_size": k, "mode": "global"})
        yield Case(OP, f"{name}-local", inputs[:4], {"kernel_size": k, "mode": "local"})
    inputs = _inputs(rng, 1, 4, 8, 6, 3)
    yield Case(OP, "no-biases", [*inputs[:3], None, *inputs[4:6]], {"kernel_size": 3})
    yield Case(OP, "scale", inputs, {"kernel_size": 3, "scale": 0.25})
    loud = [inputs[0] * 40, *inputs[1:5], inputs[5] * 10, inputs[6]]
    yield Case(
        OP, "saturated-gates", loud, {"kernel_size": 3}, half_tolerance=None, half_reason="gates flip where rounded"
    )
    yield from _refused(inputs)


def _refused(inputs: list[Any]) -> Iterator[Case]:
    """One fault each in inputs of [1,4,8], 6 slots, 3 taps."""
    good = {"kernel_size": 3}

    def swapped(index: int, value: Any) -> list[Any]:
        return [*inputs[:index], value, *inputs[index + 1 :]]

    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    yield Case(OP, "bad-state-rows", swapped(1, zeros(1, 3, 8)), good, refuses="conv_state is [1,3,8]")
    yield Case(OP, "bad-state-width", swapped(1, zeros(1, 2, 9)), good, refuses="conv_state is [1,2,9]")
    yield Case(OP, "bad-state-batch", swapped(1, zeros(2, 2, 8)), good, refuses="conv_state is [2,2,8]")
    yield Case(OP, "bad-taps", swapped(2, zeros(8, 4)), good, refuses="conv_w is [8,4]")
    yield Case(OP, "bad-bank", swapped(4, zeros(6, 9)), good, refuses="mem is [6,9]")
    yield Case(OP, "bad-gate", swapped(5, zeros(15, 8)), good, refuses="gate_w is [15,8]")
    yield Case(OP, "bad-gate-bias", swapped(6, zeros(8)), good, refuses="gate_b is [8]")
    yield Case(OP, "bad-rank", swapped(0, zeros(4, 8)), good, refuses="n is [4,8]")
    yield Case(OP, "bad-no-gate", inputs[:5], good, refuses="gate_w is missing")
    yield Case(OP, "bad-one-tap", [inputs[0], zeros(1, 0, 8), zeros(8, 1), *inputs[3:]], {"kernel_size": 1},
               refuses="kernel_size is 1", stage="attributes")  # fmt: skip
    yield Case(OP, "bad-mode", inputs, {"kernel_size": 3, "mode": "mean"}, refuses="mode is 'mean'", stage="attributes")
    yield Case(OP, "bad-int8-no-scale", swapped(4, np.zeros((6, 8), np.int8)), good, refuses="mem_scale is missing")
