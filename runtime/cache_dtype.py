"""What the key/value cache of a bundle is made of, as its manifest says: float32, or int8 codes whose scales are in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def cache_dtype(kv: Mapping[str, Any]) -> np.dtype[Any]:
    """The dtype of keys and values, from ``kv`` of a manifest."""
    return np.dtype(kv["dtype"])


def empty_cache(kv: Mapping[str, Any], slots: int, batch: int = 1) -> np.ndarray:
    """Keys or values of one layer before the first pass: zeros [B,Hkv,slots,dh].

    Zeros, not whatever memory holds: a slot that is masked out must still hold numbers, since 0 x NaN is NaN.
    """
    return np.zeros((batch, kv["kv_heads"], slots, kv["head_dim"]), cache_dtype(kv))
