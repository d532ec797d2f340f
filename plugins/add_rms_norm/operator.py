"""Contract, reference and body of ``farthing::AddRMSNorm`` (RMSNorm: Zhang and Sennrich 2019, equation 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch


def reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, *, epsilon: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor]:
    """(normed, total): total = x + residual; normed = total / sqrt(mean(total^2) + epsilon) * weight. All [..., D]."""
    import torch

    total = x + residual
    scale = torch.rsqrt(total.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (total.float() * scale).to(total.dtype) * weight, total


def body(attributes: Any, present: Any) -> Any:
    """Add + RMSNormalization."""
    from ..body_writer import BodyWriter

    writer = BodyWriter("AddRMSNorm")
    writer.node("Add", ["x", "residual"], outputs=["total"])
    writer.node(
        "RMSNormalization", ["total", "weight"], outputs=["normed"], axis=-1, epsilon=float(attributes["epsilon"])
    )
    return writer.function(["x", "residual", "weight"], ["normed", "total"], ["epsilon"])


OPERATOR = Operator(
    name="AddRMSNorm",
    doc="The residual stream's two steps between sub-layers, reading and writing each row once.",
    inputs=(
        Port("x", ("...", "D"), ("float32",), "the residual stream"),
        Port("residual", ("...", "D"), ("float32",), "what the sub-layer adds to it; same shape as x"),
        Port("weight", ("D",), ("float32",), "the norm's gain"),
    ),
    outputs=(
        Port("normed", ("...", "D"), ("float32",), "input of the next sub-layer"),
        Port("total", ("...", "D"), ("float32",), "the stream after the addition"),
    ),
    attributes=(Attribute("epsilon", "float", "added to the mean square", 1e-5),),
    cost="5*rows*D FLOP; 16*rows*D bytes",
    errors=("x and residual differ in shape", "weight is not [D]"),
    body=body,
    reference=reference,
)
