"""Rows of the parity table for ``KvCompact``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case, floats

SHAPES = (
    # batch, heads, capacity, dim, past lengths, rows, counts
    (1, 3, 40, 64, [10], [[0, 2, 5, 6, 20]], [5]),
    (1, 1, 8, 5, [0], [[7]], [1]),
    (1, 2, 9, 4, [3], [[1, 2, 3, 4, 5]], [5]),
    (1, 2, 9, 4, [3], [[0, 1, 2]], [3]),
    (2, 2, 16, 10, [2, 9], [[1, 3, 4], [6, 0, 0]], [3, 1]),
    (3, 1, 12, 7, [0, 5, 9], [[3, 5], [0, 0], [2, -9]], [2, 0, 1]),
)


def cases() -> Iterator[Case]:
    """Overlapping moves, rows that stay, batches that accept differently, a full cache; then what must be refused."""
    rng = np.random.default_rng(12)
    for batch, heads, capacity, dim, past, rows, counts in SHAPES:
        cache = [floats(rng, batch, heads, capacity, dim) for _ in range(2)]
        integers = [np.array(a, np.int64) for a in (past, rows, counts)]
        name = f"b{batch}h{heads}c{capacity}d{dim}-{'_'.join(map(str, counts))}"
        yield Case("KvCompact", f"{name}-{past[0]}-{rows[0][0]}", [*cache, *integers])
    cache = [floats(rng, 1, 2, 8, 4) for _ in range(2)]
    cache[0][:, :, 6:] = np.nan
    yield Case("KvCompact", "nan-beyond", [*cache, *(np.array(a, np.int64) for a in ([2], [[1, 3]], [2]))])
    yield from refused(rng)


def refused(rng: np.random.Generator) -> Iterator[Case]:
    """Lists that do not fit the cache or the batch."""
    good: list[np.ndarray | None] = [floats(rng, 1, 2, 8, 4), floats(rng, 1, 2, 8, 4)]
    good += [np.array(a, np.int64) for a in ([4], [[1, 2]], [2])]

    def bad(name: str, change: int, to: np.ndarray, text: str, stage: str = "shapes") -> Case:
        inputs = [to if i == change else array for i, array in enumerate(good)]
        return Case("KvCompact", f"bad-{name}", inputs, refuses=text, stage=stage)

    yield bad("values", 1, floats(rng, 1, 2, 7, 4), "past_v is [1,2,7,4]")
    yield bad("lengths", 2, np.array([4, 4], np.int64), "past_len is [2]")
    yield bad("rows-rank", 3, np.array([1, 2], np.int64), "rows is [2]")
    yield bad("counts", 4, np.array([2, 2], np.int64), "count is [2]")
    yield bad("full", 2, np.array([7], np.int64), "past_len + rows is 7 + 2", "values")
    yield bad("negative", 2, np.array([-1], np.int64), "past_len + rows is -1 + 2", "values")
    yield bad("count", 4, np.array([3], np.int64), "count is 3", "values")
    yield bad("below", 3, np.array([[1, 0]], np.int64), "row 1 is 0", "values")
    yield bad("beyond", 3, np.array([[1, 4]], np.int64), "row 1 is 4", "values")
