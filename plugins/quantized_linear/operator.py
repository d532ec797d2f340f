"""Contract, reference and body of ``farthing::QuantizedLinear``.

The weight is what `farthing quantize` writes: codes of 4 or 8 bits in blocks of neighbouring inputs, each with a scale and perhaps a zero
point, laid out as ``DequantizeLinear`` wants them. The body is that operator and a MatMul, which ONNX Runtime fuses and TensorRT reads.
The CPU kernel multiplies integers instead: it rounds each row of x to 8 bits in groups of 32 inputs (as llama.cpp's Q8_0 does, and as
ONNX Runtime's fused kernel may), sums products exactly, and scales a group's sum once. Its result is within that rounding of the body's, and a
row's does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch


def rules(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError for a block that is no power of two from 16 to 256."""
    block = int(attributes["block_size"])
    if block & (block - 1) or not 16 <= block <= 256:
        raise ValueError(
            f"QuantizedLinear: block_size is {block}, expected a power of two from 16 to 256; quantize again"
        )


def reference(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None = None,
    *,
    block_size: int,
) -> torch.Tensor:
    """y [..., N] = x [..., K] @ w [K, N], w = (codes - zeros) * scales, scales and zeros repeated over blocks of K."""
    inputs = codes.shape[0]
    for name, tensor in (("scales", scales), ("zeros", zeros)):
        if tensor is not None and tensor.shape[0] != -(-inputs // block_size):
            raise ValueError(
                f"QuantizedLinear: {name} is [{','.join(map(str, tensor.shape))}], expected "
                f"[{-(-inputs // block_size)},{codes.shape[1]}]; quantize again"
            )
    wide = codes.to(x.dtype)
    if zeros is not None:
        wide = wide - zeros.to(x.dtype).repeat_interleave(block_size, 0)[:inputs]
    return x @ (wide * scales.to(x.dtype).repeat_interleave(block_size, 0)[:inputs])


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """DequantizeLinear + MatMul. The block comes from the node, so that one body serves all nodes with zero points, and one those without.

    ONNX Runtime fuses no DequantizeLinear that names zero points it does not have.
    """
    import onnx

    from ..body_writer import BodyWriter

    inputs = ["x", "codes", "scales", "zeros"] if len(present) > 3 and present[3] else ["x", "codes", "scales"]
    writer = BodyWriter("QuantizedLinear")
    wide = writer.node("DequantizeLinear", inputs[1:], axis=0)
    writer.nodes[-1].attribute.append(
        onnx.AttributeProto(name="block_size", type=onnx.AttributeProto.INT, ref_attr_name="block_size")
    )
    writer.node("MatMul", ["x", wide], outputs=["y"])
    return writer.function(inputs, ["y"], ["block_size"])


_CODES = ("int8", "uint8")
OPERATOR = Operator(
    name="QuantizedLinear",
    doc="Matrix product with a weight of 4- or 8-bit codes in blocks that share a scale; integer arithmetic on the CPU.",
    inputs=(
        Port("x", ("...", "K"), ("float32",), "activations; all leading dimensions are rows"),
        Port("codes", ("K", "N"), _CODES, "int8, uint8, int4 or uint4; a constant"),
        Port("scales", ("G", "N"), ("float32",), "of each block of block_size inputs; G = ceil(K / block_size)"),
        Port("zeros", ("G", "N"), _CODES, "zero points, of the dtype of codes; absent = 0", optional=True),
    ),
    outputs=(Port("y", ("...", "N"), ("float32",), "x @ ((codes - zeros) * scales)"),),
    attributes=(Attribute("block_size", "int", "inputs that share a scale: a power of two from 16 to 256"),),
    cost="2*rows*K*N OP; K*N*bits/8 + G*N*5 bytes once for up to 8 rows",
    errors=(
        "last dimension of x is not K",
        "scales or zeros are not [ceil(K / block_size), N]",
        "block_size is no power of two from 16 to 256",
        "codes, scales or zeros are computed in the graph (CPU kernel)",
    ),
    body=body,
    reference=reference,
    rules=rules,
)
