"""Decoding with `MtpDecoder`: the oracle of the runtime's loop. One sequence, greedy, written for clarity.

Every pass verifies the last draft and makes the next: [x_n, y_1..y_k] are real rows, and behind them stand masks. Quadratic decoding puts
k masks behind every real row, so there is a full draft whichever prefix survives. Linear decoding puts them behind the last one: they
serve only if the whole draft was right, and the pass after a failure has no draft.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..errors import RequestError, found_wanted
from .blocks import KVCache
from .mtp import MtpDecoder, MtpOutput, linear_rows, quadratic_rows

MODES = {"quadratic": quadratic_rows, "linear": linear_rows}


@dataclass
class Decoded:
    """``ids`` are the new tokens, ``passes`` the passes after the prompt's, ``accepted`` the draft tokens kept in each of them."""

    ids: list[int]
    passes: int = 0
    rows: int = 0
    accepted: list[int] = field(default_factory=list)

    @property
    def tokens_per_pass(self) -> float:
        """Accepted drafts and the token that every pass adds, per pass: 1 to k + 1. A cut at new_tokens is not counted."""
        return 1 + sum(self.accepted) / max(1, self.passes)


def decode(
    model: MtpDecoder,
    prompt_ids: list[int],
    new_tokens: int,
    *,
    mode: str = "quadratic",
    sampler: bool = True,
    stop_ids: tuple[int, ...] = (),
    draft_ids: torch.Tensor | None = None,
) -> Decoded:
    """Greedy decoding of ``new_tokens`` ids, or up to and with the first of ``stop_ids``. Raises RequestError."""
    if mode not in MODES or not prompt_ids:
        found = repr(mode) if prompt_ids else "an empty prompt"
        raise RequestError(found_wanted("mode", found, f"one of {', '.join(MODES)}, and a prompt", "give one"))
    k = model.adapter.config.masks
    cache = KVCache.empty(model.config, len(prompt_ids) + new_tokens + (k + 1) ** 2)
    if len(prompt_ids) > 1:  # the last token of the prompt is the first real row of the first pass
        model.forward(torch.tensor([prompt_ids[:-1]]), cache, torch.tensor([0]), logit_rows=torch.tensor([[0]]))
    past, current = len(prompt_ids) - 1, prompt_ids[-1]
    draft: list[int] = []
    result = Decoded([])
    while len(result.ids) < new_tokens:
        real = [current, *draft]
        out = _pass(model, cache, past, real, mode)
        chosen = out.logits[0].argmax(-1).tolist()
        kept = 0
        while kept < len(draft) and draft[kept] == chosen[kept]:
            kept += 1
        new = [*draft[:kept], chosen[kept]]
        past += kept + 1
        result.passes, result.rows = result.passes + 1, result.rows + len(real) + out.mask_hidden.shape[1]
        result.accepted.append(kept)
        for token in new:
            result.ids.append(token)
            if token in stop_ids or len(result.ids) == new_tokens:
                return result
        current = new[-1]
        blocks = out.mask_hidden.view(-1, k, out.mask_hidden.shape[-1])
        if mode == "quadratic":
            latents = blocks[kept]
        elif kept == len(real) - 1:
            latents = blocks[0]
        else:  # the masks stood behind a token that was not kept
            draft = []
            continue
        drafted, _ = model.draft(torch.tensor([current]), latents[None], sampler=sampler, ids=draft_ids)
        draft = drafted[0].tolist()
    return result


def _pass(model: MtpDecoder, cache: KVCache, past: int, real: list[int], mode: str) -> MtpOutput:
    visible, positions, mask_ids = MODES[mode](len(real), model.adapter.config.masks, model.config.vocab_size)
    ids = torch.cat([torch.tensor(real), mask_ids])
    return model.step(
        ids[None],
        cache,
        torch.tensor([past]),
        positions=(positions + past)[None],
        visible=visible,
        mask_rows=torch.arange(len(real), len(ids)),
        logit_rows=torch.arange(len(real))[None],
    )
