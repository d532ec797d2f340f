"""Replaying the recorded judge of a bundle: does its output say here what it said at export?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import BundleError, found_wanted
from . import tensors as names
from .bundle import Bundle
from .cache_dtype import empty_cache
from .plain_feeds import plain_feeds

JUDGE_TOLERANCE = 2e-3
"""Largest difference of a probability. A threshold that lies closer to many of them than that must be calibrated again."""


def read_judge(bundle: Bundle) -> list[tuple[list[int], np.ndarray]]:
    """(prompt, P(good) float32 [its length]) as recorded. Raises BundleError where they are not what an exporter writes."""
    name, vocab = bundle.manifest["vectors"], bundle.manifest["model"]["vocab_size"]
    try:
        found = []
        for raw in json.loads(bundle.text(name))["judge"]:
            ids, good = [int(i) for i in raw["prompt_ids"]], np.array(raw["good"], np.float32)
            if not ids or min(ids) < 0 or max(ids) >= vocab or good.shape != (len(ids),):
                raise ValueError("no prompt, an id outside the vocabulary, or not one number a token")
            found.append((ids, good))
        return found
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BundleError(
            found_wanted(
                f"judge of {bundle.path / name}", f"unusable ({error!r})", "recorded values", "export the bundle again"
            )
        ) from error


def judge_failure(bundle: Bundle, session: Any, tolerance: float) -> str | None:
    """The house sentence about the first recorded prompt of which the judge thinks otherwise here, or None."""
    kv, inputs = bundle.manifest["kv"], bundle.step_inputs
    pasts = [n.format(i) for i in range(kv["layers"]) for n in (names.PAST_K, names.PAST_V)]
    allowed = max(JUDGE_TOLERANCE, 10 * tolerance)
    for number, (ids, good) in enumerate(read_judge(bundle)):
        rows = np.arange(len(ids), dtype=np.int64)[None]
        empty = empty_cache(kv, len(ids))
        feeds = {
            names.INPUT_IDS: np.array([ids], np.int64),
            names.POSITIONS: rows,
            names.PAST_LEN: np.zeros(1, np.int64),
            names.LOGIT_ROWS: rows,
            **plain_feeds(inputs, 1, len(ids)),
            **{name: empty.copy() for name in pasts},
        }
        apart = float(np.nan_to_num(np.abs(session.run([names.JUDGE], feeds)[0][0] - good), nan=np.inf).max())
        if not apart <= allowed:
            return found_wanted(
                f"difference of the judge from the recorded one, prompt {number}",
                f"{apart:.3g}",
                f"at most {allowed:.3g}",
                "see docs/verify.md for what may cause it",
            )
    return None
