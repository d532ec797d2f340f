"""Contract, reference and body of ``farthing::Linear``.

Why an operator where MatMul exists: the weight stays [N, K] in the file, as every checkpoint stores it, so a tied embedding is
one tensor for both uses, and a float16 weight is widened in registers, which halves the bytes a decode step must read. The CPU
kernel packs a constant weight once, when the session is made, and gives the file's pages back: rows share every read of it, so a
pass over 8 rows takes little longer than one over 1 row, which is what speculative verification lives on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contract import Operator, Port

if TYPE_CHECKING:
    import torch


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y [..., N] = x [..., K] @ weight[N, K].T + bias[N]; arithmetic in x's dtype (float32)."""
    import torch

    return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


def body(attributes: Any, present: Any) -> Any:
    """Cast (a no-op for float32) + Transpose + MatMul (+ Add); ONNX Runtime folds the first two for constant weights."""
    from ..body_writer import BodyWriter

    writer = BodyWriter("Linear")
    wide = writer.node("CastLike", ["weight", "x"])
    turned = writer.node("Transpose", [wide], perm=[1, 0])
    has_bias = len(present) > 2 and present[2]
    product = writer.node("MatMul", ["x", turned], outputs=["product" if has_bias else "y"])
    if has_bias:
        writer.node("Add", [product, "bias"], outputs=["y"])
    return writer.function(["x", "weight", "bias"] if has_bias else ["x", "weight"], ["y"])


OPERATOR = Operator(
    name="Linear",
    doc="Matrix product with a weight in checkpoint layout; float16 weights are widened on the fly.",
    inputs=(
        Port("x", ("...", "K"), ("float32",), "activations; all leading dimensions are rows"),
        Port("weight", ("N", "K"), ("float32", "float16"), "one row per output, as checkpoints store it"),
        Port("bias", ("N",), ("float32",), "added to every row", optional=True),
    ),
    outputs=(Port("y", ("...", "N"), ("float32",), "x @ weight.T + bias"),),
    attributes=(),
    cost="2*rows*K*N FLOP; N*K*sizeof(weight) bytes once for up to 8 rows",
    errors=("last dimension of x is not K", "weight is not rank 2", "bias is not [N]"),
    body=body,
    reference=reference,
)
