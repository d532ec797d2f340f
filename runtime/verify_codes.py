"""Replaying recorded images: the step graph in the order of the model's codes, fed with the recorded ones whatever it would choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .code_walk import Conditions, open_walk


def replay_codes(
    opened: Callable[[str], Any], manifest: dict[str, Any], conditions: Conditions, recorded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [B,V] of the last draw, ids int64 [B,draws] that each draw would choose) for images of ``conditions``.

    ``opened`` gives the session of a graph by name. ``recorded`` int64 [B,draws] are all draws one after the other; they end with a turn.
    """
    walk = open_walk(opened, manifest, conditions)
    logits = walk.begin()
    chosen, at = [logits.argmax(-1)], 0
    while at + logits.shape[1] < recorded.shape[1]:
        now = recorded[:, at : at + logits.shape[1]]
        at += logits.shape[1]
        logits = walk.step(now)
        chosen.append(logits.argmax(-1))
    return logits[:, -1], np.concatenate(chosen, axis=1)
