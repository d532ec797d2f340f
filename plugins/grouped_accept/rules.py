"""Names and checks shared by the faces of ``farthing::GroupedAccept`` that live in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

MODES = ("exact", "grouped", "partition", "neighbourhood")
TABLED = ("partition", "neighbourhood")
"""Modes that read ``table``; the others refuse it."""

DEFAULTS: dict[str, Any] = {"group_size": 14, "prob_tol": 0.15, "dist_tol": 0.5, "delta": 0.1, "relative": 0}
"""Group and tolerances: what the authors of grouped speculative decoding released. delta: LANTERN's."""


def refuse(what: str, found: object, wanted: str, fix: str) -> NoReturn:
    """Raise the ValueError of the contract; kernel and plugin say the same sentence."""
    raise ValueError(f"GroupedAccept: {what} is {found}, expected {wanted}; {fix}")


def single(value: float) -> float:
    """A float attribute as a node stores it, in float32."""
    return float(np.float32(value))


def rules(attributes: Mapping[str, Any]) -> None:
    """Refuse attributes that no input can make right. Raises ValueError."""
    a = {**DEFAULTS, **attributes}
    if a["mode"] not in MODES:
        refuse("mode", repr(a["mode"]), " or ".join(MODES), "choose one of them")
    if a["group_size"] < 1:
        refuse("group_size", a["group_size"], "1 or more", "1 is the exact rule")
    for name in ("prob_tol", "dist_tol"):
        if not a[name] >= 0.0:  # also catches NaN
            refuse(name, a[name], "0 or more", "0 keeps the draft alone in its group")
    if a["relative"] not in (0, 1):
        refuse("relative", a["relative"], "0 or 1", "1 measures delta in units of the draft's own probability")
    if not 0.0 <= a["delta"] < float("inf"):
        refuse("delta", a["delta"], "0 or more and finite", "0 is the exact rule")
    if not a["relative"] and single(a["delta"]) >= 1.0:
        refuse("delta", a["delta"], "below 1", "1 accepts every draft; for a multiple of p(x) set relative to 1")


def check_table(mode: str, table: bool) -> None:
    """Refuse a table where the mode has none, and the reverse."""
    if mode in TABLED and not table:
        what = "the cluster of each code" if mode == "partition" else "the nearest codes of each code"
        refuse("table", "absent", f"present in mode {mode}", f"connect {what}")
    if mode not in TABLED and table:
        refuse("table", "present", f"absent in mode {mode}", "drop it, or choose partition or neighbourhood")
