"""Rows of the parity table for ``GatedLora``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats

SHAPES: tuple[tuple[tuple[int, ...], int, int, int, list[int]], ...] = (
    # leading dimensions, inputs K, outputs N, rank R, gated rows: strips and panels with tails, ranks below and above a panel
    ((1, 1), 64, 64, 16, [0]),
    ((1, 5), 33, 7, 1, [1, 2, 4]),
    ((1, 9), 16, 130, 4, [0, 3, 8]),
    ((2, 6), 40, 18, 17, [1, 2, 3, 4, 7, 8, 9, 10, 11]),
    ((1, 25), 96, 48, 16, [g * 5 + i for g in range(5) for i in range(1, 5)]),
    ((3, 2, 4), 10, 33, 40, list(range(24))),
    ((17,), 5, 1, 3, list(range(0, 17, 2))),
    ((1, 3), 576, 1536, 128, [2]),
)


def _inputs(
    rng: np.random.Generator, leading: tuple[int, ...], k: int, n: int, rank: int, rows: list[int]
) -> list[np.ndarray | None]:
    return [
        floats(rng, *leading, k),
        floats(rng, *leading, n),
        floats(rng, rank, k, scale=k**-0.5),
        floats(rng, n, rank, scale=rank**-0.5),
        np.array(rows, np.int64),
    ]


def cases() -> Iterator[Case]:
    """Rows anywhere, none and all of them; adapters in float16; Inf and NaN, which must stay in the gated rows."""
    rng = np.random.default_rng(11)
    for leading, k, n, rank, rows in SHAPES:
        inputs = _inputs(rng, leading, k, n, rank, rows)
        name = f"{'x'.join(map(str, leading))}-{k}x{n}r{rank}m{len(rows)}"
        yield Case("GatedLora", name, inputs, {"scale": 2.0})
        stored = [a.astype(np.float16) if i in (2, 3) and a is not None else a for i, a in enumerate(inputs)]
        yield Case("GatedLora", f"{name}-half", stored, {"scale": -0.37})
    x, base, a, b, _ = _inputs(rng, (2, 9), 20, 24, 4, [])
    for name, some in (("none", []), ("all", list(range(18)))):
        yield Case("GatedLora", name, [x, base, a, b, np.array(some, np.int64)], {"scale": 0.5})
    yield Case("GatedLora", "scale-zero", [x, base, a, b, np.array([4], np.int64)], {"scale": 0.0})
    for bad, value in (("nan", np.nan), ("inf", np.inf)):
        broken = np.full((4, 20), value, np.float32)
        yield Case("GatedLora", f"{bad}-in-a", [x, base, broken, b, np.array([0, 9, 17], np.int64)], {"scale": 1.0})
        yield Case(
            "GatedLora",
            f"{bad}-in-b",
            [x, base, a, np.full((24, 4), value, np.float32), np.array([1, 2], np.int64)],
            {"scale": 1.0},
        )
    yield from refused(rng)


def refused(rng: np.random.Generator) -> Iterator[Case]:
    """An empty adapter, parts that do not fit each other, rows that are no rows."""
    good = _inputs(rng, (1, 6), 8, 10, 4, [1, 5])

    def bad(name: str, change: int, to: np.ndarray, text: str | tuple[str, ...], stage: str = "shapes") -> Case:
        inputs = [to if i == change else array for i, array in enumerate(good)]
        return Case("GatedLora", f"bad-{name}", inputs, {"scale": 1.0}, refuses=text, stage=stage)

    yield Case(
        "GatedLora", "bad-rank-0", [*good[:2], floats(rng, 0, 8), floats(rng, 10, 0), good[4]], {"scale": 1.0},
        refuses=("a is [0,8]",),
    )  # fmt: skip
    yield bad("a-width", 2, floats(rng, 4, 7), ("a is [4,7]", "x is [1,6,8]"))
    yield bad("b-rank", 3, floats(rng, 10, 5), "b is [10,5]")
    yield bad("b-width", 3, floats(rng, 11, 4), ("b is [11,4]", "base is [1,6,10]"))
    yield bad("b-dtype", 3, floats(rng, 10, 4).astype(np.float16), "dtype of b is float16")
    yield bad("base-rows", 1, floats(rng, 1, 5, 10), "base is [1,5,10]")
    yield bad("rows-matrix", 4, np.array([[1, 5]], np.int64), "rows is [1,2]")
    yield bad("rows-outside", 4, np.array([1, 6], np.int64), "rows is 6 after 1", "values")
    yield bad("rows-negative", 4, np.array([-1], np.int64), "rows is -1 after -1", "values")
    yield bad("rows-twice", 4, np.array([2, 2], np.int64), "rows is 2 after 2", "values")
    infinite: dict[str, Any] = {"scale": float("inf")}
    yield Case("GatedLora", "bad-scale", good, infinite, refuses="scale is inf", stage="attributes")
