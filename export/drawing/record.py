"""Drawing a few images with fresh graphs, by their bodies and greedily, and recording what they say."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.code_walk import Conditions, MadeText, open_walk
from ..graph import Progress
from ..vectors.record import NEW_TOKENS, Case, open_graph


@dataclass(frozen=True)
class Run:
    """Images of some ``conditions``: of each turn ``drawn`` int64 [B,draws] and ``logits`` float32 [B,draws,V]."""

    conditions: Conditions
    drawn: list[np.ndarray]
    logits: list[np.ndarray]

    def cases(self) -> list[dict[str, Any]]:
        """Of each image the ids of all draws in their order, and logits of the last, which depend on all before."""
        made = isinstance(self.conditions, MadeText)
        found = []
        for i in range(len(self.drawn[0])):
            condition = 0 if isinstance(self.conditions, MadeText) else int(self.conditions[i])
            ids = np.concatenate([d[i] for d in self.drawn]).tolist()
            rows = np.concatenate([r[i] for r in self.logits])
            case = Case([condition], ids, rows).as_json()
            case["logits"] = Case([condition], ids[-1:], rows[-1:]).as_json()["logits"]
            found.append({**case, "text": self.conditions.as_json()} if made else case)  # type: ignore[union-attr]
        return found


@dataclass(frozen=True)
class DrawnRecording:
    """All runs of a bundle."""

    runs: list[Run]

    def as_json(self) -> dict[str, Any]:
        """The content of vectors/ar_step.json."""
        return {"cases": [case for run in self.runs for case in run.cases()], "logits_of": "last"}


def record_drawing(
    graphs: Path, manifest: dict[str, Any], conditions: Sequence[Conditions], progress: Progress
) -> DrawnRecording:
    """Whole images where a pass decides a diagonal, else the first NEW_TOKENS turns, from each of ``conditions``."""
    opened = functools.cache(lambda name: open_graph(graphs / f"{name}.onnx"))
    runs = []
    for number, condition in enumerate(conditions):
        walk = open_walk(opened, manifest, condition)
        turns = walk.turns if walk.order.name == "diagonal" else min(NEW_TOKENS, walk.turns)
        logits = [walk.begin()]
        drawn = [logits[0].argmax(-1)]
        while len(drawn) < turns:
            logits.append(walk.step(drawn[-1]))
            drawn.append(logits[-1].argmax(-1))
            progress("recording vectors", number * turns + len(drawn), len(conditions) * turns)
        runs.append(Run(condition, drawn, logits))
    return DrawnRecording(runs)
