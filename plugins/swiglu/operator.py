"""Contract, reference and body of ``farthing::SwiGLU`` (Shazeer 2020, "GLU Variants Improve Transformer")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contract import Operator, Port

if TYPE_CHECKING:
    import torch


def reference(gate_up: torch.Tensor) -> torch.Tensor:
    """y [..., F] = silu(gate_up[..., :F]) * gate_up[..., F:]."""
    import torch

    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def body(attributes: Any, present: Any) -> Any:
    """Split + Swish + Mul."""
    from ..body_writer import BodyWriter

    writer = BodyWriter("SwiGLU")
    gate, up = writer.node("Split", ["gate_up"], outputs=2, axis=-1, num_outputs=2)
    active = writer.node("Swish", [gate])
    writer.node("Mul", [active, up], outputs=["y"])
    return writer.function(["gate_up"], ["y"])


OPERATOR = Operator(
    name="SwiGLU",
    doc="silu(gate) * up over one tensor that holds both halves, as the fused gate/up linear writes it.",
    inputs=(Port("gate_up", ("...", "2*F"), ("float32",), "gate in the first half, up in the second"),),
    outputs=(Port("y", ("...", "F"), ("float32",), "the activation"),),
    attributes=(),
    cost="about 20*rows*F FLOP (one exp each); 12*rows*F bytes",
    errors=("last dimension is odd",),
    body=body,
    reference=reference,
)
