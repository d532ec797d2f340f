"""Comparing a recording with the PyTorch reference of the same checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import VerificationError, found_wanted
from ..checkpoint.base import Checkpoint
from .record import NEW_TOKENS, Recording

if TYPE_CHECKING:
    from ...models.decoder import Decoder

TOLERANCE = 2e-4
"""Largest allowed difference of two logits, times the largest logit where that exceeds 1. Both sides are float32 and differ
in the order of sums only; measured on SmolLM2: 6e-5 where the largest logit is 14."""


def check_against_reference(
    recording: Recording, checkpoint: Checkpoint, dtype: str, *, model: Decoder | None = None
) -> dict[str, Any]:
    """Feed prompts and recorded ids to the reference; compare all rows that chose an id, and the choices.

    ``model`` is the reference where it is not the plain `Decoder`. One teacher-forced pass with the layers read one at a time, so memory stays at one layer. Returns ``max_abs``, ``allowed``,
    ``rows``. Raises VerificationError naming the case and the step of the worst difference.
    """
    import torch

    from ...models.blocks import KVCache
    from ...models.decoder import Decoder as PlainDecoder

    cases = recording.cases
    sequences = [c.prompt_ids + c.greedy_ids[:-1] for c in cases]
    ids = torch.zeros((len(cases), max(map(len, sequences))), dtype=torch.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    first = torch.tensor([len(c.prompt_ids) - 1 for c in cases])
    model = model or PlainDecoder(checkpoint, storage=dtype, lazy=True)
    cache = KVCache.empty(checkpoint.config, ids.shape[1], len(cases))
    rows = first[:, None] + torch.arange(NEW_TOKENS)
    past = torch.zeros(len(cases), dtype=torch.int64)
    threads = torch.get_num_threads()
    # A few dozen rows: on a busy machine two threads that wait for each other take five times as long as one.
    torch.set_num_threads(1)
    try:
        wanted = model.forward(ids, cache, past, logit_rows=rows).logits.numpy()
    finally:
        torch.set_num_threads(threads)
    found = np.stack([c.logits for c in cases])
    error = np.abs(found - wanted).max(-1)  # [cases, NEW_TOKENS]
    allowed = TOLERANCE * np.maximum(1.0, np.abs(wanted).max(-1))
    worst = np.unravel_index(np.argmax(np.nan_to_num(error / allowed, nan=np.inf)), error.shape)
    case, step = int(worst[0]), int(worst[1])
    if not error[worst] <= allowed[worst]:
        raise VerificationError(
            found_wanted(
                f"largest difference between graph and PyTorch reference (case {case}, step {step})",
                f"{error[worst]:.3g}",
                f"at most {allowed[worst]:.3g}",
                "this is a defect of the exporter for this model, please report it; nothing was written",
            )
        )
    return {"max_abs": float(error.max()), "allowed": float(allowed[worst]), "rows": int(error.size)}
