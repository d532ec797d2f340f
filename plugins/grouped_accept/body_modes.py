"""The four rules of ``farthing::GroupedAccept`` as standard operators: the ratio of each draft, and the weights of the next code."""

from __future__ import annotations

from .body_parts import FLOAT, Walk

LARGEST = 3.4028234663852886e38
LOW = 128
"""A cluster id is high * 128 + low in `Partition.mass`: at V = 16384 both have 128 values."""


class Plain:
    """mode exact, and what the others begin from."""

    def __init__(self, walk: Walk) -> None:
        self.t, self.w = walk, walk.w

    def ratio(self) -> tuple[str, str]:
        """Numerators and denominators [L,1]."""
        return self.t.p_x, self.t.q_x

    def weights(self) -> str:
        """The weights [1,V] from which ``next`` is drawn."""
        return self.t.first_with_mass(self.rest(self.t.p_row), self.t.p_row)

    def rest(self, row: str) -> str:
        """The positive part of row - q_row."""
        return self.t.positive(self.t.op("Sub", [row, self.t.q_row]))


class Grouped(Plain):
    """mode grouped. The codes just before and just after x in the order of p are two TopK of half a group each, so nothing is sorted."""

    def __init__(self, walk: Walk, size: int, prob_tol: float, dist_tol: float, embeds: bool) -> None:
        super().__init__(walk)
        self.sides = (size // 2, size - 1 - size // 2)
        self.prob_tol, self.dist_tol, self.embeds = prob_tol, dist_tol, embeds

    def ratio(self) -> tuple[str, str]:
        """Sums over the group."""
        t = self.t
        equal_before = t.op("And", [t.op("Equal", [t.rows, t.p_x]), t.op("Less", [t.index, t.x])])
        before = t.op("Or", [t.op("Greater", [t.rows, t.p_x]), equal_before])
        itself = t.op("Equal", [t.index, t.x])
        after = t.op("Not", [t.op("Or", [before, itself])])
        sums = [t.p_x, t.q_x]
        for side, mask in zip(self.sides, (before, after), strict=True):
            if side:
                more = self._side(mask, side, forward=mask == after)
                sums = [t.op("Add", pair) for pair in zip(sums, more, strict=True)]
        return sums[0], sums[1]

    def _side(self, mask: str, size: int, *, forward: bool) -> list[str]:
        """Sums of p and q [L,1] over the ``size`` codes of ``mask`` [L,V] nearest to x.

        Before x these are the lowest values, the highest index first among equals, hence the reversal: TopK prefers the lowest.
        """
        t, w = self.t, self.w
        outside = w.real(-1.0 if forward else LARGEST)
        keys = t.op("Where", [mask, t.rows, outside])
        if not forward:
            keys = t.op("Slice", [keys, w.ints(-1), w.ints(-(2**31)), w.ints(1), w.ints(-1)])
        count = t.op("Min", [w.ints(size), t.op("Unsqueeze", [t.codes, w.ints(0)])])
        values, found = t.pair("TopK", [keys, count], axis=1, largest=int(forward))
        index = found if forward else t.op("Sub", [t.last, found])
        keep = t.op("GreaterOrEqual", [values, t.none]) if forward else t.op("Less", [values, outside])
        gap = t.op("Abs", [t.op("Sub", [values, t.p_x])])
        keep = t.op("And", [keep, t.op("Less", [gap, w.real(self.prob_tol)])])
        if self.embeds:
            apart = t.op("Sub", [t.op("Gather", ["embeds", index]), t.op("Gather", ["embeds", t.x])])  # [L,k,E]
            distance = t.op("ReduceSumSquare", [apart, w.ints(2)], keepdims=0)
            keep = t.op("And", [keep, t.op("Less", [distance, w.real(self.dist_tol)])])
        theirs = t.op("GatherElements", [t.q, index], axis=1)
        return [t.total(t.op("Where", [keep, x, t.none])) for x in (values, theirs)]


class Partition(Plain):
    """mode partition: masses of whole clusters."""

    def ratio(self) -> tuple[str, str]:
        """Sums over the cluster."""
        t, w = self.t, self.w
        self.ids = t.inside(t.op("Squeeze", ["table", w.ints(1)]))  # [V]
        own = t.op("Gather", [self.ids, t.x])  # [L,1]
        member = t.op("Equal", [self.ids, own])  # [L,V]
        above, below = (t.total(t.op("Where", [member, x, t.none])) for x in (t.rows, t.q))
        return above, below

    def weights(self) -> str:
        """What a cluster lost, spread over it by p."""
        t, w = self.t, self.w
        ours, theirs = t.pair("Split", [self.mass()], axis=0, num_outputs=2)
        rest = t.positive(t.op("Sub", [ours, theirs]))
        some = t.op("Greater", [ours, t.none])
        share = t.op("Div", [t.p_row, t.op("Where", [some, ours, w.real(1.0)])])
        spread = t.op("Where", [some, t.op("Mul", [rest, share]), t.none])
        return t.first_with_mass(spread, t.p_row)

    def mass(self) -> str:
        """For each code the masses of its cluster in p_row and in q_row [2,V].

        TensorRT-RTX adds nothing up while it scatters, and a one-hot matrix [V,V] is too large; one of the high and one of the low digits of
        the ids is not. Probabilities go through the product in two parts of 11 bits, which the devices' TF32 holds exactly.
        """
        t, w = self.t, self.w
        low = t.op("Mod", [self.ids, w.scalar(LOW)])
        high = t.op("Div", [self.ids, w.scalar(LOW)])
        rows = t.op("Range", [t.zero, t.op("Add", [t.op("Div", [t.last, w.scalar(LOW)]), w.scalar(1)]), w.scalar(1)])
        digits = t.op("Range", [t.zero, w.scalar(LOW), w.scalar(1)])
        column = w.ints(1)
        is_low = t.op("Cast", [t.op("Equal", [t.op("Unsqueeze", [digits, column]), low])], to=FLOAT)  # [128,V]
        is_high = t.op("Cast", [t.op("Equal", [t.op("Unsqueeze", [high, column]), rows])], to=FLOAT)  # [V,V/128]
        both = t.op("Mul", [t.op("Concat", [t.p_row, t.q_row], axis=0), w.real(1024.0)])  # small ones are no subnormals
        coarse = t.op("Cast", [t.op("Cast", [both], to=10)], to=FLOAT)
        parts = t.op("Concat", [coarse, t.op("Sub", [both, coarse])], axis=0)  # [4,V]
        sums = t.op("MatMul", [t.op("Mul", [t.op("Unsqueeze", [parts, w.ints(1)]), is_low]), is_high])  # [4,128,V/128]
        halves = t.pair("Split", [t.op("Reshape", [sums, w.ints(4, -1)])], axis=0, num_outputs=2)
        whole = t.op("Mul", [t.op("Add", halves), w.real(1 / 1024)])
        width = t.op("Shape", [rows])
        place = t.op("Add", [t.op("Mul", [low, width]), high])
        return t.op("Gather", [whole, place], axis=1)


class Neighbourhood(Plain):
    """mode neighbourhood: x stands for the nearest codes that fit the budget."""

    def __init__(self, walk: Walk, delta: float, relative: bool) -> None:
        super().__init__(walk)
        self.delta, self.relative = delta, relative

    def ratio(self) -> tuple[str, str]:
        """p(x) + S and q(x)."""
        t, w = self.t, self.w
        self.near = t.inside(t.op("Gather", ["table", t.op("Squeeze", [t.x, w.ints(1)])], axis=0))  # [L,K]
        running = t.op("CumSum", [t.op("GatherElements", [t.rows, self.near], axis=1), w.scalar(1)])
        budget = t.op("Mul", [t.p_x, w.real(self.delta)]) if self.relative else w.real(self.delta)
        self.keep = t.op("LessOrEqual", [running, budget])  # running never falls: true for a prefix
        largest = t.op("ReduceMax", [t.op("Where", [self.keep, running, t.none]), w.ints(1)], keepdims=1)
        self.relaxed = t.op("Add", [t.p_x, largest])
        return self.relaxed, t.q_x

    def weights(self) -> str:
        """What P, or else p without A and x, has above q."""
        t, w = self.t, self.w
        near, keep, x, relaxed = (t.op("Gather", [a, t.at], axis=0) for a in (self.near, self.keep, t.x, self.relaxed))
        taken = t.op("Cast", [t.op("And", [keep, t.refused])], to=FLOAT)
        # p_row times 0: zeros in the shape of a row.
        empty = t.op("Cast", [t.op("Less", [t.p_row, t.none])], to=FLOAT)
        gone = t.op("Greater", [t.op("ScatterElements", [empty, near, taken], axis=1), w.real(0.5)])
        itself = t.op("And", [t.op("Equal", [t.index, x]), t.refused])
        without = t.op("Where", [gone, t.none, t.p_row])
        moved = t.op("Where", [itself, relaxed, without])
        without = t.op("Where", [itself, t.none, without])
        return t.first_with_mass(self.rest(moved), without, t.p_row)
