"""The body of ``farthing::SimPrune`` in standard operators: two products and three TopK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..body_writer import BodyWriter

FLOAT, INT64 = 1, 7
LARGEST = 3.4028234663852886e38


def patches(height: int, width: int, patch_height: int, patch_width: int) -> list[list[int]]:
    """Tokens of every whole patch, row by row, ascending within."""
    return [
        [(top + i) * width + left + j for i in range(patch_height) for j in range(patch_width)]
        for top in range(0, height - patch_height + 1, patch_height)
        for left in range(0, width - patch_width + 1, patch_width)
    ]


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """The FunctionProto for these attributes. Raises ValueError for attributes the contract refuses."""
    from .operator import OPERATOR, check_attributes

    check_attributes(attributes)
    sides = [int(attributes.get(n, 2)) for n in ("height", "width", "patch_height", "patch_width")]
    table = patches(*sides)
    tokens, prune, inside = sides[0] * sides[1], int(attributes["prune"]), len(table[0])
    w = BodyWriter("SimPrune")
    zero = w.real(0.0)
    unit = _unit_rows(w)
    total = w.node("ReduceSum", [unit, w.ints(1)], keepdims=1)  # [B,1,C]
    similar = w.node("ReduceSum", [w.node("Mul", [unit, total]), w.ints(2)], keepdims=0)
    loud = w.node("LessOrEqual", [w.node("Abs", ["noise"]), w.real(LARGEST)])
    quiet = w.node("Where", [loud, "noise", zero])
    score = w.node(
        "Add",
        [
            w.node("Mul", [similar, w.real(float(attributes.get("beta", 1.0)))]),
            w.node("Mul", [quiet, w.real(float(attributes.get("alpha", 0.1)))]),
        ],
    )
    # The base token of every patch: the best of its members, which are constant.
    batch = w.node("Shape", ["noise"], start=0, end=1)
    flat = w.ints(*[token for patch in table for token in patch])
    grouped = w.node("Reshape", [w.node("Gather", [score, flat], axis=1), w.ints(0, len(table), inside)])
    place = w.node("ArgMax", [grouped], axis=2, keepdims=1)
    members = w.node("Reshape", [flat, w.ints(1, len(table), inside)])
    members = w.node("Expand", [members, w.node("Concat", [batch, w.ints(1, 1)], axis=0)])
    base = str(w.node("Squeeze", [w.node("GatherElements", [members, place], axis=2), w.ints(2)]))
    # Those nearest to a base are pruned; -2 is below every similarity.
    nearest = w.node("ReduceMax", [_products(w, unit, base), w.ints(2)], keepdims=0)
    nearest = w.node("Where", [_mask(w, base), w.real(-2.0), nearest])
    pruned = str(w.node("TopK", [nearest, w.ints(prune)], outputs=2, axis=1, largest=1, sorted=1)[1])
    order = w.node("Cast", [w.ints(*range(tokens, 0, -1))], to=FLOAT)
    keys = w.node("Where", [_mask(w, pruned), zero, order])
    w.node("TopK", [keys, w.ints(tokens - prune)], outputs=["SimPrune_keys", "keep"], axis=1, largest=1, sorted=1)
    copied = w.node("ArgMax", [_products(w, unit, "keep")], axis=2, keepdims=0)
    ranks = w.node("Expand", [w.ints(*range(tokens - prune)), w.node("Shape", ["keep"])])
    w.node("ScatterElements", [copied, "keep", ranks], axis=1, outputs=["src"])
    return w.function(["x", "noise"], ["keep", "src"], [a.name for a in OPERATOR.attributes])


def _unit_rows(w: BodyWriter) -> str:
    wide = w.node("Cast", ["x"], to=FLOAT)
    norm = w.node("ReduceL2", [wide, w.ints(2)], keepdims=1)
    good = w.node("LessOrEqual", [norm, w.real(LARGEST)])
    zero = w.real(0.0)
    length = w.node("Add", [w.node("Where", [good, norm, zero]), w.real(1e-8)])
    return str(w.node("Div", [w.node("Where", [good, wide, zero]), length]))


def _products(w: BodyWriter, unit: str, index: str) -> str:
    """Similarities [B,N,n] of all tokens with those at ``index`` [B,n]."""
    rows = w.node("GatherND", [unit, w.node("Unsqueeze", [index, w.ints(2)])], batch_dims=1)
    return str(w.node("MatMul", [unit, w.node("Transpose", [rows], perm=[0, 2, 1])]))


def _mask(w: BodyWriter, index: str) -> str:
    """[B,N] bool, true at ``index`` [B,n]."""
    zeros = w.node("Expand", [w.real(0.0), w.node("Shape", ["noise"])])
    ones = w.node("Expand", [w.real(1.0), w.node("Shape", [index])])
    return str(w.node("Greater", [w.node("ScatterElements", [zeros, index, ones], axis=1), w.real(0.5)]))
