"""The table of operator cases: every face of an operator must agree with its reference on each of them.

A case is (operator, attributes, inputs, tolerance). Ugly ones are on purpose: head sizes that are no multiple of a vector,
one row, a full cache, windows shorter than a tile, huge and tiny values, float16 weights with subnormals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Case:
    """One row of the table. ``inputs`` in the operator's order; absent optional inputs are left out at the end."""

    operator: str
    name: str
    inputs: list[np.ndarray]
    attributes: dict[str, Any]
    tolerance: float = 2e-5

    def __str__(self) -> str:
        return f"{self.operator}-{self.name}"


def _floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def linear_cases() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    for rows, n, k in [
        (1, 64, 64),
        (2, 7, 33),
        (3, 5, 1),
        (5, 130, 48),
        (6, 9, 16),
        (7, 66, 576),
        (13, 3, 100),
        (64, 257, 96),
    ]:
        x = _floats(rng, 1, rows, k)
        weight = _floats(rng, n, k)
        yield Case("Linear", f"{rows}x{k}x{n}", [x, weight], {})
        yield Case("Linear", f"{rows}x{k}x{n}-bias", [x, weight, _floats(rng, n)], {})
        yield Case("Linear", f"{rows}x{k}x{n}-half", [x, weight.astype(np.float16)], {})
    tiny = np.float16([[6e-8, -6e-8, 6e-5, -6e-5, 65504, -65504, 0, -0.0] * 5])
    yield Case("Linear", "half-extremes", [np.eye(40, dtype=np.float32)[None], tiny], {})
    yield Case("Linear", "four-dimensions", [_floats(rng, 2, 3, 4, 20), _floats(rng, 11, 20)], {})


def norm_cases() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    for rows, width in [(1, 576), (3, 7), (40, 33), (2, 1)]:
        for scale in (1.0, 1e-4, 1e4):
            x, y = _floats(rng, 1, rows, width, scale=scale), _floats(rng, 1, rows, width, scale=scale)
            yield Case("AddRMSNorm", f"{rows}x{width}-{scale}", [x, y, _floats(rng, width)], {"epsilon": 1e-5})
    yield Case(
        "AddRMSNorm", "zeros", [np.zeros((1, 2, 8), np.float32)] * 2 + [np.ones(8, np.float32)], {"epsilon": 1e-6}
    )


def swiglu_cases() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for rows, f in [(1, 1536), (3, 5), (50, 17), (2, 1)]:
        yield Case("SwiGLU", f"{rows}x{f}", [_floats(rng, 1, rows, 2 * f, scale=3.0)], {})
    extreme = np.float32([[[-200, -90, -87.5, -1e-30, 0, 87.5, 90, 200, 1, 1, 1, 1, 1, 1, 1, 1]]])
    yield Case("SwiGLU", "extremes", [extreme], {})


def attention_cases() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    # batch, rows, heads, kv_heads, dim, capacity, past lengths
    shapes = [
        (1, 1, 9, 3, 64, 200, [130]),
        (1, 1, 4, 4, 8, 16, [0]),
        (2, 3, 4, 2, 8, 16, [5, 9]),
        (1, 70, 6, 2, 16, 300, [60]),
        (1, 16, 2, 1, 20, 16, [0]),
        (1, 5, 8, 1, 128, 70, [63]),
        (3, 1, 3, 1, 10, 65, [0, 63, 64]),
        (1, 4, 2, 2, 80, 130, [126]),
    ]
    for batch, rows, heads, kv_heads, dim, capacity, past in shapes:
        for window in (0, 1, 7, 70):
            for normed in (False, True):
                angles = rng.uniform(-3, 3, (batch, rows, dim // 2))
                inputs = [
                    _floats(rng, batch, rows, (heads + 2 * kv_heads) * dim),
                    np.cos(angles).astype(np.float32),
                    np.sin(angles).astype(np.float32),
                    _floats(rng, batch, kv_heads, capacity, dim),
                    _floats(rng, batch, kv_heads, capacity, dim),
                    np.array(past, np.int64),
                ]
                if normed:
                    inputs += [_floats(rng, dim), _floats(rng, dim)]
                attributes = {
                    "num_heads": heads,
                    "kv_num_heads": kv_heads,
                    "scale": dim**-0.5,
                    "window": window,
                    "rotary_dim": 0,
                    "epsilon": 1e-6,
                }
                name = f"b{batch}s{rows}h{heads}k{kv_heads}d{dim}w{window}{'n' if normed else ''}"
                yield Case("CachedAttention", name, inputs, attributes)


def all_cases() -> list[Case]:
    return [*linear_cases(), *norm_cases(), *swiglu_cases(), *attention_cases()]
