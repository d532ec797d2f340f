"""Contract and reference of ``farthing::GuidedSample``: from the logits of both halves of a guided batch to an id.

Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, eq. 6 with w = scale - 1): l = uncond + scale * (cond - uncond).
Then temperature, top-k with ties kept, top-p (Holtzman et al. 2020, arXiv 1904.09751), and a draw by inversion: the first id, in ascending order, whose
running sum of probabilities exceeds u. Equal numbers u therefore give equal ids on every face, but for u within rounding of a boundary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..contract import Operator, Port
from .body import BELOW_ONE, LARGEST, REACH, body

if TYPE_CHECKING:
    import torch

MOST_IDS = 1 << 24
"""V is below this: the body counts positions in float32."""


def reference(
    cond: torch.Tensor,
    uncond: torch.Tensor,
    scale: torch.Tensor,
    uniforms: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids int64 [B,M], probs [B,M,V] in the dtype of cond). Shapes and rules as in ``OPERATOR``; sums are in float64. Raises ValueError."""
    import torch

    if not 0 < cond.shape[2] < MOST_IDS:
        raise ValueError(f"GuidedSample: V is {cond.shape[2]}, expected 1 to {MOST_IDS - 1}; check the logits")
    away, best = distances(cond, uncond, scale, float(temperature))
    if float(temperature) > 0:
        weight = torch.where(kept(away, int(top_k), float(top_p)), _weight(away), 0)
    else:
        weight = (best & (best.cumsum(-1) == 1)).to(cond.dtype)  # the first of the best
    running = weight.double().cumsum(-1)
    total = running[..., -1:]
    u = uniforms.double()
    u = torch.where(u > 0, u.clamp(max=BELOW_ONE), 0).unsqueeze(-1)
    ids = torch.searchsorted(running, u * total, right=True).squeeze(-1)
    return ids, (weight.double() / total).to(cond.dtype)


def distances(
    cond: torch.Tensor, uncond: torch.Tensor, scale: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(away [B,M,V]: how far each guided logit, over the temperature, is below the best; best [B,M,V] bool: who is the best)."""
    import torch

    s = scale[:, None, None]
    logits = torch.where(s == 1, cond, uncond + s * (cond - uncond))
    logits = torch.where(logits.isnan(), -torch.inf, logits)
    peak = logits.amax(-1, keepdim=True)
    best = logits == peak
    heat = min(temperature, LARGEST) if temperature > 0 else 1.0
    return torch.where(best, 0, (peak - logits) / heat), best


def _weight(away: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(away <= REACH, torch.exp(-away), 0)


def kept(away: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Which ids [B,M,V] bool stay, by distances from the best: top-k first, then top-p of what is left; ties with the last stay."""
    import torch

    ordered = away.sort(-1).values
    size = away.shape[-1]
    last = ordered[..., (top_k if 0 < top_k < size else size) - 1].unsqueeze(-1)
    if top_p < 1:  # not for NaN
        running = torch.where(ordered <= last, _weight(ordered), 0).double().cumsum(-1)
        place = torch.searchsorted(running, max(top_p, 0.0) * running[..., -1:])
        last = torch.minimum(last, ordered.gather(-1, place))
    return away <= last


_F32 = ("float32",)
_LOGITS = ("B", "M", "V")
OPERATOR = Operator(
    name="GuidedSample",
    doc="Classifier-free guidance, temperature, top-k, top-p and the draw of an id for every row of logits.\n\n"
    "l = uncond + scale * (cond - uncond), exactly cond where scale is 1. What counts is the distance from the best, (max l - l) / temperature: "
    "ids up to the k-th smallest distance stay, of these the fewest whose mass reaches top_p, ties with the last included, and probs is their softmax. "
    "The id is the first whose running sum in ascending order exceeds u times the total, summed in float64 by the kernels, in float32 by the body; "
    "it never has probability 0. An id farther than 87 from the best has probability 0, as e^-87 is about the least that float32 holds. Temperature 0 takes the best, of equals the lowest id, and probs is then one-hot. "
    "Values cannot be refused, so every value means something: a NaN logit counts as -Inf, and so does an id that is -Inf in either half "
    "where scale is 0 or more and not 1; infinite best logits (+Inf, or all -Inf) share the draw; a temperature below 0 or NaN counts as 0; "
    "top_k below 1 or above V is off; top_p of 1, above 1 or NaN is off, below 0 it counts as 0, which keeps the best and its ties; "
    "u below 0 or NaN counts as 0, above 1 - 2^-24 as that.",
    inputs=(
        Port("cond", _LOGITS, _F32, "logits with the condition"),
        Port("uncond", _LOGITS, _F32, "logits without"),
        Port("scale", ("B",), _F32, "guidance; 1 is none, and then uncond is not looked at"),
        Port("uniforms", ("B", "M"), _F32, "one number in [0, 1) a draw"),
        Port("temperature", ("1",), _F32, "of all rows; 0 takes the best"),
        Port("top_k", ("1",), ("int64",), "how many of the most likely stay; 0 is off"),
        Port("top_p", ("1",), _F32, "mass of the most likely that stay; 1 is off"),
    ),
    outputs=(
        Port("ids", ("B", "M"), ("int64",), "the ids drawn"),
        Port(
            "probs",
            _LOGITS,
            _F32,
            "what they were drawn from, 0 for what does not stay; a graph with the body has to name it",
            optional=True,
        ),
    ),
    attributes=(),
    cost="8*B*M*V bytes, 4*B*M*V more for probs; some 20 passes over a row in the cache for top_k, as many for top_p",
    errors=(
        "uncond is not of cond's shape, scale not [B], uniforms not [B,M]",
        "temperature, top_k or top_p is not [1]",
        "V is 0 or not below 2^24",
    ),
    body=body,
    reference=reference,
)
