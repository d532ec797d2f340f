"""Inputs that only some step graphs have, as plain decoding fills them: no masks, and every row sees those before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import tensors as names


def causal_rows(batch: int, rows: int) -> np.ndarray:
    """The input ``visible`` int64 [B,S,W] of a pass whose rows see those before them and themselves."""
    words = (rows + 63) // 64
    sees = np.zeros((rows, 64 * words), np.uint8)
    sees[:, :rows] = np.tril(np.ones((rows, rows), np.uint8))
    bits = np.packbits(sees, axis=-1, bitorder="little").view("<i8").astype(np.int64)
    return np.repeat(bits[None], batch, axis=0)


def plain_feeds(inputs: Iterable[str], batch: int, rows: int) -> dict[str, np.ndarray]:
    """Of the graph inputs named ``inputs``, those beyond a plain decoder's, for a pass of ``rows`` rows of ``batch`` sequences."""
    wanted = set(inputs)
    feeds: dict[str, np.ndarray] = {}
    if names.VISIBLE in wanted:
        feeds[names.VISIBLE] = causal_rows(batch, rows)
    if names.MASK_ROWS in wanted:
        feeds[names.MASK_ROWS] = np.zeros(0, np.int64)
    return feeds


def places(session: Any, positions: np.ndarray, past: np.ndarray) -> dict[str, np.ndarray]:
    """Where the rows of a pass go, as the graph of ``session`` takes it: ``positions`` int64 [B,S] of text, ``past`` int64 [B] filled slots.

    With M-RoPE a row of text has the same position three times. In layers behind a pruning text alone fills as many slots as everywhere.
    Where images become weights, text alone changes none.
    """
    taken = {i.name: i.shape for i in session.get_inputs()}
    feeds = {names.POSITIONS: positions}
    if len(taken[names.POSITIONS]) == 3:
        feeds[names.POSITIONS] = np.repeat(positions[None], 3, axis=0)
    if names.PAST_LEN in taken:
        feeds[names.PAST_LEN] = past
    if names.LATE_LEN in taken:
        feeds[names.LATE_LEN] = past
    for name, shape in taken.items():
        if name.startswith(names.DELTA.format("")):
            feeds[name] = np.zeros((len(past), *shape[1:]), np.float32)
    return feeds
