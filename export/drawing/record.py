"""Drawing a few images with fresh graphs, by their bodies and greedily, and recording what they say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.code_walk import CodeWalk
from ...runtime.image_tensors import AR_STEP
from ..graph import Progress
from ..vectors.record import NEW_TOKENS, Case, open_graph


@dataclass(frozen=True)
class DrawnRecording:
    """``conditions`` int64 [B]; of each turn ``drawn`` int64 [B,draws] and ``logits`` float32 [B,draws,V]."""

    conditions: np.ndarray
    drawn: list[np.ndarray]
    logits: list[np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """The content of vectors/ar_step.json: ids of all draws in their order, and logits of the last, which depend on all before."""
        cases = []
        for i, condition in enumerate(self.conditions.tolist()):
            ids = np.concatenate([d[i] for d in self.drawn]).tolist()
            rows = np.concatenate([r[i] for r in self.logits])
            case = Case([condition], ids, rows).as_json()
            cases.append({**case, "logits": Case([condition], ids[-1:], rows[-1:]).as_json()["logits"]})
        return {"cases": cases, "logits_of": "last"}


def record_drawing(graphs: Path, manifest: dict[str, Any], progress: Progress) -> DrawnRecording:
    """First class, last class and no class: whole images where a pass decides a diagonal, else the first NEW_TOKENS turns."""
    image = manifest["image_codes"]
    codes, classes = int(image["codes"]), int(image["classes"])
    conditions = np.array([codes, codes + classes - 1, codes + classes], np.int64)
    walk = CodeWalk(open_graph(graphs / f"{AR_STEP}.onnx"), manifest, conditions)
    turns = walk.turns if walk.order.name == "diagonal" else min(NEW_TOKENS, walk.turns)
    logits = [walk.begin()]
    drawn = [logits[0].argmax(-1)]
    while len(drawn) < turns:
        logits.append(walk.step(drawn[-1]))
        drawn.append(logits[-1].argmax(-1))
        progress("recording vectors", len(drawn), turns)
    return DrawnRecording(conditions, drawn, logits)
