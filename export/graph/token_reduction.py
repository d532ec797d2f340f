"""Graph pieces that shorten a sequence of visual tokens before the language model sees it.

Pruning: scores -> TokenSelect -> gathers of the embeddings, their position ids and any further planes. Pooling (Matryoshka
Multimodal Models, Cai et al. 2024, arXiv 2405.17430): means over p x p squares of the token grid. Both have static output shapes,
so everything behind them, the KV cache first of all, is as small as the kept tokens.

Pooling is no operator of ours: two ReduceMean run at the speed of memory in ONNX Runtime (0.3 to 1.0 ms for 576 x 4096 floats,
one thread, where Transpose, AveragePool, Transpose takes 3 to 5 and one ReduceMean over both axes 3 to 7; all measured).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import RequestError, found_wanted
from .writer import GraphWriter


def keep_count(tokens: int, ratio: float) -> int:
    """Tokens that stay when ``ratio`` of them is dropped: round(tokens * (1 - ratio)), halves to even, at least 1 if ratio < 1.

    Raises RequestError for a ratio that is not a number from 0 to 1, or a negative count.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0.0 <= ratio <= 1.0:
        raise RequestError(found_wanted("ratio of dropped tokens", repr(ratio), "a number from 0 to 1", "0 keeps all"))
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise RequestError(found_wanted("number of tokens", repr(tokens), "0 or more", "count the visual tokens"))
    kept = round(tokens * (1.0 - ratio))
    return 1 if kept == 0 and ratio < 1.0 and tokens > 0 else kept


def keep_buckets(token_counts: Sequence[int], ratio: float) -> tuple[int, ...]:
    """The values of k to build graphs for, one for every number of tokens that the vision tower may give; ascending.

    Raises RequestError if one of them would keep nothing.
    """
    kept = sorted({keep_count(tokens, ratio) for tokens in token_counts})
    if not kept or kept[0] < 1:
        raise RequestError(
            found_wanted("tokens kept", kept or "none", "1 or more", "lower the ratio or give token counts")
        )
    return tuple(kept)


def choose_bucket(buckets: Sequence[int], tokens: int, ratio: float) -> int | None:
    """The k to use for ``tokens`` tokens: the smallest bucket that keeps enough, or None to keep all of them.

    Never fewer than `keep_count` asks for. None when every such bucket is as large as the input, so there is nothing to drop.
    Raises RequestError when the largest bucket is too small.
    """
    wanted = keep_count(tokens, ratio)
    enough = [k for k in sorted(buckets) if k >= wanted]
    if not enough:
        raise RequestError(
            found_wanted("tokens to keep", wanted, f"at most {max(buckets, default=0)}", "export a larger bucket")
        )
    return enough[0] if enough[0] < tokens else None


@dataclass(frozen=True)
class Selection:
    """What TokenSelect is told: ``k`` tokens of every sequence by ``mode`` (topk, mmr or sads); see the operator for the rest."""

    k: int
    mode: str = "mmr"
    order: str = "position"
    lam: float = 0.5
    epsilon: float = 1e-6


def add_selection(
    writer: GraphWriter,
    selection: Selection,
    *,
    scores: str,
    embeds: str,
    prefix: str,
    features: str = "",
    positions: str = "",
    position_rows: int = 0,
    group: str = "",
    quota: str = "",
    planes: Mapping[str, str] | None = None,
    tokens: int | None = None,
) -> dict[str, str]:
    """Add TokenSelect and the gathers behind it; returns the names of what was written.

    Args:
        writer: the graph.
        selection: k and how to choose.
        scores: importance [B,N] float32.
        embeds: embeddings [B,N,D] float32 or float16, before the language model.
        prefix: of the new names: ``<prefix>.embeds`` [B,k,D], ``<prefix>.index`` [B,k] int64 and so on.
        features: [B,N,F], what similarity is measured on; ``embeds`` if empty.
        positions: rotary position ids [B,N] int64, or [P,B,N] with ``position_rows`` = P (3 for M-RoPE). Kept tokens keep theirs.
        position_rows: see positions; 0 for [B,N].
        group, quota: inputs of TokenSelect.
        planes: more [B,N,*] values to gather, by the name of their result (DeepStack features).
        tokens: N where it is known, to refuse a k above it when the graph is written.

    Raises RequestError, or ValueError from the operator's contract.
    """
    if tokens is not None and selection.k > tokens:
        raise RequestError(
            found_wanted(
                "k", selection.k, f"1 to {tokens}, the number of tokens", "keep fewer tokens, or leave the node out"
            )
        )
    if quota and not group:
        raise RequestError(
            found_wanted("group", "absent", "present where quota is", "say which group each token is in")
        )
    index, picks = f"{prefix}.index", f"{prefix}.picks"
    inputs = [scores, features or embeds, group, quota]
    while not inputs[-1]:
        inputs.pop()
    writer.operator(
        "TokenSelect",
        inputs,
        [index, picks],
        k=selection.k,
        mode=selection.mode,
        order=selection.order,
        lam=selection.lam,
        epsilon=selection.epsilon,
    )
    made = {"index": index, "picks": picks, "embeds": f"{prefix}.embeds"}
    writer.constant(f"{prefix}.last", np.array([-1], np.int64))
    writer.node("Unsqueeze", [index, f"{prefix}.last"], [f"{prefix}.rows"])
    writer.node("GatherND", [embeds, f"{prefix}.rows"], [made["embeds"]], batch_dims=1)
    for name, plane in (planes or {}).items():
        made[name] = f"{prefix}.{name}"
        writer.node("GatherND", [plane, f"{prefix}.rows"], [made[name]], batch_dims=1)
    if positions:
        made["positions"] = f"{prefix}.positions"
        spread = index
        if position_rows:
            spread = f"{prefix}.index_rows"
            writer.constant(f"{prefix}.position_rows", np.array([position_rows, 1, 1], np.int64))
            writer.node("Expand", [index, f"{prefix}.position_rows"], [spread])
        writer.node("GatherElements", [positions, spread], [made["positions"]], axis=-1)
    return made


