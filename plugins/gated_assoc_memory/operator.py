"""Contract, reference and body of ``farthing::GatedAssocMemory`` (Acharya 2025, arXiv 2509.00605, one block's token mixer).

    local = causal depthwise convolution of n (zeros, or conv_state, before the first row)
    glob  = softmax(scale * n @ mem.T) @ mem
    f     = sigmoid(gl) * local + sigmoid(gg) * glob,   [gl, gg] = n @ gate_w.T + gate_b

The two gates are independent: they do not sum to 1. Only the convolution looks at earlier rows, kernel_size - 1 of them, which is
all the state there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..assoc_memory_read.operator import MEM_DOC, SCALE_DOC, check_bank, write_read
from ..assoc_memory_read.operator import reference as read
from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch

MODES = ("gate", "sum", "global", "local")
"""What ``mode`` may be: the paper's layer, and the three ablations of its table 3."""


def needs(mode: str) -> tuple[bool, bool, bool]:
    """Whether a mode wants (convolution, memory, gates)."""
    return mode != "global", mode != "local", mode == "gate"


def reference(
    n: torch.Tensor,
    conv_state: torch.Tensor,
    conv_w: torch.Tensor | None = None,
    conv_b: torch.Tensor | None = None,
    mem: torch.Tensor | None = None,
    gate_w: torch.Tensor | None = None,
    gate_b: torch.Tensor | None = None,
    mem_scale: torch.Tensor | None = None,
    *,
    kernel_size: int,
    scale: float = 1.0,
    mode: str = "gate",
    return_window: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f [B,T,C] and the state after row T: the last kernel_size - 1 rows of [conv_state; n], or all of it with ``return_window``."""
    import torch

    wanted = dict(zip(("conv_w", "mem", "gate_w"), needs(mode), strict=True))
    for name, value in (("conv_w", conv_w), ("mem", mem), ("gate_w", gate_w)):
        if wanted[name] and value is None:
            raise ValueError(f"GatedAssocMemory: {name} is missing, expected a tensor in mode {mode}; connect it")
    window = torch.cat([conv_state, n], dim=1)
    state = window if return_window else window[:, window.shape[1] - (kernel_size - 1) :]
    wants_conv, wants_memory, wants_gates = needs(mode)
    parts = []
    if wants_conv:
        assert conv_w is not None
        bias = None if conv_b is None else conv_b.to(n.dtype)
        weight = conv_w.to(n.dtype)[:, None]  # [C,1,k]
        parts.append(
            torch.nn.functional.conv1d(window.transpose(1, 2), weight, bias, groups=n.shape[2]).transpose(1, 2)
        )
    if wants_memory:
        assert mem is not None
        check_bank(mem, mem_scale, "GatedAssocMemory")
        parts.append(read(n, mem, mem_scale, scale=scale))
    if wants_gates:
        assert gate_w is not None
        bias = None if gate_b is None else gate_b.to(n.dtype)
        gates = torch.sigmoid(torch.nn.functional.linear(n, gate_w.to(n.dtype), bias)).chunk(2, dim=-1)
        parts = [gate * part for gate, part in zip(gates, parts, strict=True)]
    return (parts[0] + parts[1] if len(parts) == 2 else parts[0]), state


def body(attributes: Any, present: Any) -> Any:
    """Concat and kernel_size shifted products for the local path, MatMul + Softmax + MatMul for the memory, MatMul + Add + Sigmoid for the gates."""
    from ..body_writer import BodyWriter

    names = [port.name for port in OPERATOR.inputs]
    given = {name for name, there in zip(names, present, strict=False) if there}
    # A function's inputs are positional: absent ones in the middle keep their place, unused.
    inputs = names[: max(i for i, there in enumerate(present) if there) + 1]
    mode, kernel = attributes.get("mode", "gate"), int(attributes["kernel_size"])
    mode = mode.decode() if isinstance(mode, bytes) else mode
    wants_conv, wants_memory, wants_gates = needs(mode)
    writer = BodyWriter("GatedAssocMemory")
    keep_all = bool(attributes.get("return_window", 0))
    window = writer.node("Concat", ["conv_state", "n"], outputs=["conv_state_out"] if keep_all else 1, axis=1)
    if not keep_all:
        far = 2**62  # beyond any end: "to the last row"
        writer.node(
            "Slice", [window, writer.ints(1 - kernel), writer.ints(far), writer.ints(1)], outputs=["conv_state_out"]
        )
    parts: list[Any] = []
    if wants_conv:
        parts.append(_depthwise(writer, window, kernel, "conv_b" if "conv_b" in given else None))
    if wants_memory:
        scaled = "mem_scale" if "mem_scale" in given else None
        scale = float(attributes.get("scale", 1.0))
        parts.append(write_read(writer, "n", mem="mem", mem_scale=scaled, scale=scale, top_k=0))
    if wants_gates:
        wide = writer.node("CastLike", ["gate_w", "n"])
        logits = writer.node("MatMul", ["n", writer.node("Transpose", [wide], perm=[1, 0])])
        if "gate_b" in given:
            logits = writer.node("Add", [logits, "gate_b"])
        gates = writer.node("Split", [writer.node("Sigmoid", [logits])], outputs=2, axis=-1, num_outputs=2)
        parts = [writer.node("Mul", [gate, part]) for gate, part in zip(gates, parts, strict=True)]
    writer.node("Add" if len(parts) == 2 else "Identity", parts, outputs=["f"])
    return writer.function(inputs, ["f", "conv_state_out"], list(attributes))


def _depthwise(writer: Any, window: Any, kernel: int, bias: str | None) -> str:
    """The convolution as a sum of shifted products: ONNX's Conv would need the number of channels as a constant of the node.

    Tap j multiplies rows j to T + j of the window, so the last tap meets the current row.
    """
    weight = writer.node("CastLike", ["conv_w", window])
    total = bias
    for tap in range(kernel):
        end = tap - kernel + 1 or 2**62  # counted from the back; the last tap ends with the window
        rows = writer.node("Slice", [window, writer.ints(tap), writer.ints(end), writer.ints(1)])
        column = writer.node("Gather", [weight, writer.scalar(tap)], axis=1)
        product = writer.node("Mul", [rows, column])
        total = product if total is None else writer.node("Add", [product, total])
    return total  # type: ignore[return-value]


def rules(attributes: Any) -> None:
    """A convolution of one tap has no state; return_window is a switch. Raises ValueError."""
    if attributes["kernel_size"] < 2:
        raise ValueError(
            f"GatedAssocMemory: kernel_size is {attributes['kernel_size']}, expected 2 or more; "
            "a convolution of one tap has no state: such a model is not supported"
        )
    if attributes["return_window"] not in (0, 1):
        raise ValueError(
            f"GatedAssocMemory: return_window is {attributes['return_window']}, expected 0 or 1; export again"
        )


OPERATOR = Operator(
    name="GatedAssocMemory",
    doc="Causal depthwise convolution and memory read, mixed per channel by two sigmoid gates; carries the convolution's state.",
    inputs=(
        Port("n", ("B", "T", "C"), ("float32",), "rows after the first norm"),
        Port("conv_state", ("B", "kernel_size-1", "C"), ("float32",), "the rows of n before these; zeros at the start"),
        Port("conv_w", ("C", "kernel_size"), ("float32",), "taps; the last meets the current row", optional=True),
        Port("conv_b", ("C",), ("float32",), "added to the convolution", optional=True),
        Port("mem", ("M", "C"), ("float32", "float16", "int8"), MEM_DOC, optional=True),
        Port(
            "gate_w",
            ("2*C", "C"),
            ("float32", "float16"),
            "rows 0..C-1 gate the convolution, the rest the memory",
            optional=True,
        ),
        Port("gate_b", ("2*C",), ("float32",), "added to the gates' logits", optional=True),
        Port("mem_scale", ("M",), ("float32",), SCALE_DOC, optional=True),
    ),
    outputs=(
        Port("f", ("B", "T", "C"), ("float32",), "the mixed rows"),
        Port(
            "conv_state_out",
            ("B", "kernel_size-1+return_window*T", "C"),
            ("float32",),
            "the last rows of [conv_state; n]; with return_window all kernel_size-1+T, so that a verifier may take rows a..a+kernel_size-2",
        ),
    ),
    attributes=(
        Attribute("kernel_size", "int", "taps of the convolution, 2 or more"),
        Attribute("scale", "float", "multiplies the scores; the paper has none, so 1", 1.0),
        Attribute(
            "mode", "string", "gate, sum (no gates), global (memory only) or local (convolution only)", "gate", MODES
        ),
        Attribute("return_window", "int", "1: conv_state_out is the whole window", 0),
    ),
    cost="B*T*(4*M*C + 4*C*C + 2*kernel_size*C) FLOP and B*T*(M + 2*C) exponentials; "
    "(M*C*sizeof(mem) + 2*C*C*sizeof(gate_w)) bytes once for up to 32 rows",
    errors=(
        "n is not [B,T,C]",
        "conv_state is not [B,kernel_size-1,C] (the state of another model)",
        "kernel_size below 2, or not the columns of conv_w",
        "an input the mode needs is missing; mode is none of the four",
        "mem, gate_w, gate_b, conv_b or mem_scale of another shape or dtype",
        "a constant mem or mem_scale holds NaN or infinity",
    ),
    body=body,
    reference=reference,
    rules=rules,
)
