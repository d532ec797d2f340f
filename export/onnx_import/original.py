"""The original graph of a decoder with past, run by plain ONNX Runtime with its own concatenating cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import VerificationError, found_wanted
from ...models.config import DecoderConfig
from ...runtime.network import open_session, run_session
from ..graph.writer import Progress, no_progress
from ..vectors.record import NEW_TOKENS, Case, Recording

TOLERANCE = 1e-4
"""Largest allowed difference of a logit, times the largest logit of its row: both sides are float32, and sum in other orders."""


def record_original(
    file: Path, config: DecoderConfig, prompts: list[list[int]], *, threads: int = 1, progress: Progress = no_progress
) -> Recording:
    """Continue each of ``prompts`` greedily by NEW_TOKENS ids with the graph in ``file``, as `record_decoder` does with ours.

    The prompt runs as one pass over an empty cache, each new id as a pass over what the pass before gave back.
    Raises BundleError or RequestError where ONNX Runtime cannot run the file, VerificationError for logits that are not a finite row.
    """
    session = open_session(file, threads)
    taken = {i.name for i in session.get_inputs()}
    cases = []
    for number, prompt in enumerate(prompts):
        past = {
            n: np.zeros((1, config.kv_heads, 0, config.head_dim), np.float32)
            for n in taken
            if n.startswith("past_key_values.")
        }
        ids, logits = np.array([prompt], np.int64), []
        chosen: list[int] = []
        for _ in range(NEW_TOKENS):
            total = len(prompt) + len(chosen)
            given = {
                "input_ids": ids,
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(total - ids.shape[1], total, dtype=np.int64)[None],
            }
            made = run_session(session, {**{n: a for n, a in given.items() if n in taken}, **past})
            past = {n: made[n.replace("past_key_values", "present")] for n in past}
            row = made["logits"][0, -1].astype(np.float32)
            if row.shape != (config.vocab_size,) or not np.isfinite(row).all():
                raise VerificationError(
                    found_wanted(
                        f"logits of {file}",
                        f"{list(row.shape)}, finite in {int(np.isfinite(row).sum())}",
                        f"{config.vocab_size} numbers a row",
                        "see whether its weights are whole and config.json is its own",
                    )
                )
            logits.append(row)
            chosen.append(int(row.argmax()))
            ids = np.array([chosen[-1:]], np.int64)
        cases.append(Case(prompt, chosen, np.stack(logits)))
        progress("running the original", number + 1, len(prompts))
    return Recording(cases)


def compare_recordings(original: Recording, ours: Recording, file: Path, tolerance: float = TOLERANCE) -> float:
    """The largest difference of two logits. Raises VerificationError where it exceeds ``tolerance`` or a greedy id differs.

    A choice may go either way where the original's two best logits are closer than the tolerance; what follows is then another text
    and is not compared.
    """
    worst = 0.0
    for number, (theirs, own) in enumerate(zip(original.cases, ours.cases, strict=True)):
        for step, (wanted, found) in enumerate(zip(theirs.logits, own.logits, strict=True)):
            allowed = tolerance * float(np.abs(wanted).max())
            error = float(np.abs(wanted - found).max())
            if not error <= allowed:
                raise VerificationError(
                    found_wanted(
                        f"largest difference from {file} (prompt {number}, step {step})",
                        f"{error:.3g}",
                        f"at most {allowed:.3g}",
                        "the file computes something else than its node names and config.json say, or is not the bundle's",
                    )
                )
            worst = max(worst, error)
            if theirs.greedy_ids[step] != own.greedy_ids[step]:
                best = np.sort(wanted)[-2:]
                if best[1] - best[0] > 2 * allowed:
                    raise VerificationError(
                        found_wanted(
                            f"greedy id of prompt {number}, step {step}",
                            own.greedy_ids[step],
                            f"{theirs.greedy_ids[step]} as {file} chooses",
                            "this is a defect of farthing; report it with the file",
                        )
                    )
                break
    return worst
