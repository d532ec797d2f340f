"""Rows of the parity table for ``farthing::GroupedAccept``.

Codes are compared exactly, and rounding differs between faces by some 1e-7: tests/test_grouped_accept.py checks that no row has a
uniform number within MARGIN of a chance or of a running sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats

MARGIN = 2e-7
JUST_BELOW = 1 - 2.0**-24
_ROUNDED = "codes are compared exactly, and rounding the probabilities moves the boundaries between them"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of logits [...,V] as float32 probabilities."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


def uniforms(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 multiples of 2^-24 below 1, as the runtime draws them."""
    return (rng.integers(0, 2**24, count) * 2.0**-24).astype(np.float32)


def window(rng: np.random.Generator, length: int, codes: int, *, spread: float = 2.0) -> list[np.ndarray]:
    """p [L+1,V], q [L,V] near it, a draft of each q, uniform numbers: a window as models give it."""
    logits = floats(rng, length + 1, codes, scale=spread)
    p = softmax(logits)
    q = softmax(logits[:-1] + floats(rng, length, codes, scale=0.7))
    draft = [int(np.searchsorted(row.cumsum(), rng.random() * row.sum())) for row in q.astype(np.float64)]
    return [p, q, np.array(draft, np.int64), uniforms(rng, length + 1)]


