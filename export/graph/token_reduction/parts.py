"""What the reductions share: a node by one call, weights that another graph may lend, and the views of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....plugins.token_select.rules import ALWAYS
from ..writer import GraphWriter

FLOAT, INT64 = 1, 7


class Piece:
    """Writes the values of one reduction: every name begins with ``prefix``, constants are written once, weights are borrowed if lent.

    ``lender`` is a graph of the same folder that may have written the same piece already, under the same names.
    """

    def __init__(self, writer: GraphWriter, prefix: str, lender: GraphWriter | None = None) -> None:
        self.w, self.prefix, self.lender = writer, prefix, lender

    def name(self, name: str) -> str:
        """``<prefix>.<name>``."""
        return f"{self.prefix}.{name}"

    def node(self, op: str, inputs: Sequence[str], result: str, **attributes: Any) -> str:
        """Add a node of one output; returns its name, ``<prefix>.<result>``."""
        out = self.name(result)
        self.w.node(op, inputs, [out], **attributes)
        return out

    def real(self, value: float) -> str:
        """A float32 scalar."""
        return self._small(f"real{value!r}", np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self._small("ints" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        """An int64 scalar."""
        return self._small(f"int{value}", np.array(value, np.int64))

    def weight(self, name: str, array: np.ndarray | Callable[[], np.ndarray]) -> str:
        """A float32 initializer ``<prefix>.<name>``: borrowed where the lender has it, else ``array`` or what that makes."""
        full = self.name(name)
        if self.lender is not None and full in self.lender.constants:
            self.w.borrow(self.lender, full)
        else:
            array = array() if callable(array) else array
            self.w.weight(full, array.shape, "float32", [np.ascontiguousarray(array, np.float32)])
        return full

    def _small(self, name: str, array: np.ndarray) -> str:
        full = self.name(name)
        if full not in self.w.constants:
            self.w.constant(full, array)
        return full


@dataclass(frozen=True)
class Views:
    """Names of what a sequence of several views is described by; T views, L rows."""

    group: str
    """int64 [1,L]: what TokenSelect takes."""
    own: str
    """int64 [L]: view of each row; 0 for line breaks, so that it can be an index."""
    member: str
    """float32 [T,L]: 1 where a row comes from a view."""
    counts: str
    """float32 [T]: rows of each view."""
    budget: str
    """float32 [1]: how many of them may stay: k without the line breaks."""
    ids: str
    """int64 [T]: 0, 1, ..."""


def add_views(writer: GraphWriter, prefix: str, *, group: str, views: str, k: int) -> Views:
    """Count the rows of each view: ``group`` int32 or int64 [1,L] (-2 line breaks), ``views`` any value [T,...], ``k`` rows to keep in all."""
    p = Piece(writer, prefix)
    wide = p.node("Cast", [group], "group", to=INT64)
    row = p.node("Squeeze", [wide, p.ints(0)], "row")
    total = p.node("Squeeze", [p.node("Shape", [views], "views", start=0, end=1), p.ints(0)], "total")
    ids = p.node("Range", [p.scalar(0), total, p.scalar(1)], "ids")
    same = p.node("Equal", [p.node("Unsqueeze", [ids, p.ints(1)], "column"), wide], "same")
    member = p.node("Cast", [same], "member", to=FLOAT)
    counts = p.node("ReduceSum", [member, p.ints(1)], "counts", keepdims=0)
    kept = p.node("Cast", [p.node("Equal", [row, p.scalar(ALWAYS)], "is_break")], "breaks", to=FLOAT)
    breaks = p.node("ReduceSum", [kept, p.ints(0)], "count_of_breaks", keepdims=1)
    budget = p.node("Max", [p.node("Sub", [p.real(k), breaks], "rest"), p.real(0)], "budget")
    return Views(wide, p.node("Max", [row, p.scalar(0)], "own"), member, counts, budget, ids)


def add_row_scores(writer: GraphWriter, scores: str, order: str, output: str) -> None:
    """``output`` [1,L] of ``scores`` [T,N] float32: each row's own, in the ``order`` int64 [L] of the sequence; 0 for line breaks."""
    p = Piece(writer, output)
    flat = p.node("Reshape", [scores, p.ints(-1)], "flat")
    padded = p.node("Concat", [flat, p.node("Cast", [p.ints(0)], "break", to=FLOAT)], "padded", axis=0)
    writer.node("Unsqueeze", [p.node("Gather", [padded, order], "rows", axis=0), p.ints(0)], [output])
