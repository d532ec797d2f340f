"""Recording a GAM graph by its bodies, and comparing the recording with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import VerificationError, found_wanted
from ...models.gam import GamConfig
from ...runtime.stepper import Stepper
from ..checkpoint.gam_checkpoint import GamCheckpoint
from ..graph import Progress, no_progress
from ..graph.gam import quantized_rows
from .check import TOLERANCE
from .record import LENGTHS, NEW_TOKENS, Case, Recording, _lcg, open_graph


def gam_prompts(config: GamConfig, sentence_ids: list[int] | None) -> list[list[int]]:
    """Three made-up prompts, shorter where positions are few, and a real sentence if there is a tokenizer."""
    stream, room = _lcg(config.vocab_size), max(1, config.max_positions - NEW_TOKENS)
    prompts = [[next(stream) for _ in range(min(n, room))] for n in LENGTHS]
    return prompts + ([sentence_ids[:room]] if sentence_ids else [])


def record_gam(
    graph: Path,
    config: GamConfig,
    manifest: dict[str, Any],
    prompts: list[list[int]],
    *,
    progress: Progress = no_progress,
) -> Recording:
    """Continue ``prompts`` greedily, by NEW_TOKENS ids or to the last position, as one batch. Raises MissingDependencyError."""
    lengths = np.array([len(p) for p in prompts], np.int64)
    ids = np.zeros((len(prompts), int(lengths.max())), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    stepper = Stepper(open_graph(graph), manifest, len(prompts), 0)
    logits = [stepper.step(ids, lengths)]
    steps = min(NEW_TOKENS, config.max_positions - int(lengths.max()) + 1)
    while len(logits) < steps:
        logits.append(stepper.step(logits[-1].argmax(-1)[:, None]))
        progress("recording vectors", len(logits), steps)
    rows = np.stack(logits, axis=1)  # [cases, steps, V]
    return Recording([Case(p, [int(i) for i in r.argmax(-1)], r) for p, r in zip(prompts, rows, strict=True)])


def check_gam(recording: Recording, checkpoint: GamCheckpoint, dtype: str, memory: str) -> dict[str, Any]:
    """Feed prompts and recorded ids to the reference in one pass and compare every row that chose an id.

    Weights are rounded as the bundle stores them. Returns ``max_abs``, ``allowed``, ``rows``. Raises VerificationError.
    """
    import torch

    from ...models.gam import Gam

    tensors = {name: _stored(name, tensor, dtype, memory) for name, tensor in checkpoint.tensors().items()}
    model = Gam.from_tensors(checkpoint.config, tensors)
    worst, rows = (-1.0, 0.0, 0.0, 0, 0), 0
    for number, case in enumerate(recording.cases):
        sequence = torch.tensor([case.prompt_ids + case.greedy_ids[:-1]])
        with torch.no_grad():
            wanted = model(sequence)[0][0, len(case.prompt_ids) - 1 :].numpy()
        error = np.nan_to_num(np.abs(case.logits - wanted).max(-1), nan=np.inf)
        allowed = TOLERANCE * np.maximum(1.0, np.abs(wanted).max(-1))
        rows += len(error)
        step = int(np.argmax(error / allowed))
        worst = max(worst, (float(error[step] / allowed[step]), float(error[step]), float(allowed[step]), number, step))
    ratio, error_at, allowed_at, number, step = worst
    if not ratio <= 1:
        raise VerificationError(
            found_wanted(
                f"largest difference between graph and PyTorch reference (case {number}, step {step})",
                f"{error_at:.3g}",
                f"at most {allowed_at:.3g}",
                "this is a defect of the exporter for this model, please report it; nothing was written",
            )
        )
    return {"max_abs": error_at, "allowed": allowed_at, "rows": rows}


def _stored(name: str, tensor: Any, dtype: str, memory: str) -> Any:
    """The tensor after a round trip through its storage type."""
    import torch

    if name.endswith("memory_bank"):
        if memory == "int8":
            slots, step = quantized_rows(tensor.numpy())
            return torch.from_numpy(slots.astype(np.float32) * step[:, None])
        return tensor.half().float() if memory == "float16" else tensor
    # Taps and everything with one dimension stay float32.
    return tensor.half().float() if dtype == "float16" and tensor.ndim == 2 else tensor