def add_linear_scorer(
    writer: GraphWriter,
    features: str,
    output: str,
    *,
    q_weight: np.ndarray,
    q_bias: np.ndarray,
    k_weight: np.ndarray,
    k_bias: np.ndarray,
) -> None:
    """Importance [B,N] of features [B,N,D] float32 by VisionSelector's scorer (as used by IDPruner, arXiv 2602.13315).

    The mean over j of q_i . k_j / sqrt(H) is q_i . mean(k) / sqrt(H), and the mean of a linear map is that of the mean: so
    one vector Wq^T (Wk mean(x) + bk) of D numbers, and one product with each token. Weights are [H,D], biases [H], as
    checkpoints store them. Raises RequestError for shapes that do not fit.
    """
    hidden, width = q_weight.shape
    for name, array, wanted in (
        ("k_proj.weight", k_weight, (hidden, width)),
        ("q_proj.bias", q_bias, (hidden,)),
        ("k_proj.bias", k_bias, (hidden,)),
    ):
        if array.shape != wanted:
            raise RequestError(
                found_wanted(f"shape of {name}", array.shape, f"{wanted}", "check the scorer's checkpoint")
            )
    for name, array in (("q_weight", q_weight), ("k_weight_t", k_weight.T), ("q_bias", q_bias), ("k_bias", k_bias)):
        writer.weight(f"{output}.{name}", array.shape, "float32", [np.ascontiguousarray(array, np.float32)])
    writer.constant(f"{output}.scale", np.array(1.0 / math.sqrt(hidden), np.float32))
    for name, axes in (("tokens", [1]), ("last", [-1])):
        writer.constant(f"{output}.{name}", np.array(axes, np.int64))

    def add(op: str, inputs: Sequence[str], result: str, **attributes: int) -> str:
        writer.node(op, inputs, [f"{output}.{result}"], **attributes)
        return f"{output}.{result}"

    mean = add("ReduceMean", [features, f"{output}.tokens"], "mean", keepdims=1)
    key = add("Add", [add("MatMul", [mean, f"{output}.k_weight_t"], "key_product"), f"{output}.k_bias"], "key")
    key = add("Mul", [key, f"{output}.scale"], "key_scaled")  # [B,1,H]
    direction = add("MatMul", [key, f"{output}.q_weight"], "direction")  # [B,1,D]
    column = add("Transpose", [direction], "column", perm=[0, 2, 1])  # type: ignore[arg-type]
    products = add("Squeeze", [add("MatMul", [features, column], "products"), f"{output}.last"], "product")
    offset = add(
        "ReduceSum", [add("Mul", [key, f"{output}.q_bias"], "offsets"), f"{output}.last"], "offset", keepdims=0
    )
    writer.node("Add", [products, offset], [output])


def pool_sizes(grid: int) -> tuple[int, ...]:
    """Numbers of tokens that a square grid of ``grid`` x ``grid`` can be pooled to, largest first."""
    return tuple((grid // p) ** 2 for p in range(1, grid + 1) if grid % p == 0)


def add_pooling(
    writer: GraphWriter,
    features: str,
    output: str,
    *,
    grid: tuple[int, int],
    pool: int,
    width: int,
    dtype: str = "float32",
) -> None:
    """Means over ``pool`` x ``pool`` squares: features [n, gh*gw, width] -> output [n, gh*gw/pool^2, width], row by row.

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
        return
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
