"""What the bodies of ``farthing::GroupedAccept`` share: how far the drafts stand, and the draw of the next code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..body_writer import BodyWriter

INPUTS = ("p", "q", "draft", "uniforms", "embeds", "table")
FLOAT, INT64 = 1, 7


class Walk:
    """A writer and the values every mode begins with.

    codes (V, scalar), last (V - 1), index [V]; p [L+1,V] and q [L,V] with negative entries and NaN as 0; rows [L,V], the first of p;
    x [L,1], the drafts as indices; p_x and q_x [L,1]. After ``judge``: refused [1] bool, at [1] (the draft in question, the last one
    where all stand), p_row and q_row [1,V].
    """

    def __init__(self) -> None:
        self.w = w = BodyWriter("GroupedAccept")
        self.zero, self.none = w.scalar(0), w.real(0.0)
        self.codes = self.op("Squeeze", [self.op("Shape", ["q"], start=1, end=2), w.ints(0)])
        self.length = self.op("Shape", ["q"], start=0, end=1)
        self.last = self.op("Sub", [self.codes, w.scalar(1)])
        self.index = self.op("Range", [self.zero, self.codes, w.scalar(1)])
        self.p, self.q = (self.positive(name) for name in "pq")
        self.rows = self.op("Slice", [self.p, w.ints(0), self.length, w.ints(0)])
        self.x = self.op("Unsqueeze", [self.inside("draft"), w.ints(1)])
        self.p_x = self.op("GatherElements", [self.rows, self.x], axis=1)
        self.q_x = self.op("GatherElements", [self.q, self.x], axis=1)

    def op(self, kind: str, inputs: Sequence[str], **more: Any) -> str:
        """A node with one output; its name."""
        return cast(str, self.w.node(kind, inputs, **more))

    def pair(self, kind: str, inputs: Sequence[str], **more: Any) -> tuple[str, str]:
        """A node with two outputs; their names."""
        first, second = cast("list[str]", self.w.node(kind, inputs, outputs=2, **more))
        return first, second

    def positive(self, x: str) -> str:
        """x where it is above 0, else 0."""
        return self.op("Where", [self.op("Greater", [x, self.none]), x, self.none])

    def inside(self, codes: str) -> str:
        """Codes as indices that lie within a row, whatever they are."""
        return self.op("Max", [self.op("Min", [codes, self.last]), self.zero])

    def total(self, x: str) -> str:
        """The sums of the rows of x [n,m], [n,1]."""
        return self.op("ReduceSum", [x, self.w.ints(1)], keepdims=1)

    def judge(self, above: str, below: str) -> None:
        """Write ``chance`` and ``accepted``: min(1, above / below) of each draft [L,1], 0 where below is 0."""
        w = self.w
        possible = self.op("Greater", [below, self.none])
        ratio = self.op("Div", [above, self.op("Where", [possible, below, w.real(1.0)])])
        ratio = self.positive(self.op("Where", [possible, ratio, self.none]))
        self.op("Squeeze", [self.op("Min", [ratio, w.real(1.0)]), w.ints(1)], outputs=["chance"])
        drawn = self.op("Slice", ["uniforms", w.ints(0), self.length])
        refused = self.op("Cast", [self.op("Not", [self.op("Less", [drawn, "chance"])])], to=INT64)
        before = self.op("Equal", [self.op("CumSum", [refused, w.ints(0)]), self.zero])
        self.op("ReduceSum", [self.op("Cast", [before], to=INT64), w.ints(0)], keepdims=1, outputs=["accepted"])
        self.refused = self.op("Less", ["accepted", self.length])
        self.at = self.op("Min", ["accepted", self.op("Sub", [self.length, w.ints(1)])])
        self.p_row = self.op("Gather", [self.p, "accepted"], axis=0)
        self.q_row = self.op("Where", [self.refused, self.op("Gather", [self.q, self.at], axis=0), self.none])

    def first_with_mass(self, *choices: str) -> str:
        """The first of the rows [1,V] that is not all zero; the last one if all are."""
        w, chosen = self.w, choices[-1]
        for row in reversed(choices[:-1]):
            some = self.op("Greater", [self.op("ReduceMax", [row, w.ints(1)], keepdims=1), self.none])
            chosen = self.op("Where", [some, row, chosen])
        return chosen

    def draw(self, weights: str) -> None:
        """Write ``next``: the first index whose running sum of ``weights`` [1,V] exceeds u * total.

        A running sum in float32 is wrong by some 1e-6, and there are V boundaries that it may cross: of 200,000 draws at V = 16384, 1,587 were
        not those of float64. So the sum is one of integers, which is exact: weights in units of 2^-38 of their sum, u in
        units of 2^-24, in which uniform numbers come: 0 of the 200,000. 2^38 * 2^24 is below 2^63.
        """
        w = self.w
        share = self.positive(self.op("Div", [weights, self.total(weights)]))  # 0/0 is 0
        units = self.op("Cast", [self.op("Round", [self.op("Mul", [share, w.real(2.0**38)])])], to=INT64)
        running = self.op("CumSum", [units, w.scalar(1)])
        u = self.op("Slice", ["uniforms", self.length, self.op("Add", [self.length, w.ints(1)])])
        u = self.op("Cast", [self.op("Mul", [u, w.real(2.0**24)])], to=INT64)
        wanted = self.op("Mul", [u, self.total(units)])
        passed = self.op("LessOrEqual", [self.op("Mul", [running, w.scalar(2**24)]), wanted])
        count = self.op("ReduceSum", [self.op("Cast", [passed], to=INT64), w.ints(1)], keepdims=0)
        self.op("Min", [count, self.last], outputs=["next"])
