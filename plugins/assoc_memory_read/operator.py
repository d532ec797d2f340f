"""Contract, reference and body of ``farthing::AssocMemoryRead`` (Acharya 2025, arXiv 2509.00605, the global path).

The bank is a constant matrix [M,C]; its rows are keys and values. Nothing is written to it at run time, so the operator is a
function of one token: a feed-forward layer whose hidden activation is a softmax, and not attention over earlier tokens.

An operator and not the standard trio because the scores [B,T,M] are never stored: the kernel streams the bank once, with a
running maximum and sum (Milakov and Gimelshein 2018, arXiv 1805.02867), and reads it as float16 or int8 where the trio would widen it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch

MEM_DOC = "the bank, one slot per row; int8 wants mem_scale"
SCALE_DOC = "float32 step of each slot of an int8 bank: slot m is mem_scale[m] * mem[m]"


def widened(mem: torch.Tensor, mem_scale: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """The bank [M,C] in ``like``'s dtype, an int8 one multiplied by its row scales."""
    wide = mem.to(like.dtype)
    return wide if mem_scale is None else wide * mem_scale.to(like.dtype)[:, None]


def check_bank(mem: torch.Tensor, mem_scale: torch.Tensor | None, op: str) -> None:
    """An int8 bank has a scale for each slot, a float one has none. Raises ValueError."""
    if mem.shape[0] < 1:
        raise ValueError(f"{op}: mem is {list(mem.shape)}, expected at least one slot; check which bank is connected")
    if (str(mem.dtype) == "torch.int8") != (mem_scale is not None):
        found, wanted = ("missing", "[M]") if mem_scale is None else ("given", "absent for a float bank")
        raise ValueError(f"{op}: mem_scale is {found}, expected {wanted}; an int8 bank has one scale a slot")


def reference(
    x: torch.Tensor,
    mem: torch.Tensor,
    mem_scale: torch.Tensor | None = None,
    *,
    scale: float = 1.0,
    top_k: int = 0,
) -> torch.Tensor:
    """y [...,C] = softmax(scale * x @ mem.T) @ mem, over the ``top_k`` best slots where that is above 0 (lowest index wins ties)."""
    import torch

    check_bank(mem, mem_scale, "AssocMemoryRead")
    if top_k > mem.shape[0]:
        raise ValueError(f"AssocMemoryRead: top_k is {top_k}, expected 0 (all) to {mem.shape[0]}; export again")
    bank = widened(mem, mem_scale, x)
    scores = scale * (x @ bank.T)
    if top_k:
        order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :top_k]
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)
        scores = scores.masked_fill(~kept, -torch.inf)
    return torch.softmax(scores, dim=-1) @ bank


def write_read(
    writer: Any, x: str, *, mem: str, mem_scale: str | None, scale: float, top_k: int, outputs: int | list[str] = 1
) -> str:
    """Add the nodes of the read to a BodyWriter and return the name of the result; also part of GatedAssocMemory's body."""
    from onnx import TensorProto, helper

    bank = writer.node("CastLike", [mem, x]) if mem_scale is None else _dequantized(writer, mem, mem_scale)
    turned = writer.node("Transpose", [bank], perm=[1, 0])
    scores = writer.node("MatMul", [x, turned])
    if scale != 1.0:
        factor = writer.node("Constant", [], value=helper.make_tensor("", TensorProto.FLOAT, [], [scale]))
        scores = writer.node("Mul", [scores, writer.node("CastLike", [factor, scores])])
    if not top_k:
        weights = writer.node("Softmax", [scores], axis=-1)
        return writer.node("MatMul", [weights, bank], outputs=outputs)
    # ONNX's TopK gives the lower index first among equals. A one-hot sum would be [..., k, M]; scattering is [..., M].
    best, slots = writer.node("TopK", [scores, writer.ints(top_k)], outputs=2, axis=-1, largest=1, sorted=1)
    shares = writer.node("Softmax", [best], axis=-1)
    zeros = writer.node("Sub", [scores, scores])
    weights = writer.node("ScatterElements", [zeros, slots, shares], axis=-1)
    return writer.node("MatMul", [weights, bank], outputs=outputs)


def _dequantized(writer: Any, mem: str, mem_scale: str) -> str:
    return writer.node("DequantizeLinear", [mem, mem_scale], axis=0)  # type: ignore[no-any-return]


def body(attributes: Any, present: Any) -> Any:
    """CastLike or DequantizeLinear, MatMul, Softmax, MatMul; with top_k also TopK and ScatterElements."""
    from ..body_writer import BodyWriter

    writer = BodyWriter("AssocMemoryRead")
    scaled = len(present) > 2 and bool(present[2])
    write_read(
        writer,
        "x",
        mem="mem",
        mem_scale="mem_scale" if scaled else None,
        scale=float(attributes.get("scale", 1.0)),
        top_k=int(attributes.get("top_k", 0)),
        outputs=["y"],
    )
    return writer.function(["x", "mem", "mem_scale"] if scaled else ["x", "mem"], ["y"], list(attributes))


def rules(attributes: Any) -> None:
    """top_k counts slots. Raises ValueError."""
    if attributes["top_k"] < 0:
        raise ValueError(f"AssocMemoryRead: top_k is {attributes['top_k']}, expected 0 (all) or more; export again")


OPERATOR = Operator(
    name="AssocMemoryRead",
    doc="Softmax look-up in a constant memory bank; scores are streamed, never stored.",
    inputs=(
        Port("x", ("...", "C"), ("float32",), "queries; all leading dimensions are rows"),
        Port("mem", ("M", "C"), ("float32", "float16", "int8"), MEM_DOC),
        Port("mem_scale", ("M",), ("float32",), SCALE_DOC, optional=True),
    ),
    outputs=(Port("y", ("...", "C"), ("float32",), "weighted sum of the slots"),),
    attributes=(
        Attribute("scale", "float", "multiplies the scores; the paper has none, so 1", 1.0),
        Attribute("top_k", "int", "softmax over this many best slots only; 0 = all (our extension)", 0),
    ),
    cost="4*rows*M*C FLOP and rows*M exponentials; M*C*sizeof(mem) bytes once for up to 32 rows",
    errors=(
        "last dimension of x is not C",
        "mem is not rank 2, is empty, or its dtype is another",
        "mem_scale missing for int8, given for a float bank, or not [M]",
        "top_k below 0 or above M",
        "a constant mem or mem_scale holds NaN or infinity",
    ),
    body=body,
    reference=reference,
    rules=rules,
)
