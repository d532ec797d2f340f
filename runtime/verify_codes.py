"""Replaying recorded images: the step graph in the order of the model's codes, fed with the recorded ones whatever it would choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .code_walk import CodeWalk


def replay_codes(
    session: Any, manifest: dict[str, Any], conditions: Sequence[int], recorded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [B,V] of the last draw, ids int64 [B,draws] that each draw would choose) for images of ``conditions`` [B].

    ``recorded`` int64 [B,draws] are all draws one after the other; they end with a turn.
    """
    walk = CodeWalk(session, manifest, np.array(conditions, np.int64))
    logits = walk.begin()
    chosen, at = [logits.argmax(-1)], 0
    while at + logits.shape[1] < recorded.shape[1]:
        now = recorded[:, at : at + logits.shape[1]]
        at += logits.shape[1]
        logits = walk.step(now)
        chosen.append(logits.argmax(-1))
    return logits[:, -1], np.concatenate(chosen, axis=1)
