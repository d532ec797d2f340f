"""Choosing the level with the fewest visual tokens whose loss is bearable, and writing the choice into a bundle."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import RequestError, found_wanted
from ...runtime.bundle import edit_manifest
from .intervals import Interval, Z
from .levels import BundleResult, LevelResult, Sweep
from .trial import FULL

MOST_LOSS, MOST_KL = 0.02, 0.05
"""Two of a hundred answers; a twentieth of a nat a token. What is asked for where nothing is said."""


@dataclass(frozen=True)
class Choice:
    """``level`` of the bundle ``path``: the fewest rows among levels whose ``measure`` (loss or kl) is at most ``most``.

    ``by``: ``interval`` (its high end was compared) or ``mean``. ``remark``: why it is ``full``, if it is; else empty.
    """

    path: str
    level: str
    before: str
    measure: str
    most: float
    by: str
    remark: str


def choose(
    sweep: Sweep, *, most_loss: float | None = None, most_kl: float | None = None, by_mean: bool = False
) -> list[Choice]:
    """One choice for each bundle. ``most_loss``: of accuracy, where there are answers; ``most_kl``: nats a token; one of them.

    A level passes if the *high end* of its interval is within the bound: then it is, in 97.5 of 100 cases. That asks for many items, 189 for a
    loss of 0.02 even if no answer changes. ``by_mean`` compares the mean, which passes levels that were lucky. Of equal rows the
    fewer FLOPs win; ``full`` always passes. Raises RequestError.
    """
    if most_loss is not None and most_kl is not None:
        raise RequestError(found_wanted("bounds", "--most-loss and --most-kl", "one of them", "leave one out"))
    if most_loss is not None and not sweep.answered:
        raise RequestError(
            found_wanted("--most-loss", "given for questions without answers", "--most-kl", "or add answers")
        )
    measure = "loss" if most_loss is not None or (most_kl is None and sweep.answered) else "kl"
    most = MOST_LOSS if measure == "loss" else MOST_KL
    if (asked := most_loss if measure == "loss" else most_kl) is not None:
        most = check_bound(f"--most-{measure}", asked)
    return [_choose(bundle, sweep, measure, most, by_mean) for bundle in sweep.bundles]


def check_bound(what: str, bound: float) -> float:
    """``bound`` if it is a number from 0 on. Raises RequestError."""
    if not (math.isfinite(bound) and bound >= 0):
        raise RequestError(found_wanted(what, bound, "a number from 0 on", "correct it"))
    return bound


def _choose(bundle: BundleResult, sweep: Sweep, measure: str, most: float, by_mean: bool) -> Choice:
    by = "mean" if by_mean else "interval"

    def lost(level: LevelResult) -> float:
        found: Interval = getattr(level, measure)
        return found.value if by_mean else found.high

    accuracy = bundle.level(FULL).accuracy
    if measure == "loss" and accuracy is not None and accuracy.value <= most:
        remark = f"full itself is right in {accuracy.value:.3g} of the answers, so no level can lose more: use questions that it can answer"
        return Choice(bundle.path, FULL, bundle.current, measure, most, by, remark)
    good = [level for level in bundle.levels if level.level == FULL or lost(level) <= most]
    best = min(good, key=lambda level: (level.rows, level.flops))
    remark = ""
    if best.level == FULL:
        nearest = min((level for level in bundle.levels if level.level != FULL), key=lost)
        remark = f"the nearest, {nearest.level}, has {lost(nearest):.3g}"
        if measure == "loss" and not by_mean:
            able = Z * Z / (sweep.answered + Z * Z)
            if able > most:
                needed = math.ceil(Z * Z * (1 - most) / most) if most > 0 else 0
                remark += f"; {sweep.answered} answers cannot show a loss below {able:.3g}"
                remark += f", {needed} could" if needed else ", and no number of them a loss of 0"
    return Choice(bundle.path, best.level, bundle.current, measure, most, by, remark)


def apply_choice(choice: Choice, sweep: Sweep) -> dict[str, Any]:
    """Make the chosen level that of requests which name none, and record in the manifest what was measured; returns the record.

    The manifest is replaced as a whole or not at all. Raises BundleError.
    """
    bundle = next(b for b in sweep.bundles if b.path == choice.path)
    record: dict[str, Any] = {
        "level": choice.level,
        "measure": choice.measure,
        "most": choice.most,
        "by": choice.by,
        "items": sweep.items,
        "answered": sweep.answered,
        "max_new_tokens": sweep.max_new_tokens,
        "data": sweep.data,
        "levels": [_short(asdict(level)) for level in bundle.levels],
    }

    def change(manifest: dict[str, Any]) -> None:
        levels = [level["id"] for level in manifest["vision"]["levels"]]
        if choice.level not in levels:
            raise RequestError(
                found_wanted(f"level {choice.level} of {choice.path}", "gone", f"one of {levels}", "measure again")
            )
        manifest["vision"]["level"] = choice.level
        manifest["vision"]["choice"] = record

    edit_manifest(choice.path, change)
    return record


def _short(value: Any) -> Any:
    """Numbers with six digits: more are noise of one run."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return {k: _short(v) for k, v in value.items()} if isinstance(value, dict) else value
