"""Contract, reference and body of ``farthing::GatedLora``.

Gated low-rank adaptation (Samragh et al. 2025, arXiv 2507.11851): y_t = W x_t + I(t) * scale * B A x_t, where I(t) is 1 at mask
tokens and 0 at ordinary tokens, so that ordinary tokens compute exactly what the frozen model computes. The linear is a node
of its own; this operator takes its result as ``base``.

The gate is given as ``rows``, the list of the rows whose gate is 1, and not as one number per row, because
- who makes the pass knows which rows are masks: the list is made once, and all linears of all layers share it;
- its length is a shape, so the work on a GPU is launched for the gated rows without waiting for a count on the device;
- the body needs neither NonZero (which TensorRT-RTX refuses) nor a product with the gate (0 * NaN is NaN): it gathers the
  rows, and scatters the results, so its cost follows the number of gated rows like that of the kernels.
`rows_of` turns a gate into the list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch

INPUTS = ("x", "base", "a", "b", "rows")


def rows_of(gate: np.ndarray) -> np.ndarray:
    """The input ``rows`` int64 [M] of a gate of zeros and ones of any shape, e.g. [B,S]. Raises ValueError."""
    gate = np.asarray(gate)
    wrong = gate[(gate != 0) & (gate != 1)]
    if wrong.size:
        raise ValueError(
            f"GatedLora: gate is {wrong.flat[0]}, expected 0 or 1; a gate switches, put factors into scale"
        )
    return np.flatnonzero(gate).astype(np.int64)


def rules(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError for a scale that is no finite number."""
    if not math.isfinite(attributes["scale"]):
        raise ValueError(f"GatedLora: scale is {attributes['scale']}, expected a finite number; give alpha / rank")


def _check(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: torch.Tensor) -> None:
    if a.shape[0] == 0:
        raise ValueError(f"GatedLora: a is [0,{a.shape[1]}], expected a rank of 1 or more; leave the node out instead")
    if a.dtype != b.dtype:
        raise ValueError(
            f"GatedLora: dtype of b is {str(b.dtype).removeprefix('torch.')}, expected that of a, "
            f"{str(a.dtype).removeprefix('torch.')}; cast one of them"
        )
    total, previous = math.prod(x.shape[:-1]), -1
    for row in rows.tolist():
        if not previous < row < total:
            raise ValueError(
                f"GatedLora: rows is {row} after {previous}, expected ascending numbers from 0 to {total - 1}; "
                "give each gated row once"
            )
        previous = row


def reference(
    x: torch.Tensor, base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """y [..., N]: a copy of base, with scale * (x a^T) b^T added to the listed rows. Arithmetic in x's dtype.

    Shapes as in ``OPERATOR``. Raises ValueError.
    """
    _check(x, a, b, rows)
    y = base.clone().reshape(-1, base.shape[-1])
    chosen = x.reshape(-1, x.shape[-1])[rows]
    hidden = (chosen @ a.to(x.dtype).T) * scale
    y[rows] += hidden @ b.to(x.dtype).T
    return y.reshape(base.shape)


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """Gather the gated rows, two products, ScatterND the sums into base: rows that are not listed are copied."""
    from ..body_writer import BodyWriter

    w = BodyWriter("GatedLora")
    flat = w.node("Flatten", ["base"], axis=-1)
    chosen = w.node("Gather", [w.node("Flatten", ["x"], axis=-1), "rows"], axis=0)
    down = w.node("Transpose", [w.node("CastLike", ["a", "x"])], perm=[1, 0])
    up = w.node("Transpose", [w.node("CastLike", ["b", "x"])], perm=[1, 0])
    factor = w.node("CastLike", [w.real(float(attributes["scale"])), "x"])
    hidden = w.node("Mul", [w.node("MatMul", [chosen, down]), factor])
    total = w.node("Add", [w.node("Gather", [flat, "rows"], axis=0), w.node("MatMul", [hidden, up])])
    index = w.node("Unsqueeze", ["rows", w.ints(1)])
    written = w.node("ScatterND", [flat, index, total])
    w.node("Reshape", [written, w.node("Shape", ["base"])], outputs=["y"])
    return w.function(INPUTS, ["y"], [attribute.name for attribute in OPERATOR.attributes])


_F32 = ("float32",)
_STORED = ("float32", "float16")
OPERATOR = Operator(
    name="GatedLora",
    doc="Adds a low-rank branch to the listed rows of a linear's output; all other rows stay as they are, bit for bit.",
    inputs=(
        Port("x", ("...", "K"), _F32, "input of the linear; all leading dimensions are rows"),
        Port("base", ("...", "N"), _F32, "output of the linear"),
        Port("a", ("R", "K"), _STORED, "lora_A as checkpoints store it; R is the rank"),
        Port("b", ("N", "R"), _STORED, "lora_B, of the dtype of a"),
        Port("rows", ("M",), ("int64",), "rows whose gate is 1, ascending; M may be 0"),
    ),
    outputs=(Port("y", ("...", "N"), _F32, "base + scale * (x a^T) b^T in the listed rows, else base", alias="base"),),
    attributes=(Attribute("scale", "float", "alpha / rank of the adapter"),),
    cost="2*M*R*(K+N) FLOP; (M*(K+2*N))*4 + R*(K+N)*sizeof(a) bytes where y shares base's buffer, 8*rows*N more where not",
    errors=(
        "rank 0",
        "a and b of different dtype or rank, or not of the widths of x and base",
        "leading dimensions of x and base differ",
        "rows that do not ascend, or lie outside",
        "a scale that is not finite",
    ),
    body=body,
    reference=reference,
    rules=rules,
)
