"""GlobalCom2 (Liu et al. 2025, arXiv 2501.05179): the thumbnail says how many rows each tile may keep, and has a word in which.

Scores are the class token's attention logits in the tower's last layer. Corrections to the authors' code, all of them in its own sense:
kept rows of a letterboxed tile are placed where they came from, the thumbnail's rows keep their spatial order, every image has scores of
its own, and the number of rows that stay is fixed, so that everything behind has one shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ....errors import RequestError, found_wanted
from ..writer import GraphWriter
from .parts import FLOAT, INT64, Piece, Views, add_row_scores, add_views
from .quota import add_quotas

LOWEST = -3.0e38
KINDS = ("logits", "probs")
TEMPERATURE = 10.0


@dataclass(frozen=True)
class LastLayer:
    """The part of a tower's last layer that scores need: its first norm, queries and keys. Weights [D,D] as checkpoints store them."""

    norm_weight: np.ndarray
    norm_bias: np.ndarray
    q_weight: np.ndarray
    q_bias: np.ndarray
    k_weight: np.ndarray
    k_bias: np.ndarray
    heads: int
    epsilon: float = 1e-5

    def check(self) -> None:
        """Raises RequestError for shapes that do not fit."""
        width = self.norm_weight.size
        for name in ("norm_weight", "norm_bias", "q_bias", "k_bias", "q_weight", "k_weight"):
            wanted = (width, width) if name in ("q_weight", "k_weight") else (width,)
            if getattr(self, name).shape != wanted:
                raise RequestError(
                    found_wanted(f"shape of {name}", getattr(self, name).shape, wanted, "take one layer's tensors")
                )
        if self.heads < 1 or width % self.heads:
            raise RequestError(found_wanted("heads", self.heads, f"a divisor of {width}", "take the tower's own"))


