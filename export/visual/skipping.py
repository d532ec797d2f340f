"""Reduction that drops no rows: visual rows leave parts of some layers out (Shukor and Cord 2024, arXiv 2405.16700)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import RequestError, found_wanted
from ..checkpoint.vlm_folder import VlmFolder
from ..graph.visual_step import ATTENTION, BLOCK, FFN, SKIPS
from .reduction import FULL, SKIP, Level, Reduction

Plan = dict[int, str]
"""Layer -> what visual rows leave out there."""

_PART = re.compile(r"(\d+)(?:-(\d+))?:(\w+)")


def read_plan(plan: str | Path | Mapping[Any, str]) -> Plan:
    """Of text (``2-5:ffn,7:attention``; empty: nothing), of a report of `farthing ima-report` (.json), or of a mapping. Raises RequestError."""
    if isinstance(plan, Path) or (isinstance(plan, str) and plan.endswith(".json")):
        plan = _from_report(Path(plan))
    if isinstance(plan, str):
        parsed: Plan = {}
        for part in filter(None, (p.strip() for p in plan.split(","))):
            match = _PART.fullmatch(part)
            if match is None:
                raise RequestError(
                    found_wanted("part of the plan", repr(part), "like 2-5:ffn or 7:attention", "correct it")
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last - first > 9999:
                raise RequestError(
                    found_wanted("layers of the plan", repr(part), "the smaller number first", "correct it")
                )
            for layer in range(first, last + 1):
                if layer in parsed:
                    raise RequestError(found_wanted(f"layer {layer} of the plan", "named twice", "once", "correct it"))
                parsed[layer] = match[3]
        plan = parsed
    found: Plan = {}
    for named, what in plan.items():
        if isinstance(named, bool) or not str(named).isdecimal() or what not in SKIPS:
            raise RequestError(
                found_wanted("plan", f"{named!r}: {what!r}", f"a layer and one of {', '.join(SKIPS)}", "correct it")
            )
        found[int(named)] = what
    return dict(sorted(found.items()))


def _from_report(path: Path) -> Mapping[str, str]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            found_wanted(
                f"plan {path}", f"not readable ({error})", "a report of `farthing ima-report`", "check the path"
            )
        ) from error
    plan = report.get("plan", report) if isinstance(report, dict) else report
    if not isinstance(plan, dict) or not all(isinstance(v, str) for v in plan.values()):
        raise RequestError(
            found_wanted(
                f"plan of {path}", type(plan).__name__, 'an object like {"2": "ffn"}', "write the report again"
            )
        )
    return plan


def plan_text(plan: Plan) -> str:
    """A plan as `read_plan` takes it."""
    return ",".join(f"{layer}:{what}" for layer, what in sorted(plan.items()))


class ImaSkip(Reduction):
    """Levels ``full`` and ``skip``. ``measured`` goes into the manifest: what the guard found, or that nobody asked it."""

    method = "ima-skip"

    def __init__(self, plan: Plan, measured: Mapping[str, Any]) -> None:
        self.plan, self._measured = plan, dict(measured)
        self.guarantee = "lossy" if plan else "exact"

    def check(self, model: VlmFolder) -> None:
        """Layers that exist. The last is none of them: behind its keys and values a visual pass has nothing to leave out. Raises RequestError."""
        last = model.config.layers - 1
        wrong = [layer for layer in self.plan if layer >= last]
        if wrong:
            raise RequestError(
                found_wanted(
                    "layer of the plan",
                    wrong[0],
                    f"0 to {last - 1}",
                    "of the last layer visual rows are keys and values alone in any bundle",
                )
            )

    def levels(self, model: VlmFolder, rows: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
        """One."""
        return (Level(SKIP, 0.0, skip=self.plan),)

    def default_level(self) -> str:
        """What was asked for; the same as `FULL` with an empty plan."""
        return SKIP if self.plan else FULL

    def about(self) -> dict[str, Any]:
        """The plan, and what it costs."""
        return {
            "plan": {str(layer): what for layer, what in self.plan.items()},
            "skip_ffn": [layer for layer, what in self.plan.items() if what in (FFN, BLOCK)],
            "skip_attention": [layer for layer, what in self.plan.items() if what in (ATTENTION, BLOCK)],
            **self._measured,
        }
