"""The three losses of a batch, and how far drafts would have been accepted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ...models.mtp import MtpAdapter
from .data import Batch
from .forward import FrozenBase
from .head_loss import head_losses


@dataclass(frozen=True)
class Losses:
    """``base`` and ``sampler`` in nats per mask, ``consistency`` the mean squared distance; ``total`` what is minimised."""

    base: torch.Tensor
    sampler: torch.Tensor
    consistency: torch.Tensor
    total: torch.Tensor

    def numbers(self) -> dict[str, float]:
        """As plain numbers."""
        return {name: float(getattr(self, name).detach()) for name in ("base", "sampler", "consistency", "total")}


def losses(
    base: FrozenBase, adapter: MtpAdapter, batch: Batch, *, targets: str, consistency: float, decay: float = 1.0
) -> Losses:
    """Cross-entropy of the masks' latents through the base's head, of the sampler's through it, and latent consistency.

    Mask i (from 0) behind row j stands at position j+1+i and learns what follows row j+1+i: the text's token, or with ``targets``
    ``model`` the frozen model's distribution there. The sampler is given the true token of row j+1+i. Consistency pulls the latent to
    the frozen one of that row, which is the one with the same position (mean over D, our choice; the paper does not say). Mask i counts
    decay ** i in the cross-entropies. The losses
    of the real rows are left out: all they depend on is frozen, and the sampler is never asked there.
    """
    hidden, kept = base.real_pass(batch.ids)
    latents = base.mask_pass(adapter, kept, batch.anchors)[batch.valid]  # [M,D]
    # Row j+1+i of each mask, flattened over the batch.
    at = (batch.anchors[..., None] + 1 + torch.arange(batch.valid.shape[2])).flatten(1)
    at = (at + torch.arange(len(at))[:, None] * batch.ids.shape[1]).view_as(batch.valid)[batch.valid]
    ids = batch.ids.flatten()
    frozen = hidden.flatten(0, 1)[at]
    sampled = adapter.sample(base.embed[ids[at]], latents)
    wanted = frozen if targets == "model" else ids[at + 1]
    weights = (decay ** torch.arange(batch.valid.shape[2])).expand(batch.valid.shape)[batch.valid]
    by_base, by_sampler = head_losses(latents, sampled, base.head, wanted, weights)
    distance = F.mse_loss(latents, frozen)
    return Losses(by_base, by_sampler, distance, by_base + by_sampler + consistency * distance)


@torch.no_grad()
def accepted(base: FrozenBase, adapter: MtpAdapter, batch: Batch, *, sampler: bool = True) -> tuple[float, int]:
    """(draft tokens that agree with the frozen model's greedy choice in a leading run, drafts) over the anchors of ``batch``.

    Teacher-forced: the text is the context, and its token the one that the draft follows, whether the model would have chosen it or
    not. A draft is looked at up to the place where text and choice part, since what follows there has another context.
    """
    hidden, kept = base.real_pass(batch.ids)
    latents = base.mask_pass(adapter, kept, batch.anchors)
    whole = batch.valid.all(-1)
    total, drafts = 0.0, 0
    for b in range(len(batch.ids)):
        choice = base.logits(hidden[b]).argmax(-1)
        for anchor, z in zip(batch.anchors[b][whole[b]].tolist(), latents[b][whole[b]], strict=True):
            token, drafts = batch.ids[b, anchor + 1], drafts + 1
            for i in range(z.shape[0]):
                rows = adapter.sample(base.embed[token], z[i]) if sampler else z[i]
                token = base.logits(rows[None])[0].argmax()
                row = anchor + 1 + i
                if int(token) != int(choice[row]):
                    break
                total += 1
                if int(token) != int(batch.ids[b, row + 1]):
                    break
    return total, drafts
