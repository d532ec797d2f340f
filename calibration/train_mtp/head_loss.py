"""Cross-entropy through the frozen head, some rows at a time.

The logits of a batch are the largest arrays of a step: 1000 masks over 50,000 ids in float32 are 200 MB, and autograd would keep three
such arrays for each loss. The gradient with regard to the rows is (softmax - target) W, known as soon as the logits are, so it is made
in the forward pass and the logits of each chunk are let go.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

CHUNK = 128
"""Rows: 25 MB of logits at 50,000 ids, little enough to stay near the core."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: torch.Tensor,
        second: torch.Tensor,
        head: torch.Tensor,
        wanted: torch.Tensor,
        weights: torch.Tensor,
    ) -> Any:
        losses = [torch.zeros(()), torch.zeros(())]
        grads = [torch.empty_like(first), torch.empty_like(second)]
        for at in range(0, len(first), CHUNK):
            part = slice(at, at + CHUNK)
            if wanted.ndim == 1:
                target = None
            else:
                target = torch.softmax(_logits(wanted[part], head), -1)
            for which, rows in enumerate((first, second)):
                log = torch.log_softmax(_logits(rows[part], head), -1)
                if target is None:
                    chosen = wanted[part, None]
                    losses[which] -= (log.gather(1, chosen)[:, 0] * weights[part]).sum()
                    error = log.exp_().scatter_add_(1, chosen, -torch.ones(chosen.shape))
                else:
                    losses[which] -= torch.dot((target * log).sum(-1), weights[part])
                    error = log.exp_().sub_(target)
                grads[which][part] = (error.to(head.dtype) @ head).float() * weights[part, None]
        total = weights.sum()
        ctx.save_for_backward(*[g / total for g in grads])
        return losses[0] / total, losses[1] / total

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> Any:
        first, second = ctx.saved_tensors
        return first * grad[0], second * grad[1], None, None, None


def _logits(rows: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return F.linear(rows.to(head.dtype), head).float()


def head_losses(
    first: torch.Tensor, second: torch.Tensor, head: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropies, with ``weights`` [M], of the rows first and second [M,D] through ``head`` [V,D], against the same targets.

    ``wanted`` is ids int64 [M], or rows float32 [M,D] whose distribution through the head is the target.
    """
    return _HeadLoss.apply(first, second, head, wanted, weights)  # type: ignore[no-untyped-call, no-any-return]
