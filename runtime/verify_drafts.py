"""Replaying the recorded drafts of an mtp bundle: do masks and sampler head see here what they saw at export?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BundleError, found_wanted
from . import tensors as names
from .bundle import Bundle
from .cache_dtype import empty_cache
from .mask_feeds import causal_feeds, mask_feeds

CHANCE_TOLERANCE = 2e-3
"""Largest difference of two probabilities of a drafted token; drafts may part where the two best are closer than that."""


@dataclass(frozen=True)
class RecordedDraft:
    """A prompt, the id after it, the draft behind that [k] with its chances, and samples of the latents it was made from."""

    prompt_ids: list[int]
    first_id: int
    draft_ids: np.ndarray
    chances: np.ndarray
    at: np.ndarray
    values: np.ndarray


def read_drafts(bundle: Bundle) -> list[RecordedDraft]:
    """The recorded drafts. Raises BundleError where they are not what an exporter writes."""
    name, masks = bundle.manifest["vectors"], bundle.manifest["mtp"]["masks"]
    try:
        return [_draft(d, bundle.manifest["model"], masks) for d in json.loads(bundle.text(name))["drafts"]]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise BundleError(
            found_wanted(
                f"drafts of {bundle.path / name}", f"unusable ({error!r})", "recorded drafts", "export the bundle again"
            )
        ) from error


def _draft(raw: dict[str, Any], model: dict[str, Any], masks: int) -> RecordedDraft:
    latents = raw["latents"]
    found = RecordedDraft(
        [int(i) for i in raw["prompt_ids"]],
        int(raw["first_id"]),
        np.array(raw["draft_ids"], np.int64),
        np.array(raw["chances"], np.float32),
        np.array(latents["at"], np.int64),
        np.array(latents["values"], np.float32),
    )
    ids = [*found.prompt_ids, found.first_id, *found.draft_ids.tolist()]
    if not found.prompt_ids or min(ids) < 0 or max(ids) >= model["vocab_size"]:
        raise ValueError("no prompt, or an id outside the vocabulary")
    if found.draft_ids.shape != (masks,) or found.chances.shape != (masks,) or found.at.shape != found.values.shape:
        raise ValueError(f"a draft that is not of {masks} ids, or values without a place")
    if not found.at.size or found.at.min() < 0 or found.at.max() >= masks * model["hidden_size"]:
        raise ValueError("places outside the latents")
    return found


def draft_failure(bundle: Bundle, step: Any, chain: Any, tolerance: float) -> str | None:
    """The house sentence about the first recorded draft that is another one here, or None. Sessions of both graphs."""
    drafts = read_drafts(bundle)
    if not drafts:
        return None
    latents = _latents(bundle, step, [d.prompt_ids for d in drafts])
    feeds = {names.FIRST_TOKEN: np.array([d.first_id for d in drafts]), names.MASK_LATENTS: latents}
    ids, chances = chain.run([names.DRAFT, names.DRAFT_CHANCE], feeds)
    for number, (draft, rows) in enumerate(zip(drafts, latents, strict=True)):
        error = float(np.nan_to_num(np.abs(rows.reshape(-1)[draft.at] - draft.values), nan=np.inf).max())
        allowed = tolerance * max(1.0, float(np.abs(draft.values).max()))
        if not error <= allowed:
            return _sentence(f"difference of a mask's latent from the recorded one, draft {number}", error, allowed)
        same = np.cumprod(ids[number] == draft.draft_ids).astype(bool)
        # The first token that differs is compared too: a tie, or a defect. What follows has another context.
        compared = np.concatenate([[True], same[:-1]])
        apart = float((np.nan_to_num(np.abs(chances[number] - draft.chances), nan=np.inf) * compared).max())
        allowed = max(CHANCE_TOLERANCE, 10 * tolerance)
        if not apart <= allowed:
            return _sentence(f"difference of a drafted token's probability, draft {number}", apart, allowed)
    return None


def _sentence(what: str, found: float, allowed: float) -> str:
    return found_wanted(what, f"{found:.3g}", f"at most {allowed:.3g}", "see docs/verify.md for what may cause it")


def _latents(bundle: Bundle, step: Any, prompts: list[list[int]]) -> np.ndarray:
    """float32 [B,k,D] of the masks behind each prompt's last id; all prompts as one batch, padded on the right."""
    kv, masks, batch = bundle.manifest["kv"], bundle.manifest["mtp"]["masks"], len(prompts)
    lengths = np.array([len(p) for p in prompts], np.int64)
    width = int(lengths.max()) - 1
    layers = range(kv["layers"])
    pasts = [n.format(i) for i in layers for n in (names.PAST_K, names.PAST_V)]
    presents = [n.format(i) for i in layers for n in (names.PRESENT_K, names.PRESENT_V)]
    cache = [empty_cache(kv, width + masks + 1, batch) for _ in pasts]
    if width:
        ids = np.zeros((batch, width), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt) - 1] = prompt[:-1]
        feeds = {
            names.INPUT_IDS: ids,
            names.POSITIONS: np.repeat(np.arange(width)[None], batch, axis=0),
            names.PAST_LEN: np.zeros(batch, np.int64),
            names.LOGIT_ROWS: np.zeros((batch, 0), np.int64),
            **causal_feeds(batch, width),
            **dict(zip(pasts, cache, strict=True)),
        }
        cache = step.run(presents, feeds)
    last = np.array([p[-1] for p in prompts], np.int64)[:, None]
    block = np.tile(np.arange(masks) + bundle.manifest["model"]["vocab_size"], (batch, 1))
    feeds = {
        names.INPUT_IDS: np.concatenate([last, block], axis=1),
        **mask_feeds(1, masks, lengths - 1),
        **dict(zip(pasts, cache, strict=True)),
    }
    return step.run([names.MASK_HIDDEN], feeds)[0]  # type: ignore[no-any-return]
