"""Rows of the speed table for ``farthing::GroupedAccept``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..bench import Bench
from .cases import extras, window

LENGTH, CODES = 16, 16384


def rows() -> Iterator[Bench]:
    """LlamaGen's 16,384 codes and a window of 16, refused in the middle.

    What is needed at least: grouped, all rows of p, from which the nearest codes are found; partition, the table and the members of 16 clusters;
    the others, single numbers. And for the draw the row of p and of q where the walk ends, for a partition also the table.
    """
    row, many = CODES * 4, LENGTH * CODES * 4
    sizes: list[tuple[str, str, dict[str, Any], int]] = [
        ("exact", "exact", {}, 2 * row),
        ("grouped", "grouped 14", {}, many + 2 * row),
        ("grouped", "grouped 14, embeds", {}, many + 2 * row),
        ("grouped", "grouped 500", {"group_size": 500}, many + 2 * row),
        ("partition", "partition, 2730 clusters", {}, 4 * row),
        ("neighbourhood", "neighbourhood 100", {"delta": 0.1}, 2 * row),
    ]
    for mode, name, more, moved in sizes:
        yield _row(mode, name, more, float(moved))


def _row(mode: str, name: str, more: dict[str, Any], moved: float) -> Bench:
    rng = np.random.default_rng(0)
    p, q, draft, numbers = window(rng, LENGTH, CODES)
    numbers[: LENGTH // 2], numbers[LENGTH // 2 : -1] = 0.0, 1 - 2.0**-24
    inputs: list[np.ndarray | None] = [p, q, draft, numbers, *extras(mode, rng, CODES, 100)]
    if name.endswith("embeds"):
        inputs.append(0.2 * rng.standard_normal((CODES, 8), dtype=np.float32))
    return Bench(
        "GroupedAccept",
        f"{name} of {LENGTH} x {CODES}",
        inputs,
        0.0,
        moved,
        {"mode": mode, **more},
        constants=("table",) if len(inputs) == 6 else ("embeds",) if len(inputs) == 5 else (),
        note="p and q are 2.1 MB; only grouped reads all of one" if name == "exact" else "",
    )
