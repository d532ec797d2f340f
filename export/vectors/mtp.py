"""Recording what masks and chain say of a few prompts, and comparing it with PyTorch.

Three passes as one batch: the prompts without their last ids; the last ids with a block of masks, which makes a draft; then the ids that
follow with their drafts, masks behind every one. That is every kind of row there is in quadratic decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import VerificationError, found_wanted
from ...models.config import DecoderConfig
from ...runtime import tensors as names
from ...runtime.mask_feeds import causal_feeds, mask_feeds
from ...runtime.verify_drafts import CHANCE_TOLERANCE
from ..checkpoint.base import Checkpoint
from .check import TOLERANCE
from .record import decimal, open_graph

if TYPE_CHECKING:
    import torch

    from ...models.mtp import MtpAdapter

_SAMPLES = 32


@dataclass(frozen=True)
class MaskPass:
    """A pass with ``ids`` [B,S] over ``past`` [B] slots, and its logits [B,G,V] of the real rows and latents [B,G*k,D]."""

    ids: np.ndarray
    past: np.ndarray
    feeds: dict[str, np.ndarray]
    logits: np.ndarray
    latents: np.ndarray


@dataclass(frozen=True)
class Drafts:
    """The passes, and the draft [B,k] with its chances that the first of them led to."""

    prompts: list[list[int]]
    passes: list[MaskPass]
    first: np.ndarray
    draft: np.ndarray
    chance: np.ndarray

    def as_json(self) -> list[dict[str, Any]]:
        """Of each prompt: the id after it, the draft behind that, and samples of the latents that it was made from."""
        rows = []
        for b, prompt in enumerate(self.prompts):
            flat = self.passes[0].latents[b].reshape(-1)
            at = range(0, flat.size, -(-flat.size // _SAMPLES))
            rows.append(
                {
                    "prompt_ids": prompt,
                    "first_id": int(self.first[b]),
                    "draft_ids": [int(i) for i in self.draft[b]],
                    "chances": [decimal(c) for c in self.chance[b]],
                    "latents": {
                        "at": list(at),
                        "values": [decimal(flat[i]) for i in at],
                        "l2": decimal(np.linalg.norm(flat.astype(np.float64))),
                    },
                }
            )
        return rows


def record_drafts(step: Path, chain: Path, config: DecoderConfig, masks: int, prompts: list[list[int]]) -> Drafts:
    """Run both graphs by their bodies. Raises MissingDependencyError."""
    run, draft_run = open_graph(step), open_graph(chain)
    lengths = np.array([len(p) for p in prompts], np.int64)
    width, batch = int(lengths.max()), len(prompts)
    capacity = width + (masks + 1) ** 2 + 1
    shape = (batch, config.kv_heads, capacity, config.head_dim)
    pasts = [n.format(i) for i in range(config.layers) for n in (names.PAST_K, names.PAST_V)]
    presents = [n.format(i) for i in range(config.layers) for n in (names.PRESENT_K, names.PRESENT_V)]
    cache = [np.zeros(shape, np.float32) for _ in pasts]
    if width > 1:
        ids = np.zeros((batch, width - 1), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt) - 1] = prompt[:-1]
        feeds = {
            names.INPUT_IDS: ids,
            names.POSITIONS: np.repeat(np.arange(width - 1)[None], batch, axis=0),
            names.PAST_LEN: np.zeros(batch, np.int64),
            names.LOGIT_ROWS: np.zeros((batch, 0), np.int64),
            **causal_feeds(batch, width - 1),
        }
        cache = run.run(presents, {**feeds, **dict(zip(pasts, cache, strict=True))})
    passes, past = [], lengths - 1
    real = np.array([[p[-1]] for p in prompts], np.int64)
    first = draft = chance = np.zeros(0)
    for number in range(2):
        block = np.tile(np.arange(masks) + config.vocab_size, (batch, real.shape[1]))
        feeds = mask_feeds(real.shape[1], masks, past)
        ids = np.concatenate([real, block], axis=1)
        inputs = {names.INPUT_IDS: ids, **feeds, **dict(zip(pasts, cache, strict=True))}
        logits, latents, *cache = run.run([names.LOGITS, names.MASK_HIDDEN, *presents], inputs)
        passes.append(MaskPass(ids, past, feeds, logits, latents))
        if number == 0:
            first = logits[:, 0].argmax(-1).astype(np.int64)
            draft, chance = draft_run.run(
                [names.DRAFT, names.DRAFT_CHANCE], {names.FIRST_TOKEN: first, names.MASK_LATENTS: latents}
            )
            real, past = np.concatenate([first[:, None], draft], axis=1), past + 1
    return Drafts(prompts, passes, first, draft, chance)


def check_drafts(
    drafts: Drafts, checkpoint: Checkpoint, adapter: MtpAdapter, dtype: str, draft_ids: np.ndarray | None = None
) -> dict[str, Any]:
    """Replay the passes by the reference. Returns ``max_abs`` of logits and latents, ``rows``, and the largest ``chance`` difference.

    Layers are read one at a time. Raises VerificationError naming pass and part of the worst difference.
    """
    import torch

    from ...models.blocks import KVCache
    from ...models.mtp import MtpDecoder

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few dozen rows, see check_against_reference
    try:
        model = MtpDecoder(checkpoint, adapter, storage=dtype, lazy=True)
        width = max(map(len, drafts.prompts))
        batch, masks = len(drafts.prompts), adapter.config.masks
        cache = KVCache.empty(checkpoint.config, width + (masks + 1) ** 2 + 1, batch)
        if width > 1:
            ids = torch.zeros((batch, width - 1), dtype=torch.int64)
            for row, prompt in zip(ids, drafts.prompts, strict=True):
                row[: len(prompt) - 1] = torch.tensor(prompt[:-1])
            nothing = torch.zeros((batch, 1), dtype=torch.int64)
            model.forward(ids, cache, torch.zeros(batch, dtype=torch.int64), logit_rows=nothing)
        worst, rows = 0.0, 0
        for number, found in enumerate(drafts.passes):
            out = model.step(
                torch.from_numpy(found.ids),
                cache,
                torch.from_numpy(found.past),
                positions=torch.from_numpy(found.feeds[names.POSITIONS]),
                visible=torch.from_numpy(found.feeds[names.VISIBLE]),
                mask_rows=torch.from_numpy(found.feeds[names.MASK_ROWS]),
                logit_rows=torch.from_numpy(found.feeds[names.LOGIT_ROWS]),
            )
            for part, got, wanted in (
                ("logits", found.logits, out.logits.numpy()),
                ("latents", found.latents, out.mask_hidden.numpy()),
            ):
                worst = max(worst, _difference(f"{part} of mask pass {number}", got, wanted))
                rows += got.shape[0] * got.shape[1]
        chance = _check_chain(drafts, model, draft_ids)
    finally:
        torch.set_num_threads(threads)
    return {"max_abs": worst, "rows": rows, "chance": chance}


def _difference(what: str, found: np.ndarray, wanted: np.ndarray) -> float:
    error = float(np.nan_to_num(np.abs(found - wanted), nan=np.inf).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if not error <= allowed:
        raise _defect(what, f"{error:.3g}", f"at most {allowed:.3g}")
    return error


def _check_chain(drafts: Drafts, model: Any, draft_ids: np.ndarray | None) -> float:
    import torch

    subset: torch.Tensor | None = None if draft_ids is None else torch.from_numpy(draft_ids)
    latents = torch.from_numpy(drafts.passes[0].latents)
    wanted, chance = model.draft(torch.from_numpy(drafts.first), latents, ids=subset)
    same = np.cumprod(wanted.numpy() == drafts.draft, axis=1).astype(bool)
    # The first token of a draft that differs is compared as well: a tie, or a defect. What follows a tie has another context.
    compared = np.concatenate([np.ones((len(same), 1), bool), same[:, :-1]], axis=1)
    error = float((np.abs(chance.numpy() - drafts.chance) * compared).max())
    if not error <= CHANCE_TOLERANCE:
        raise _defect("probability of a drafted token", f"{error:.3g} apart", f"at most {CHANCE_TOLERANCE}")
    return error


def _defect(what: str, found: str, wanted: str) -> VerificationError:
    return VerificationError(
        found_wanted(
            f"largest difference between graph and PyTorch reference ({what})",
            found,
            wanted,
            "this is a defect of the exporter for this model, please report it; nothing was written",
        )
    )
