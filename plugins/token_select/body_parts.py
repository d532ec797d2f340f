"""What the bodies of ``farthing::TokenSelect`` share: constants, ranges and masks over tokens [B,N]."""

from __future__ import annotations

from ..body_writer import BodyWriter
from .rules import ALWAYS

INPUTS = ("scores", "feats", "group", "quota")
FLOAT, INT64 = 1, 7
LARGEST = 3.4028234663852886e38
"""Of float32; what is not at most this in magnitude is infinite or NaN."""


class Tokens:
    """A writer and the values every body begins with.

    tokens (scalar N), position [N], shape (of [B,N]); with groups also candidate and always [B,N] bool; with quotas also
    ids [G] and own [B,N], the group of a token clipped to 0..G-1, so that it can be an index.
    """

    def __init__(self, grouped: bool, limited: bool) -> None:
        self.w = w = BodyWriter("TokenSelect")
        self.grouped, self.limited = grouped, limited
        zero, one = w.scalar(0), w.scalar(1)
        self.tokens = w.node("Squeeze", [w.node("Shape", ["feats"], start=1, end=2), w.ints(0)])
        self.position = w.node("Range", [zero, self.tokens, one])
        self.shape = w.node("Shape", ["scores"])
        if grouped:
            self.candidate = w.node("GreaterOrEqual", ["group", zero])
            self.always = w.node("Equal", ["group", w.scalar(ALWAYS)])
        if limited:
            groups = w.node("Squeeze", [w.node("Shape", ["quota"], start=1, end=2), w.ints(0)])
            self.ids = w.node("Range", [zero, groups, one])
            last = w.node("Sub", [groups, one])
            self.candidate = w.node("And", [self.candidate, w.node("LessOrEqual", ["group", last])])
            self.own = w.node("Max", [w.node("Min", ["group", last]), zero])

    def members(self, group: str) -> str:
        """group [B,N] -> [B,N,G] bool, true at the token's own group."""
        return str(self.w.node("Equal", [self.w.node("Unsqueeze", [group, self.w.ints(2)]), self.ids]))

    def ascending(self, chosen: str, k: int) -> str:
        """Positions of the k true entries of ``chosen`` [B,N], lowest first.

        Keys are floats: exact below 2^24 tokens, and TopK of integers is not built everywhere. k > N stops here.
        """
        w = self.w
        left = w.node("Cast", [w.node("Sub", [self.tokens, self.position])], to=FLOAT)
        keys = w.node("Where", [chosen, left, w.real(0.0)])
        return str(w.node("TopK", [keys, w.ints(k)], outputs=2, axis=1, largest=1, sorted=1)[1])
