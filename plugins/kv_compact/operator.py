"""Contract, reference and body of ``farthing::KvCompact``.

A verified tree leaves its accepted path scattered over the slots past_len .. past_len + S - 1. This operator moves row
rows[b,t] of the pass to row t, for t < count[b], in keys and values of one layer; afterwards the cache is that of plain
decoding, and the new length is past_len + count. Keys keep their rotation: a row was rotated by its depth, not by its slot.
Chains need no compaction, and neither does a pass whose real rows come before its mask rows.

rows[b,t] >= t always holds for an ascending path, and is what makes moving in place safe: going up in t, a slot is read before
anything is written to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract import Operator, Port

if TYPE_CHECKING:
    import torch

INPUTS = ("past_k", "past_v", "past_len", "rows", "count")


def _check(capacity: int, past: int, rows: list[int], count: int) -> None:
    if not 0 <= past <= capacity - len(rows):
        raise ValueError(
            f"KvCompact: past_len + rows is {past} + {len(rows)}, expected 0 to {capacity}; give rows of the last pass only"
        )
    if not 0 <= count <= len(rows):
        raise ValueError(f"KvCompact: count is {count}, expected 0 to {len(rows)}; count the accepted rows")
    for t, row in enumerate(rows[:count]):
        if not t <= row < capacity - past:
            raise ValueError(
                f"KvCompact: row {t} is {row}, expected {t} to {capacity - past - 1}; list the accepted rows in ascending order"
            )


def reference(
    past_k: torch.Tensor, past_v: torch.Tensor, past_len: torch.Tensor, rows: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(present_k, present_v) [B,Hkv,C,dh]: copies with the rows moved. Shapes as in ``OPERATOR``. Raises ValueError."""
    present = (past_k.clone(), past_v.clone())
    for b in range(past_k.shape[0]):
        past, n, order = int(past_len[b]), int(count[b]), rows[b].tolist()
        _check(past_k.shape[2], past, order, n)
        for before, after in zip((past_k, past_v), present, strict=True):
            after[b, :, past : past + n] = before[b, :, past + rows[b, :n]]
    return present


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """GatherElements of the sources, TensorScatter to the front; rows from count on are gathered from where they go."""
    from ..body_writer import BodyWriter

    w = BodyWriter("KvCompact")
    zero = w.ints(0)
    length = w.node("Squeeze", [w.node("Shape", ["rows"], start=1, end=2), zero])
    place = w.node("Range", [w.scalar(0), length, w.scalar(1)])  # [N]
    # source = t + (t < count) * (rows - t): no Where, and what stands in rows behind count does not matter.
    taken = w.node("Cast", [w.node("Less", [place, w.node("Unsqueeze", ["count", w.ints(1)])])], to=7)
    source = w.node("Add", [place, w.node("Mul", [taken, w.node("Sub", ["rows", place])])])
    slot = w.node("Add", [source, w.node("Unsqueeze", ["past_len", w.ints(1)])])  # [B,N]
    column = w.node("Unsqueeze", [slot, w.ints(1, 3)])  # [B,1,N,1]
    shape = w.node("Shape", ["past_k"])
    sizes = [w.node("Slice", [shape, w.ints(i), w.ints(i + 1)]) for i in (0, 1, 3)]
    wanted = w.node("Concat", [sizes[0], sizes[1], w.node("Shape", ["rows"], start=1, end=2), sizes[2]], axis=0)
    index = w.node("Expand", [column, wanted])
    for name in "kv":
        moved = w.node("GatherElements", [f"past_{name}", index], axis=2)
        w.node("TensorScatter", [f"past_{name}", moved, "past_len"], outputs=[f"present_{name}"], axis=2)
    return w.function(INPUTS, ["present_k", "present_v"])


_F32 = ("float32",)
_CACHE = ("B", "Hkv", "C", "dh")
OPERATOR = Operator(
    name="KvCompact",
    doc="Moves the accepted rows of a drafted pass together, in place, in keys and values of a layer.",
    inputs=(
        Port("past_k", _CACHE, _F32, "key cache after the pass"),
        Port("past_v", _CACHE, _F32, "value cache after the pass"),
        Port("past_len", ("B",), ("int64",), "slots filled before the pass"),
        Port("rows", ("B", "N"), ("int64",), "rows of the pass that were accepted, ascending; anything from count on"),
        Port("count", ("B",), ("int64",), "how many of rows count"),
    ),
    outputs=(
        Port("present_k", _CACHE, _F32, "slot past_len + t holds what row rows[t] held", alias="past_k"),
        Port("present_v", _CACHE, _F32, "the same of the values", alias="past_v"),
    ),
    attributes=(),
    cost="16*Hkv*dh bytes for each row that moves; the whole cache once more where the buffers differ",
    errors=(
        "past_len + N exceeds C, or past_len is negative",
        "count above N or below 0",
        "a row below its place, or beyond the cache",
    ),
    body=body,
    reference=reference,
)
