"""What a freshly written judge graph says of its prompts, and its comparison with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import VerificationError, found_wanted
from ...models.config import DecoderConfig
from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .record import decimal, open_graph

if TYPE_CHECKING:
    from ...models.judge import Judge

ALLOWED = {"float32": 1e-4, "float16": 2e-3}
"""Largest difference of a probability; the logit of a judge sums D products of states that differ by 1e-5 or so."""


@dataclass(frozen=True)
class Verdicts:
    """P(good) of every token of every prompt, float32 [rows of the prompt]."""

    prompts: list[list[int]]
    good: list[np.ndarray]

    def as_json(self) -> list[dict[str, Any]]:
        """As the vectors' field ``judge`` stores it."""
        pairs = zip(self.prompts, self.good, strict=True)
        return [{"prompt_ids": p, "good": [decimal(x) for x in g]} for p, g in pairs]


def record_judge(
    graph: Path, config: DecoderConfig, prompts: list[list[int]], *, cache_dtype: str = "float32"
) -> Verdicts:
    """Run every prompt of ``prompts`` through ``graph`` in one pass with all rows wanted. Raises MissingDependencyError."""
    session, good = open_graph(graph), []
    past = [n.format(i) for i in range(config.layers) for n in (names.PAST_K, names.PAST_V)]
    for prompt in prompts:
        rows = np.arange(len(prompt), dtype=np.int64)[None]
        empty = np.zeros((1, config.kv_heads, len(prompt), config.head_dim), cache_dtype)
        feeds = {
            names.INPUT_IDS: np.array([prompt], np.int64),
            names.POSITIONS: rows,
            names.PAST_LEN: np.zeros(1, np.int64),
            names.LOGIT_ROWS: rows,
            **dict.fromkeys(past, empty),
        }
        good.append(session.run([names.JUDGE], feeds)[0][0])
    return Verdicts(prompts, good)


def check_judge(verdicts: Verdicts, source: Checkpoint, judge: Judge, dtype: str) -> dict[str, Any]:
    """Compare with the reference: ``max_abs`` and ``allowed`` of P(good). Raises VerificationError."""
    import torch

    from ...models.blocks import KVCache
    from ...models.judge import StatesDecoder

    model, worst = StatesDecoder(source, storage=dtype, lazy=True), 0.0
    for prompt, good in zip(verdicts.prompts, verdicts.good, strict=True):
        cache = KVCache.empty(source.config, len(prompt))
        states = model.states(torch.tensor([prompt]), cache, torch.zeros(1, dtype=torch.int64))[1][0]
        worst = max(worst, float(np.abs(judge.good(states.numpy()) - good).max()))
    if not worst <= ALLOWED[dtype]:
        raise VerificationError(
            found_wanted(
                "difference of the judge from PyTorch",
                f"{worst:.1e}",
                f"at most {ALLOWED[dtype]:g}",
                "report it with the checkpoint's config.json",
            )
        )
    return {"max_abs": worst, "allowed": ALLOWED[dtype]}