def add_cls_scores(
    writer: GraphWriter,
    hidden: str,
    output: str,
    *,
    layer: LastLayer,
    kind: str = "logits",
    lender: GraphWriter | None = None,
) -> None:
    """``output`` [T,N]: how much the class token attends to each patch in the last layer. ``hidden`` [T,1+N,D]: what that layer reads.

    ``logits``, as the authors' code has it: the mean over heads of q . k / sqrt(dh), before the softmax. Heads split the width, so their sum
    is the product over all of it, and q . (Wk x + bk) = (Wk^T q) . x + q . bk: one vector per view, no keys at all. ``probs``: the mean
    over heads of the softmax over all 1+N keys, one vector per head. Raises RequestError.
    """
    layer.check()
    if kind not in KINDS:
        raise RequestError(
            found_wanted("kind of class scores", repr(kind), " or ".join(KINDS), "logits is the paper's")
        )
    p = Piece(writer, output, lender)
    width, heads = layer.norm_weight.size, layer.heads
    norm = [p.weight("norm.weight", layer.norm_weight), p.weight("norm.bias", layer.norm_bias)]
    normed = p.node("LayerNormalization", [hidden, *norm], "normed", axis=-1, epsilon=layer.epsilon)
    first = p.node("Slice", [normed, p.ints(0), p.ints(1), p.ints(1)], "class")  # [T,1,D]
    patches = p.node("Slice", [normed, p.ints(1), p.ints(2**31 - 1), p.ints(1)], "patches")
    query = p.node("MatMul", [first, p.weight("q.weight", layer.q_weight.T)], "query_product")
    query = p.node("Add", [query, p.weight("q.bias", layer.q_bias)], "query")
    scale = 1.0 / math.sqrt(width // heads)
    if kind == "logits":
        query = p.node("Mul", [query, p.real(scale / heads)], "query_scaled")
        along = p.node("MatMul", [query, p.weight("k.weight", layer.k_weight)], "along")  # [T,1,D]
        products = p.node("MatMul", [patches, p.node("Transpose", [along], "column", perm=[0, 2, 1])], "products")
        at = p.node("Mul", [query, p.weight("k.bias", layer.k_bias)], "offsets")
        offset = p.node("ReduceSum", [at, p.ints(2)], "offset", keepdims=1)
        writer.node("Squeeze", [p.node("Add", [products, offset], "sums"), p.ints(2)], [output])
        return
    # q . bk is the same for every key of a head, and the softmax does not see it.
    query = p.node("Mul", [query, p.real(scale)], "query_scaled")
    by_head = p.node("Reshape", [query, p.ints(0, heads, 1, width // heads)], "by_head")
    keys = p.weight("k.heads", layer.k_weight.reshape(1, heads, width // heads, width))
    along = p.node("Squeeze", [p.node("MatMul", [by_head, keys], "along_heads"), p.ints(2)], "along")  # [T,heads,D]
    logits = p.node("MatMul", [along, p.node("Transpose", [normed], "columns", perm=[0, 2, 1])], "logits")
    mean = p.node("ReduceMean", [p.node("Softmax", [logits], "probs", axis=-1), p.ints(1)], "mean", keepdims=0)
    writer.node("Slice", [mean, p.ints(1), p.ints(2**31 - 1), p.ints(1)], [output])


def add_globalcom_scores(
    writer: GraphWriter,
    prefix: str,
    *,
    cls_score: str,
    order: str,
    group: str,
    tap_index: str,
    tap_weight: str,
    regions: str,
    k: int,
    keep: float,
    temperature: float = TEMPERATURE,
) -> tuple[str, str, Views]:
    """(score float32 [1,L], quota int64 [1,T], what was counted) for TokenSelect(mode=topk).

    Args:
        writer: the graph.
        prefix: of the new names.
        cls_score: [T,N] of `add_cls_scores`; view 0 is the thumbnail.
        order, group: int64 [L] and int32 or int64 [1,L] of the sequence.
        tap_index, tap_weight: int64 and float32 [L,4], `AnyRes.taps`: where rows of the tiles fall on the thumbnail.
        regions: float32 [T,N], `AnyRes.regions`: cells of the thumbnail under each tile.
        k: rows to keep, line breaks included.
        keep: R, the part of the rows that the level keeps, 0 to 1.
        temperature: of the softmax over tiles.

    The thumbnail keeps its part of the budget, rounded; tile c is given N_c * min(R (1 + sigma_c - mean sigma), 1), rescaled so that the
    sum is what is left. Raises RequestError.
    """
    if not 0.0 < keep <= 1.0:
        raise RequestError(
            found_wanted("part to keep", keep, "above 0, at most 1", "1 minus the ratio of dropped rows")
        )
    if not temperature > 0.0:
        raise RequestError(found_wanted("temperature", temperature, "above 0", "the paper has 10"))
    p = Piece(writer, prefix)
    seen = add_views(writer, p.name("views"), group=group, views=cls_score, k=k)
    thumbnail = p.node("Slice", [cls_score, p.ints(0), p.ints(1), p.ints(0)], "thumbnail")  # [1,N]
    tile = p.node("Cast", [p.node("Greater", [seen.ids, p.scalar(0)], "is_tile")], "tile", to=FLOAT)
    quota = _quotas(p, seen, thumbnail, regions, tile, keep, temperature)

    own, thumb = p.name("own"), p.node("Reshape", [thumbnail, p.ints(-1)], "thumbnail_flat")
    add_row_scores(writer, cls_score, order, own)
    taps = p.node("Mul", [p.node("Gather", [thumb, tap_index], "tapped", axis=0), tap_weight], "weighted")
    borrowed = p.node("ReduceSum", [taps, p.ints(1)], "borrowed", keepdims=0)  # [L]
    own_row = p.node("Squeeze", [own, p.ints(0)], "own_row")
    parts = []
    for name, row in (("own", own_row), ("borrowed", borrowed)):
        square = p.node("Unsqueeze", [p.node("Mul", [row, row], f"{name}.square"), p.ints(1)], f"{name}.squares")
        sums = p.node("Squeeze", [p.node("MatMul", [seen.member, square], f"{name}.sums"), p.ints(1)], f"{name}.sum")
        length = p.node("Max", [p.node("Sqrt", [sums], f"{name}.norm"), p.real(1e-12)], f"{name}.length")
        if name == "own":  # the thumbnail is ranked by its logits as they are
            length = p.node("Where", [p.name("is_tile"), length, p.real(1)], f"{name}.divisor")
        each = p.node("Gather", [length, seen.own], f"{name}.lengths", axis=0)
        parts.append(p.node("Div", [row, each], f"{name}.part"))
    score = p.node("Unsqueeze", [p.node("Add", parts, "row_score"), p.ints(0)], "score")
    return score, quota, seen


def _quotas(p: Piece, seen: Views, thumbnail: str, regions: str, tile: str, keep: float, temperature: float) -> str:
    """int64 [1,T]."""
    column = p.node("Transpose", [thumbnail], "thumbnail_column", perm=[1, 0])
    under = p.node("Squeeze", [p.node("MatMul", [regions, column], "under_tiles"), p.ints(1)], "under")  # [T]
    among = p.node("Where", [p.name("is_tile"), under, p.real(LOWEST)], "among")
    most = p.node("ReduceMax", [among, p.ints(0)], "most", keepdims=1)
    # Clipped before the exponential, so that the thumbnail's own entry, which is masked, cannot overflow.
    steep = p.node("Min", [p.node("Sub", [under, most], "below"), p.real(0)], "below_zero")
    power = p.node("Exp", [p.node("Mul", [steep, p.real(1.0 / temperature)], "steep")], "power")
    masked = p.node("Mul", [power, tile], "masked")
    total = p.node("Add", [p.node("ReduceSum", [masked, p.ints(0)], "power_sum", keepdims=1), p.real(1e-8)], "divisor")
    sigma = p.node("Div", [masked, total], "sigma")
    tiles = p.node("Max", [p.node("ReduceSum", [tile, p.ints(0)], "tile_sum", keepdims=1), p.real(1)], "tiles")
    mean = p.node("Div", [p.node("ReduceSum", [sigma, p.ints(0)], "sigma_sum", keepdims=1), tiles], "sigma_mean")
    above = p.node("Add", [p.node("Sub", [sigma, mean], "centred"), p.real(1)], "above")
    rate = p.node("Min", [p.node("Mul", [above, p.real(keep)], "rate_free"), p.real(1)], "rate")
    counts = p.node("Mul", [seen.counts, tile], "tile_counts")
    weights = p.node("Mul", [counts, rate], "weights")

    first = p.node("Sub", [seen.counts, counts], "thumb_counts")  # [N_0, 0, ..., 0]
    rows = p.node("ReduceSum", [seen.counts, p.ints(0)], "candidates", keepdims=1)
    exact = p.node("Div", [p.node("Mul", [first, seen.budget], "thumb_product"), rows], "thumb_exact")
    half_up = p.node("Floor", [p.node("Add", [exact, p.real(0.5)], "thumb_half")], "thumb_round")
    thumb = p.node("Min", [p.node("Min", [half_up, first], "thumb_capped"), seen.budget], "thumb")
    spent = p.node("ReduceSum", [thumb, p.ints(0)], "thumb_sum", keepdims=1)
    rest = p.node("Sub", [seen.budget, spent], "tile_budget")
    add_quotas(p.w, p.name("tile_quota"), weights=weights, counts=counts, budget=rest, ids=seen.ids)
    both = p.node("Add", [p.name("tile_quota"), p.node("Cast", [thumb], "thumb.whole", to=INT64)], "quotas")
    return p.node("Unsqueeze", [both, p.ints(0)], "quota")
