"""Contract, reference and body of ``farthing::NearestCode``: vector quantisation (van den Oord et al. 2017, arXiv 1711.00937, eq. 1).

|x - e|^2 = |x|^2 - 2 x.e + |e|^2, and |x|^2 is the same for all codes: the nearest has the largest x.e - |e|^2 / 2. Of unit vectors, which
image tokenizers compare since ViT-VQGAN (Yu et al. 2022, arXiv 2110.04627), it is the largest x.e, whatever the length of x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch

LARGEST = 3.4028234663852886e38
SHORTEST = 1e-12
"""Rows shorter than this are divided by it instead of by their length, as torch's ``normalize`` does."""
MOST_CODES = 1 << 31


def _rules(attributes: Mapping[str, Any]) -> None:
    if attributes["normalize"] not in (0, 1):
        raise ValueError(
            f"NearestCode: normalize is {attributes['normalize']}, expected 0 or 1; 1 compares unit vectors"
        )


def reference(latents: torch.Tensor, table: torch.Tensor, *, normalize: int = 0) -> torch.Tensor:
    """codes int64 [N]. Shapes and rules as in ``OPERATOR``. Raises ValueError."""
    import torch

    _rules({"normalize": normalize})
    if not 0 < len(table) < MOST_CODES:
        raise ValueError(f"NearestCode: V is {len(table)}, expected 1 to {MOST_CODES - 1}; check the table")
    known, meant = (rows.square().sum(-1) <= LARGEST for rows in (table, latents))  # false for NaN
    codes = torch.where(known[:, None], table, 0)
    if normalize:
        codes = torch.nn.functional.normalize(codes, dim=-1, eps=SHORTEST)
        bias = codes.new_zeros(len(codes))
    else:
        bias = codes.square().sum(-1) / -2
    score = torch.where(meant[:, None], latents, 0) @ codes.T + torch.where(known, bias, -torch.inf)
    # argmax of torch does not promise the lowest index among equals.
    first = (score == score.amax(-1, keepdim=True)).int().cumsum(-1) == 0
    return torch.where(meant, first.sum(-1), 0)


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """A matrix product and ArgMax, of which ONNX says that the lowest of equals is taken."""
    from ..body_writer import BodyWriter

    normalize = int(attributes.get("normalize", 0))
    _rules({"normalize": normalize})
    w = BodyWriter("NearestCode")
    zero, largest, row = w.real(0.0), w.real(LARGEST), w.ints(1)
    clean, good = {}, {}
    for name in ("latents", "table"):
        square = w.node("ReduceSum", [w.node("Mul", [name, name]), row], keepdims=1)
        good[name] = w.node("LessOrEqual", [square, largest])
        clean[name] = w.node("Where", [good[name], name, zero])
    codes = clean["table"]
    square = w.node("ReduceSum", [w.node("Mul", [codes, codes]), row], keepdims=1)  # [V,1]
    if normalize:
        codes = w.node("Div", [codes, w.node("Max", [w.node("Sqrt", [square]), w.real(SHORTEST)])])
        bias = zero
    else:
        bias = w.node("Mul", [square, w.real(-0.5)])
    bias = w.node("Where", [good["table"], bias, w.real(float("-inf"))])
    score = w.node("MatMul", [clean["latents"], w.node("Transpose", [codes], perm=[1, 0])])
    score = w.node("Add", [score, w.node("Transpose", [bias], perm=[1, 0])])
    best = w.node("ArgMax", [score], axis=1, keepdims=0)
    meant = w.node("Squeeze", [good["latents"], row])
    w.node("Where", [meant, best, w.scalar(0)], outputs=["codes"])
    return w.function(("latents", "table"), ["codes"], ["normalize"])


_F32 = ("float32",)
OPERATOR = Operator(
    name="NearestCode",
    doc="The nearest row of a table for every latent, by Euclidean distance; ties go to the lowest code.\n\n"
    "Distances are compared as x.e - |e|^2 / 2, with normalize as x.e / max(|e|, 1e-12). Values cannot be refused: a latent whose sum of squares "
    "is not finite in float32 (NaN, too) has code 0, and a row of the table of that kind is nobody's.",
    inputs=(
        Port("latents", ("N", "E"), _F32, "what is to be coded"),
        Port("table", ("V", "E"), _F32, "the codes' vectors"),
    ),
    outputs=(Port("codes", ("N",), ("int64",), "rows of the table, 0 to V - 1"),),
    attributes=(Attribute("normalize", "int", "1: latents and table are brought to unit length first", 0),),
    cost="2*N*V*E FLOP; 4*(N + V)*E bytes",
    errors=("latents is not [N,E], table not [V,E] of the same E", "V is 0", "normalize is not 0 or 1"),
    body=body,
    reference=reference,
    rules=_rules,
)
