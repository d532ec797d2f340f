"""Inputs of a pass of `mtp_step` that its ids do not say: who sees whom, which rows are masks. numpy only."""

from __future__ import annotations

import numpy as np

from ..plugins.cached_attention.visible import block_positions, block_sees, pack_rows
from . import tensors as names
from .plain_feeds import plain_feeds


def causal_feeds(batch: int, rows: int) -> dict[str, np.ndarray]:
    """Of a pass without masks: every row sees those before it."""
    return plain_feeds((names.VISIBLE, names.MASK_ROWS), batch, rows)


def mask_feeds(real: int, masks: int, past: np.ndarray) -> dict[str, np.ndarray]:
    """Of a quadratic pass: ``real`` rows a sequence, then ``masks`` masks behind each. All inputs but the ids; past int64 [B]."""
    batch, size = len(past), real * (1 + masks)
    return {
        names.POSITIONS: past[:, None] + block_positions(real, masks),
        names.PAST_LEN: past,
        names.VISIBLE: np.repeat(pack_rows(block_sees(real, masks)[None]), batch, axis=0),
        names.MASK_ROWS: (np.arange(batch)[:, None] * size + np.arange(real, size)).ravel(),
        names.LOGIT_ROWS: np.repeat(np.arange(real)[None], batch, axis=0),
    }
