"""How many rows each view of an image may keep: shares by weight, capped at what the view has, whole numbers, an exact total."""

from __future__ import annotations

from ..writer import GraphWriter
from .parts import INT64, Piece, Views, add_views

TINY = 1e-30
"""Below every weight that counts; keeps a view without rows from dividing by zero."""


def add_quotas(writer: GraphWriter, output: str, *, weights: str, counts: str, budget: str, ids: str) -> None:
    """``output`` int64 [T]: quotas q with sum q = min(budget, sum counts), q <= counts, and else in proportion to ``weights``.

    weights, counts float32 [T], budget float32 [1], ids int64 [T] (0, 1, ...). Water-filling without a loop: view c reaches its cap at
    the level counts_c / weights_c, and does so if all views together ask for no more than the budget at that level; the others share
    what is left. Fractions are rounded down, and what is missing goes to the largest of them (Hamilton), ties to the lowest view.
    """
    p = Piece(writer, output)
    level = p.node("Div", [counts, p.node("Max", [weights, p.real(TINY)], "positive")], "level")
    asked = p.node("Mul", [p.node("Unsqueeze", [level, p.ints(1)], "levels"), weights], "asked")  # [level, view]
    at_level = p.node("ReduceSum", [p.node("Min", [asked, counts], "granted"), p.ints(1)], "at_level", keepdims=0)
    capped = p.node("LessOrEqual", [at_level, budget], "capped")
    zero = p.real(0)
    full = p.node("Where", [capped, counts, zero], "full")
    open_weights = p.node("Where", [capped, zero, weights], "open")
    rest = p.node("Sub", [budget, p.node("ReduceSum", [full, p.ints(0)], "spent", keepdims=1)], "rest")
    weight = p.node("ReduceSum", [open_weights, p.ints(0)], "open_weight", keepdims=1)
    scale = p.node("Div", [rest, p.node("Max", [weight, p.real(TINY)], "divisor")], "scale")
    share = p.node("Min", [p.node("Mul", [weights, scale], "scaled"), counts], "uncapped")
    share = p.node("Where", [capped, counts, share], "share")
    whole = p.node("Floor", [share], "whole")
    fraction = p.node("Where", [capped, p.real(-1), p.node("Sub", [share, whole], "part")], "fraction")
    missing = p.node("Sub", [budget, p.node("ReduceSum", [whole, p.ints(0)], "given", keepdims=1)], "missing")
    mine, index = (
        p.node("Unsqueeze", [v, p.ints(1)], f"{n}.column") for v, n in ((fraction, "fraction"), (ids, "ids"))
    )
    before = p.node(
        "And", [p.node("Equal", [fraction, mine], "tied"), p.node("Less", [ids, index], "earlier")], "first"
    )
    before = p.node("Or", [p.node("Greater", [fraction, mine], "larger"), before], "before")
    rank = p.node("ReduceSum", [p.node("Cast", [before], "before.real", to=1), p.ints(1)], "rank", keepdims=0)
    closed = p.node("Not", [capped], "closed")
    extra = p.node("And", [p.node("Less", [rank, missing], "within"), closed], "extra")
    total = p.node("Add", [whole, p.node("Cast", [extra], "extra.real", to=1)], "total")
    writer.node("Cast", [total], [output], to=INT64)


def add_equal_quotas(writer: GraphWriter, prefix: str, *, group: str, views: str, k: int) -> tuple[str, Views]:
    """(quota int64 [1,T], what was counted): the same number for every view, as ZOO-Prune shares its budget.

    A view that has fewer rows gives the rest to the others; k counts the line breaks too. ``group`` and ``views`` as in `add_views`.
    """
    p = Piece(writer, prefix)
    seen = add_views(writer, p.name("views"), group=group, views=views, k=k)
    same = p.node("Expand", [p.real(1), p.node("Shape", [seen.counts], "shape")], "weights")
    flat = p.name("flat")
    add_quotas(writer, flat, weights=same, counts=seen.counts, budget=seen.budget, ids=seen.ids)
    return p.node("Unsqueeze", [flat, p.ints(0)], "quota"), seen
