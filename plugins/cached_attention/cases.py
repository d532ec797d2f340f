"""Rows of the parity table for ``CachedAttention``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats
from .visible import block_sees, pack_rows, tree_sees

SHAPES = (
    # batch, rows, heads, kv_heads, dim, capacity, past lengths
    (1, 1, 9, 3, 64, 200, [130]),
    (1, 1, 4, 4, 8, 16, [0]),
    (2, 3, 4, 2, 8, 16, [5, 9]),
    (1, 70, 6, 2, 16, 300, [60]),
    (1, 16, 2, 1, 20, 16, [0]),
    (1, 5, 8, 1, 128, 70, [63]),
    (3, 1, 3, 1, 10, 65, [0, 63, 64]),
    (1, 4, 2, 2, 80, 130, [126]),
)


def _inputs(
    rng: np.random.Generator, batch: int, rows: int, heads: int, kv_heads: int, dim: int, capacity: int, past: list[int]
) -> list[np.ndarray | None]:
    angles = rng.uniform(-3, 3, (batch, rows, dim // 2))
    return [
        floats(rng, batch, rows, (heads + 2 * kv_heads) * dim),
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
        floats(rng, batch, kv_heads, capacity, dim),
        floats(rng, batch, kv_heads, capacity, dim),
        np.array(past, np.int64),
    ]


def _attributes(heads: int, kv_heads: int, dim: int, window: int) -> dict[str, Any]:
    return {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": dim**-0.5,
        "window": window,
        "rotary_dim": 0,
        "epsilon": 1e-6,
    }


def cases() -> Iterator[Case]:
    """Head sizes that are no multiple of a vector, a full cache, windows shorter than a tile; then what must be refused."""
    rng = np.random.default_rng(4)
    for batch, rows, heads, kv_heads, dim, capacity, past in SHAPES:
        for window in (0, 1, 7, 70):
            for normed in (False, True):
                inputs = _inputs(rng, batch, rows, heads, kv_heads, dim, capacity, past)
                if normed:
                    inputs += [floats(rng, dim), floats(rng, dim)]
                name = f"b{batch}s{rows}h{heads}k{kv_heads}d{dim}w{window}{'n' if normed else ''}"
                yield Case("CachedAttention", name, inputs, _attributes(heads, kv_heads, dim, window))
    yield from named_rows()
    yield from stale_slots()
    yield from refused(rng)


def _random_tree(rng: np.random.Generator, rows: int) -> np.ndarray:
    return tree_sees([-1, *(int(rng.integers(0, i)) for i in range(1, rows))])


def named_rows() -> Iterator[Case]:
    """Trees of up to 64 rows, blocks of masks (81 rows: two words), sets that look ahead; over tile edges and windows."""
    rng = np.random.default_rng(14)
    chain, whole = np.tri(6, dtype=bool), np.ones((9, 9), bool)
    for name, shape, sees in (
        ("chain", (1, 6, 4, 2, 8, 80, [60]), chain[None]),
        ("tree16", (1, 16, 6, 2, 64, 130, [55]), _random_tree(rng, 16)[None]),
        ("tree64", (1, 64, 2, 1, 20, 200, [120]), _random_tree(rng, 64)[None]),
        ("trees", (2, 7, 3, 1, 10, 70, [0, 62]), np.stack([_random_tree(rng, 7), _random_tree(rng, 7)])),
        ("block5", (1, 25, 9, 3, 16, 64, [39]), block_sees(5, 4)[None]),
        ("block9", (1, 81, 4, 2, 8, 200, [63]), block_sees(9, 8)[None]),
        ("both-ways", (1, 9, 2, 2, 12, 20, [3]), whole[None]),
        ("own", (1, 5, 2, 1, 8, 8, [3]), np.eye(5, dtype=bool)[None]),
        ("one-row", (1, 1, 4, 2, 16, 64, [63]), np.ones((1, 1, 1), bool)),
    ):
        for window in (0, 5, 64):
            for normed in (False, True):
                batch, rows, heads, kv_heads, dim, capacity, past = shape
                inputs = _inputs(rng, batch, rows, heads, kv_heads, dim, capacity, past)
                inputs += [floats(rng, dim), floats(rng, dim)] if normed else [None, None]
                name_of = f"{name}-w{window}{'n' if normed else ''}"
                attributes = _attributes(heads, kv_heads, dim, window)
                yield Case("CachedAttention", name_of, [*inputs, pack_rows(sees)], attributes)


def stale_slots() -> Iterator[Case]:
    """Slots behind the pass hold what was there: large numbers for every face, NaN and Inf for those that never read them."""
    rng = np.random.default_rng(15)
    reads = {"body": "Attention of the standard multiplies masked slots by 0: they must hold numbers"}
    for name, (batch, rows, heads, kv_heads, dim, capacity, past), sees in (
        ("rows", (2, 3, 4, 2, 8, 70, [5, 62]), None),
        ("tree", (1, 16, 6, 2, 64, 130, [55]), _random_tree(rng, 16)[None]),
    ):
        for stale in (1e4, np.nan, np.inf):
            inputs = _inputs(rng, batch, rows, heads, kv_heads, dim, capacity, past)
            for cache in (inputs[3], inputs[4]):
                for b, length in enumerate(past):
                    cache[b, :, length + rows :] = stale  # type: ignore[index]
            if sees is not None:
                inputs += [None, None, pack_rows(sees)]
            attributes = _attributes(heads, kv_heads, dim, 0)
            skips = {} if np.isfinite(stale) else reads
            yield Case("CachedAttention", f"stale-{name}-{stale:g}", inputs, attributes, skips=skips)


def refused(rng: np.random.Generator) -> Iterator[Case]:
    """Lengths beyond the cache, heads that do not divide, tensors that do not fit each other."""

    def bad(name: str, change: int, to: Any, text: str, stage: str = "shapes", **attributes: int) -> Case:
        inputs = _inputs(rng, 1, 2, 4, 2, 8, 16, [3])
        if change >= 0:
            inputs[change] = to
        return Case(
            "CachedAttention",
            f"bad-{name}",
            inputs,
            {**_attributes(4, 2, 8, 0), **attributes},
            refuses=text,
            stage=stage,
        )

    yield bad("full", 5, np.array([15], np.int64), "past_len + rows is 15 + 2", "values")
    yield bad("negative", 5, np.array([-1], np.int64), "past_len + rows is -1 + 2", "values")
    yield bad("heads", -1, None, "num_heads / kv_num_heads is 3 / 2", "attributes", num_heads=3)
    yield bad("window", -1, None, "window is -1", "attributes", window=-1)
    yield bad("width", 0, floats(rng, 1, 2, 56), "qkv is [1,2,56]")
    yield bad("cos", -1, None, "cos is [1,2,4]", rotary_dim=6)
    yield bad("sin", 2, floats(rng, 1, 1, 4), "sin is [1,1,4]")
    yield bad("values", 4, floats(rng, 1, 2, 15, 8), "past_v is [1,2,15,8]")
    for name, bits, text, stage in (
        ("words", np.array([[[1, 0], [3, 0]]]), "visible is [1,2,2]", "shapes"),
        ("sets", np.array([[[1]]]), "visible is [1,1,1]", "shapes"),
        ("without-itself", np.array([[[1], [1]]]), "visible[0,1] is a set without row 1", "values"),
        ("beyond", np.array([[[1], [7]]]), "visible[0,1] is a set with rows beyond the pass", "values"),
        ("sign", np.array([[[1], [3 - 2**63]]]), "visible[0,1] is a set with rows beyond the pass", "values"),
    ):
        inputs = [*_inputs(rng, 1, 2, 4, 2, 8, 16, [3]), None, None, bits.astype(np.int64)]
        yield Case(
            "CachedAttention", f"bad-{name}", inputs, _attributes(4, 2, 8, 0), refuses=text, stage=stage
        )  # fmt: skip
    yield bad("lengths", 5, np.array([3, 3], np.int64), "past_len is [2]")
