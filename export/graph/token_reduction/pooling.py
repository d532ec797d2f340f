"""Pooling (Matryoshka Multimodal Models, Cai et al. 2024, arXiv 2405.17430): means over p x p squares of each view's token grid.

No operator of ours: two ReduceMean run at the speed of memory in ONNX Runtime (0.3 to 1.0 ms for 576 x 4096 floats,
one thread, where Transpose, AveragePool, Transpose takes 3 to 5 and one ReduceMean over both axes 3 to 7; all measured).
"""

from __future__ import annotations

import math

import numpy as np

from ....errors import RequestError, found_wanted
from ..writer import GraphWriter


def pool_sizes(grid: int) -> tuple[int, ...]:
    """Numbers of tokens that a square grid of ``grid`` x ``grid`` can be pooled to, largest first."""
    return tuple((grid // p) ** 2 for p in range(1, grid + 1) if grid % p == 0)


def scale_pool(grid: int, scale: int) -> int:
    """The pool that leaves ``scale`` tokens of a view of ``grid`` x ``grid``. Raises RequestError for a number that no square divides to."""
    if isinstance(scale, bool) or scale not in pool_sizes(grid):
        valid = ", ".join(map(str, pool_sizes(grid)))
        raise RequestError(
            found_wanted("tokens per view", repr(scale), f"one of {valid} for a grid of {grid} x {grid}", "choose one")
        )
    return grid // math.isqrt(scale)


def add_pooling(
    writer: GraphWriter,
    features: str,
    output: str,
    *,
    grid: tuple[int, int],
    pool: int,
    width: int,
    dtype: str = "float32",
) -> str:
    """Means over ``pool`` x ``pool`` squares: features [n, gh*gw, width] -> output [n, gh*gw/pool^2, width], row by row. Returns ``output``.

    ``pool`` must divide both sides of the ``grid``: a remainder would be dropped without a word. float16 features are averaged in
    float32. pool 1 is the identity. Raises RequestError.
    """
    high, wide = grid
    if pool < 1 or high % pool or wide % pool:
        both = math.gcd(high, wide)
        valid = ", ".join(str(p) for p in range(1, both + 1) if both % p == 0)
        raise RequestError(
            found_wanted("pool", pool, f"one of {valid} for a grid of {high} x {wide}", "choose one of them")
        )
    if pool == 1:
        writer.node("Identity", [features], [output])
        return output
    half = dtype == "float16"
    if half:
        writer.node("Cast", [features], [f"{output}.wide"], to=1)
        features = f"{output}.wide"
    mean = f"{output}.mean" if half else output
    rows, columns = high // pool, wide // pool
    if rows * columns == 1:
        writer.constant(f"{output}.tokens", np.array([1], np.int64))
        writer.node("ReduceMean", [features, f"{output}.tokens"], [mean], keepdims=1)
    else:
        # Rows of a square first, then columns: the first pass adds long contiguous lines, the second has little left.
        writer.constant(f"{output}.squares", np.array([-1, rows, pool, columns, pool, width], np.int64))
        writer.constant(f"{output}.flat", np.array([-1, rows * columns, width], np.int64))
        writer.constant(f"{output}.down", np.array([2], np.int64))
        writer.constant(f"{output}.across", np.array([3], np.int64))
        writer.node("Reshape", [features, f"{output}.squares"], [f"{output}.grid"])
        writer.node("ReduceMean", [f"{output}.grid", f"{output}.down"], [f"{output}.lines"], keepdims=0)
        writer.node("ReduceMean", [f"{output}.lines", f"{output}.across"], [f"{output}.points"], keepdims=0)
        writer.node("Reshape", [f"{output}.points", f"{output}.flat"], [mean])
    if half:
        writer.node("Cast", [mean], [output], to=10)
    return output
