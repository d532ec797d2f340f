"""Body of TokenSelect(mode=topk): one TopK, or with groups two, since a token's tier outranks its score."""

from __future__ import annotations

from .body_parts import FLOAT, Tokens


def topk(t: Tokens, k: int, order: str) -> None:
    """Write the nodes that end in ``index`` and ``picks``."""
    w = t.w
    clean = w.node("Where", [w.node("IsNaN", ["scores"]), w.real(float("-inf")), "scores"])
    by_position = order == "position"
    if t.grouped:
        _tiers(t, str(clean), k)
    else:
        w.node("TopK", [clean, w.ints(k)], outputs=[f"{w.name}_values", "picks"], axis=1, largest=1, sorted=1)
    if not by_position:
        w.node("Identity", ["picks"], outputs=["index"])
        return
    zeros = w.node("Expand", [w.real(0.0), t.shape])
    ones = w.node("Expand", [w.real(1.0), w.node("Shape", ["picks"])])
    chosen = w.node("Greater", [w.node("ScatterElements", [zeros, "picks", ones], axis=1), w.real(0.5)])
    w.node("Identity", [t.ascending(str(chosen), k)], outputs=["index"])


def _tiers(t: Tokens, clean: str, k: int) -> None:
    """The k lowest keys tier * N + place: always kept (0), within quota (1), other candidates (2), the rest (3).

    The place is that in the list sorted by score for candidates, and the position for all others.
    """
    w = t.w
    order = w.node("TopK", [clean, w.node("Unsqueeze", [t.tokens, w.ints(0)])], outputs=2, axis=1)[1]
    spread = w.node("Expand", [t.position, t.shape])
    place = w.node("ScatterElements", [spread, order, spread], axis=1)
    tier = w.node("Where", [t.candidate, w.scalar(2), w.scalar(3)])
    if t.limited:
        member = t.members(str(w.node("GatherElements", ["group", order], axis=1)))
        # How many of the own group stand before a token in sorted order; below its quota it fits.
        before = w.node("CumSum", [w.node("Cast", [member], to=FLOAT), w.scalar(1)], exclusive=1)
        allowed = w.node("Cast", [w.node("Unsqueeze", ["quota", w.ints(1)])], to=FLOAT)
        fits = w.node("Cast", [w.node("And", [member, w.node("Less", [before, allowed])])], to=FLOAT)
        fits = w.node("ReduceMax", [fits, w.ints(2)], keepdims=0)
        fits = w.node("Greater", [w.node("GatherElements", [fits, place], axis=1), w.real(0.5)])
        tier = w.node("Where", [fits, w.scalar(1), tier])
    tier = w.node("Where", [t.always, w.scalar(0), tier])
    within = w.node("Where", [t.candidate, place, spread])
    # Keys are distinct integers: no tie is left to the engine, and float32 holds them exactly for N < 2^22.
    key = w.node("Cast", [w.node("Add", [w.node("Mul", [tier, t.tokens]), within])], to=FLOAT)
    w.node("TopK", [key, w.ints(k)], outputs=[f"{w.name}_keys", "picks"], axis=1, largest=0, sorted=1)