def neighbours(rng: np.random.Generator, codes: int, columns: int) -> np.ndarray:
    """table [V,columns] of mode neighbourhood, for codes that stand in a random order on a circle: nearest first."""
    order = rng.permutation(codes)
    place = np.argsort(order)
    steps = np.arange(1, columns + 1)
    offsets = np.where(steps % 2 == 1, (steps + 1) // 2, -(steps // 2))
    return order[(place[:, None] + offsets) % codes].astype(np.int64)


def extras(mode: str, rng: np.random.Generator, codes: int, columns: int = 40) -> list[np.ndarray | None]:
    """What stands behind the uniform numbers in a mode that reads a table."""
    if mode == "partition":
        return [None, rng.integers(0, max(1, codes // 6), (codes, 1))]
    if mode == "neighbourhood":
        return [None, neighbours(rng, codes, min(columns, codes - 1))]
    return []


def _case(name: str, inputs: list[np.ndarray | None], mode: str, constants: tuple[str, ...] = (), **more: Any) -> Case:
    return Case(
        "GroupedAccept", f"{mode}-{name}", inputs, {"mode": mode, **more}, half_tolerance=None, half_reason=_ROUNDED,
        constants=constants,
    )  # fmt: skip


def _shapes() -> Iterator[Case]:
    for length, codes in [(1, 1), (1, 2), (3, 5), (2, 255), (16, 255), (7, 1000), (16, 16384)]:
        rng = np.random.default_rng(100 * length + codes)
        for mode in ("exact", "grouped", "partition", "neighbourhood"):
            if codes == 1 and mode == "neighbourhood":
                continue
            given = window(rng, length, codes)
            for seed in range(1 if codes > 1000 else 3):  # walks that end at different places
                numbers = uniforms(rng, length + 1)
                numbers[:-1] *= (0.3, 0.7, 1.0)[seed]
                inputs = [*given[:3], numbers, *extras(mode, rng, codes)]
                constants = ("table",) if seed == 0 and len(inputs) == 6 else ()
                yield _case(f"l{length}v{codes}-{seed}", inputs, mode, constants)


def _groups() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    p, q, draft, numbers = window(rng, 6, 300)
    embeds = floats(rng, 300, 8, scale=0.3)
    unit = np.zeros((300, 3), np.float32)
    unit[:, 0] = 0.5 * (np.arange(300) % 4)  # squared distances 0, 0.25, 1, 2.25, exactly
    for size in (1, 2, 3, 14, 15, 299, 300, 301, 5000):
        yield _case(f"size{size}", [p, q, draft, numbers], "grouped", group_size=size)
        yield _case(f"size{size}-embeds", [p, q, draft, numbers, embeds], "grouped", group_size=size)
    for name, tolerances in [
        ("prob-tol-zero", {"prob_tol": 0.0}),
        ("prob-tol-small", {"prob_tol": 0.001}),
        ("tolerances-infinite", {"prob_tol": float("inf"), "dist_tol": float("inf")}),
        ("dist-tol-zero", {"dist_tol": 0.0}),
        ("dist-tol-met", {"dist_tol": 0.25}),
        ("dist-tol-wide", {"dist_tol": 1.5}),
    ]:
        yield _case(name, [p, q, draft, numbers, unit], "grouped", ("embeds",), group_size=40, **tolerances)
    order = np.argsort(-p[:-1], axis=1, kind="stable")
    for rank in (0, 1, 6, 7, 8, 150, 292, 293, 294, 298, 299):
        near = np.ascontiguousarray(order[:, rank])
        for mode in ("exact", "grouped"):
            yield _case(f"rank{rank}", [p, q, near, numbers], mode)


def dyadic(rng: np.random.Generator, length: int, codes: int) -> list[np.ndarray]:
    """A window of multiples of 1/64 with many ties and zeros, and uniform numbers that are odd multiples of 2^-11: exact in float16."""
    rows = np.stack([rng.multinomial(64, rng.dirichlet(np.full(codes, 0.7))) for _ in range(2 * length + 1)])
    p, q = (rows[: length + 1] / 64).astype(np.float32), (rows[length + 1 :] / 64).astype(np.float32)
    draft = np.array([rng.choice(np.flatnonzero(row)) for row in q], np.int64)
    return [p, q, draft, ((2 * rng.integers(0, 1024, length + 1) + 1) / 2048).astype(np.float32)]


def _ties() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for codes in (9, 31, 64):
        for seed in range(4):
            given = dyadic(rng, 5, codes)
            given[3][:-1] *= np.float32((0.125, 0.5, 1, 1)[seed])
            for mode in ("exact", "grouped", "partition", "neighbourhood"):
                more: dict[str, Any] = {"delta": 0.3} if mode == "neighbourhood" else {}
                if mode == "grouped":
                    more = {"group_size": 2 + seed}
                yield Case(
                    "GroupedAccept",
                    f"{mode}-exact-numbers-v{codes}-{seed}",
                    [*given, *extras(mode, rng, codes, 7)],
                    {"mode": mode, **more},
                )
    flat = np.full((3, 40), 1 / 40, np.float32)
    for code in (0, 3, 20, 39):
        draft = np.array([code, 39 - code], np.int64)
        q = softmax(floats(rng, 2, 40))
        yield _case(f"all-equal-{code}", [flat, q, draft, uniforms(rng, 3)], "grouped")


def _neighbourhoods() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    p, q, draft, numbers = window(rng, 6, 120)
    point = np.zeros_like(q)
    point[np.arange(6), draft] = 1
    for columns in (1, 2, 60, 119):
        table = neighbours(rng, 120, columns)
        for name, given in (("drawn", q), ("point", point)):
            for delta, relative in [(0.0, 0), (0.1, 0), (0.4, 0), (0.999, 0), (0.0, 1), (2.0, 1), (50.0, 1)]:
                yield _case(
                    f"{name}-k{columns}-delta{delta:g}{'-relative' if relative else ''}",
                    [p, given, draft, numbers, None, table],
                    "neighbourhood",
                    ("table",),
                    delta=delta,
                    relative=relative,
                )
    # All the mass lies on x and its neighbours: nothing is left but p, or p without them.
    line = np.array([[1, 2], [2, 0], [0, 1], [0, 1]], np.int64)
    for name, row, theirs, u in [
        ("nothing-left", [0.25, 0.25, 0, 0], [1, 0, 0, 0], 0.75),
        ("others-left", [0.25, 0.25, 0, 0.5], [1, 0, 0, 1], 0.75),
        ("zero-neighbours", [0.25, 0, 0.75, 0], [1, 0, 0, 0], 0.6),
    ]:
        target = np.array([row, [0.25, 0.25, 0.25, 0.25]], np.float32)
        inputs = [target, np.array([theirs], np.float32), np.array([0]), np.array([u, 0.375], np.float32), None, line]
        yield Case("GroupedAccept", f"neighbourhood-{name}", inputs, {"mode": "neighbourhood", "delta": 0.25})


def _values() -> Iterator[Case]:
    rng = np.random.default_rng(5)
    for mode in ("exact", "grouped", "partition", "neighbourhood"):
        p, q, draft, numbers = window(rng, 4, 50, spread=1.0)
        more = extras(mode, rng, 50)
        last = numbers[-1]

        def row(name: str, changed: list[np.ndarray | None], mode: str = mode, more: list = more) -> Case:
            return _case(name, [*changed, *more], mode)

        yield row("equal", [p, p[:-1].copy(), draft, numbers])
        yield row("equal-refused", [p, 2 * p[:-1], draft, np.array([0.2, 0.9, 0.9, 0.9, last], np.float32)])
        yield row("uniforms-zero", [p, q, draft, np.zeros(5, np.float32)])
        below = np.full(5, JUST_BELOW, np.float32)
        yield row("uniforms-below-1", [p, q, draft, below])
        yield row("uniforms-below-1-stands", [p, p[:-1].copy(), draft, below])
        none, never, neither = p.copy(), q.copy(), np.arange(4)
        none[neither, draft] = 0
        never[neither, draft] = 0
        low = np.array([0.01, 0.01, 0.01, 0.01, last], np.float32)
        yield row("p-of-x-zero", [none, q, draft, low])
        yield row("q-of-x-zero", [p, never, draft, low])
        yield row("both-zero", [none, never, draft, low])
        point = np.zeros_like(q)
        point[neither, draft] = 1
        yield row("one-hot", [p, point, draft, low])
        yield row("one-hot-on-top", [p, point, p[:-1].argmax(axis=1), numbers])
        other = np.roll(point, 1, axis=1)
        yield row("one-hot-elsewhere", [p, other, draft, low])
        empty = p.copy()
        empty[0] = 0
        yield row("no-target", [empty, q, draft, numbers])
        yield row("no-draft", [p, np.zeros_like(q), draft, numbers])
        yield row("nothing", [np.zeros_like(p), np.zeros_like(q), draft, numbers])
        odd_p, odd_q = p.copy(), q.copy()
        odd_p[:, [3, 20]], odd_p[:, 7] = np.nan, -0.5
        odd_q[:, [3, 21]], odd_q[:, 9] = np.nan, -1.0
        yield row("nan-and-negative", [odd_p, odd_q, draft, numbers])
        odd_draft = np.array([3, 7, 9, 21], np.int64)
        yield row("nan-at-x", [odd_p, odd_q, odd_draft, low])
        yield row("not-normalised", [7 * p, 5 * q, draft, numbers])
    p, q, draft, numbers = window(rng, 4, 50)
    clusters, places = rng.integers(0, 50, (50, 1)), floats(rng, 50, 3)
    for name, one in [("one-cluster", np.full((50, 1), 49)), ("own-clusters", np.arange(50)[::-1, None].copy())]:
        yield _case(name, [p, q, draft, numbers, None, one], "partition")
    # embeds may stand before the table: TensorRT's plugins know no hole among their inputs.
    unused = {"rtx_body": "embeds has no use here"}
    for mode, behind in (("exact", None), ("partition", clusters), ("neighbourhood", neighbours(rng, 50, 9))):
        inputs: list[np.ndarray | None] = [p, q, draft, numbers, places, *([] if behind is None else [behind])]
        yield Case(
            "GroupedAccept", f"{mode}-embeds", inputs, {"mode": mode}, half_tolerance=None, half_reason=_ROUNDED,
            skips=unused,
        )  # fmt: skip


def _refused() -> Iterator[Case]:
    rng = np.random.default_rng(6)
    good = window(rng, 3, 8)
    p, q, draft, numbers = good
    clusters, near = np.zeros((8, 1), np.int64), neighbours(rng, 8, 3)

    def bad(
        name: str, says: str | tuple[str, ...], stage: str, mode: str, inputs: list[np.ndarray | None], **more: Any
    ) -> Case:
        return Case("GroupedAccept", f"bad-{name}", inputs, {"mode": mode, **more}, refuses=says, stage=stage)

    attributes: list[tuple[str, str, dict[str, Any]]] = [
        ("mode", "mode is 'best', expected", {"mode": "best"}),
        ("group-size", "group_size is 0, expected 1 or more", {"group_size": 0}),
        ("group-size-negative", "group_size is -3, expected 1 or more", {"group_size": -3}),
        ("prob-tol", "prob_tol is -0.5", {"prob_tol": -0.5}),
        ("prob-tol-nan", "prob_tol is", {"prob_tol": float("nan")}),
        ("dist-tol", "dist_tol is -1", {"dist_tol": -1.0}),
        ("delta", "delta is -0.25", {"delta": -0.25}),
        ("delta-nan", "delta is nan", {"delta": float("nan")}),
        ("delta-one", "delta is 1", {"delta": 1.0}),
        ("delta-above", "delta is 2.5", {"delta": 2.5}),
        ("delta-infinite", "delta is inf", {"delta": float("inf"), "relative": 1}),
        ("relative", "relative is 2, expected 0 or 1", {"relative": 2}),
    ]
    for name, says, more in attributes:
        mode = more.pop("mode", "exact")
        yield bad(name, says, "attributes", mode, [*good], **more)
    shapes: list[tuple[str, str | tuple[str, ...], str, list[np.ndarray | None]]] = [
        ("p-rows", "p is [3,8]", "exact", [p[:3], q, draft, numbers]),
        ("p-codes", ("p is [4,7]", "q is [3,8]"), "exact", [p[:, :7], q, draft, numbers]),
        ("p-rank", "p is [8]", "exact", [p[0], q, draft, numbers]),
        ("q-rank", "q is [8]", "exact", [p, q[0], draft, numbers]),
        ("no-drafts", "is [0,8]", "exact", [p[:1], q[:0], draft[:0], numbers[:1]]),
        ("no-codes", "is [3,0]", "exact", [p[:, :0], q[:, :0], draft, numbers]),
        ("draft-length", "draft is [2]", "exact", [p, q, draft[:2], numbers]),
        ("uniforms-length", "uniforms is [3]", "exact", [p, q, draft, numbers[:3]]),
        ("embeds-rows", "embeds is [7,2]", "grouped", [p, q, draft, numbers, floats(rng, 7, 2)]),
        ("embeds-rank", "embeds is [8]", "grouped", [p, q, draft, numbers, floats(rng, 8)]),
        ("table-rows", "table is [7,3]", "neighbourhood", [*good, None, near[:7]]),
        ("table-rank", "table is [8]", "partition", [*good, None, clusters[:, 0]]),
        ("table-columns", "table is [8,3]", "partition", [*good, None, near]),
        (
            "table-all",
            "table is [8,8]",
            "neighbourhood",
            [*good, None, np.concatenate([near, near, near[:, :2]], axis=1)],
        ),
        ("table-empty", "table is [8,0]", "neighbourhood", [*good, None, near[:, :0]]),
        ("partition-without-table", "table is absent, expected present in mode partition", "partition", [*good]),
        ("neighbourhood-without-table", "table is absent", "neighbourhood", [*good, floats(rng, 8, 2)]),
        ("exact-with-table", "table is present, expected absent in mode exact", "exact", [*good, None, clusters]),
        ("grouped-with-table", "table is present", "grouped", [*good, floats(rng, 8, 2), near]),
    ]
    for name, words, mode, inputs in shapes:
        yield bad(name, words, "shapes", mode, inputs)
    for name, says, at, value in [
        ("draft-beyond", "draft[1] is 8, expected 0 to 7", 2, 8),
        ("draft-negative", "draft[1] is -1, expected 0 to 7", 2, -1),
        ("uniform-one", "uniforms[1] is 1", 3, 1.0),
        ("uniform-negative", "uniforms[1] is -0.5", 3, -0.5),
        ("uniform-nan", "uniforms[1] is", 3, np.nan),
    ]:
        copies = [a.copy() for a in good]
        copies[at][1] = value
        yield bad(name, says, "values", "exact", [*copies])
    for mode, entries in (("partition", clusters), ("neighbourhood", near)):
        for value in (8, -1):
            wrong = entries.copy()
            wrong[5, 0] = value
            says = f"table[5,0] is {value}, expected 0 to 7"
            yield bad(f"{mode}-entry{value}", says, "values", mode, [*good, None, wrong])


def cases() -> Iterator[Case]:
    """All rows."""
    yield from _shapes()
    yield from _groups()
    yield from _ties()
    yield from _neighbourhoods()
    yield from _values()
    yield from _refused()
