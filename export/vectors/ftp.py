"""Recording the drafts of an FTP bundle for a few prompts, and comparing them with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...models.config import DecoderConfig
from ...runtime import tensors as names
from .record import decimal, open_graph

if TYPE_CHECKING:
    from ...models.ftp import FtpDecoder

CHANCE_TOLERANCE = 2e-3
"""Largest difference of two probabilities of a drafted token; drafts may differ where the two best are closer than that."""


def record_ftp_drafts(step: Path, draft: Path, config: DecoderConfig, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """``prompt_ids``, the first token behind each, and the draft with its probabilities. Raises MissingDependencyError."""
    stepper, chain = open_graph(step), open_graph(draft)
    cases = []
    for ids in prompts:
        shape = (1, config.kv_heads, len(ids), config.head_dim)
        pasts = [n.format(i) for i in range(config.layers) for n in (names.PAST_K, names.PAST_V)]
        feeds = {
            names.INPUT_IDS: np.array([ids]),
            names.POSITIONS: np.arange(len(ids))[None],
            names.PAST_LEN: np.zeros(1, np.int64),
            names.LOGIT_ROWS: np.array([[len(ids) - 1]]),
            **{n: np.zeros(shape, np.float32) for n in pasts},
        }
        logits, latents = stepper.run([names.LOGITS, names.ROW_LATENTS], feeds)
        first = int(logits[0, 0].argmax())
        made, chances = chain.run(
            [names.DRAFT, names.DRAFT_CHANCE], {names.FIRST_TOKEN: np.array([first]), names.ROW_LATENTS: latents[:, 0]}
        )
        cases.append(
            {
                "prompt_ids": ids,
                "first": first,
                "draft": [int(i) for i in made[0]],
                "chances": [decimal(c) for c in chances[0]],
            }
        )
    return cases


def check_ftp_drafts(cases: list[dict[str, Any]], model: FtpDecoder) -> str | None:
    """What differs from the reference, or None."""
    import torch

    from ...models.blocks import KVCache, rms_norm

    for case in cases:
        ids = case["prompt_ids"]
        out = model.forward(
            torch.tensor([ids]), KVCache.empty(model.config, len(ids)), torch.zeros(1, dtype=torch.int64)
        )
        h = rms_norm(out.hidden[-1], model._get("norm.weight"), model.config.norm_epsilon)[0, -1]
        wanted, chances = model.draft(h, ids[-1], case["first"])
        for i, (found, right, p, q) in enumerate(zip(case["draft"], wanted, case["chances"], chances, strict=True)):
            if abs(float(p) - q) > CHANCE_TOLERANCE:
                return f"probability {p} instead of {q:.4f} at token {i} behind a prompt of {len(ids)}"
            if found != right:
                break  # a near-tie: what follows is another text
    return None
