"""The body of ``farthing::GuidedSample`` in standard operators.

TensorRT ends TopK at k = 3840, below the 16,384 codes of an image tokenizer, and its scans promise no order. So nothing is sorted here: both
thresholds and the draw are the largest c with mass(value < c) below a target, found bit by bit: 7 bits of the exponent and 23 of the
mantissa, which is exact for float32. Each bit is one pass over the row. Code v is drawn when mass(< v) <= target < mass(< v + 1), so
rounding of sums can shift a boundary but never choose a code of weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..body_writer import BodyWriter

INPUTS = ("cond", "uncond", "scale", "uniforms", "temperature", "top_k", "top_p")
FLOAT, INT64 = 1, 7
LARGEST = 3.4028234663852886e38
REACH = 87.0
"""Ids farther from the best logit than this weigh nothing: e^-87.3 is the smallest normal float32."""
NOWHERE = 128.0
"""The distance of those: e^-128 is 0 in float32."""
BELOW_ONE = 1.0 - 2.0**-24
SCALES = tuple(2.0 ** (64 >> i) for i in range(7))
"""Factors that take 2^-120 to any power of two up to 2^7: 64 + 32 + ... + 1 = 127."""
MANTISSA = tuple(2.0**-i for i in range(1, 24))
PLACES = tuple(2.0**i for i in range(23, -1, -1))
"""Bits of a position below 2^24, which float32 counts exactly."""


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """The FunctionProto. There are no attributes and all inputs are required."""
    from ..body_writer import BodyWriter

    w = BodyWriter("GuidedSample")
    zero, one, last = w.real(0.0), w.real(1.0), w.ints(2)
    scale = w.node("Unsqueeze", ["scale", w.ints(1, 2)])
    guided = w.node("Add", ["uncond", w.node("Mul", [scale, w.node("Sub", ["cond", "uncond"])])])
    logits = w.node("Where", [w.node("Equal", [scale, one]), "cond", guided])
    logits = w.node("Where", [w.node("IsNaN", [logits]), w.real(float("-inf")), logits])
    peak = w.node("ReduceMax", [logits, last], keepdims=1)  # [B,M,1]
    best = w.node("Equal", [logits, peak])
    shape = w.node("Shape", [peak])
    size = w.node("Squeeze", [w.node("Shape", ["cond"], start=2, end=3), w.ints(0)])
    place = w.node("Cast", [w.node("Range", [w.scalar(0), size, w.scalar(1)])], to=FLOAT)  # [V]
    count = w.node("Cast", [size], to=FLOAT)

    warm = w.node("Greater", ["temperature", zero])
    heat = w.node("Where", [warm, w.node("Min", ["temperature", w.real(LARGEST)]), one])
    # The best are at 0 whatever they are: infinite ones have no difference.
    away = w.node("Where", [best, zero, w.node("Div", [w.node("Sub", [peak, logits]), heat])])
    away = w.node("Where", [w.node("LessOrEqual", [away, w.real(REACH)]), away, w.real(NOWHERE)])

    rank = w.node("Cast", ["top_k"], to=FLOAT)
    rank = w.node("Where", [w.node("Less", [rank, one]), count, w.node("Min", [rank, count])])
    near = _largest(w, away, one, rank, "Less", 2.0**-120, SCALES, MANTISSA, shape)
    weight = w.node("Exp", [w.node("Neg", [away])])
    weight = w.node("Where", [w.node("LessOrEqual", [away, near]), weight, zero])
    mass = w.node("Mul", [w.node("ReduceSum", [weight, last], keepdims=1), w.node("Max", ["top_p", zero])])
    mass = w.node("Where", [w.node("Less", ["top_p", one]), mass, w.real(float("inf"))])
    near = _largest(w, away, weight, mass, "Less", 2.0**-120, SCALES, MANTISSA, shape)
    weight = w.node("Where", [w.node("LessOrEqual", [away, near]), weight, zero])

    first = w.node("ReduceMin", [w.node("Where", [best, place, count]), last], keepdims=1)
    weight = w.node("Where", [warm, weight, w.node("Cast", [w.node("Equal", [place, first])], to=FLOAT)])
    total = w.node("ReduceSum", [weight, last], keepdims=1)
    w.node("Div", [weight, total], outputs=["probs"])

    u = w.node("Unsqueeze", ["uniforms", last])
    u = w.node("Where", [w.node("Greater", [u, zero]), w.node("Min", [u, w.real(BELOW_ONE)]), zero])
    drawn = _largest(w, place, weight, w.node("Mul", [u, total]), "LessOrEqual", 0.0, (), PLACES, shape)
    w.node("Cast", [w.node("Squeeze", [drawn, last])], to=INT64, outputs=["ids"])
    return w.function(INPUTS, ["ids", "probs"])


def _largest(
    w: BodyWriter,
    value: Any,
    weight: Any,
    target: Any,
    compare: str,
    start: float,
    scales: Sequence[float],
    steps: Sequence[float],
    shape: Any,
) -> str:
    """The largest c [B,M,1] of those that can be reached with ``compare``(sum of weight where value < c, target).

    c begins at ``start``, is multiplied by some of ``scales`` and then grows by some of ``steps``, in units of what it was scaled to (of
    1 where there are no scales). A Loop with one pass a bit.
    """
    from onnx import TensorProto, helper

    from ..body_writer import BodyWriter

    factor, unit = (
        w.node("Constant", [], value=helper.make_tensor("", TensorProto.FLOAT, [len(values)], values))
        for values in ((*scales, *[1.0] * len(steps)), (*[0.0] * len(scales), *steps))
    )
    begin = w.node("Expand", [w.real(start), shape])
    units = begin if scales else w.node("Expand", [w.real(1.0), shape])

    s = BodyWriter(f"{w.name}_Bit{len(w.nodes)}")
    grown = s.node("Mul", ["c", s.node("Gather", [factor, "bit"])])
    tried = s.node("Add", [grown, s.node("Mul", ["unit", s.node("Gather", [unit, "bit"])])])
    mass = s.node("Where", [s.node("Less", [value, tried]), weight, s.real(0.0)])
    mass = s.node("ReduceSum", [mass, s.ints(2)], keepdims=1)
    s.node("Where", [s.node(compare, [mass, target]), tried, "c"], outputs=["c_out"])
    scaling = s.node("Less", ["bit", s.scalar(len(scales))])
    s.node("Where", [scaling, "c_out", "unit"], outputs=["unit_out"])
    s.node("Identity", ["go"], outputs=["go_out"])
    info = helper.make_tensor_value_info
    carried = ["B", "M", 1]
    graph = helper.make_graph(
        s.nodes,
        s.name,
        [
            info("bit", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("c", TensorProto.FLOAT, carried),
            info("unit", TensorProto.FLOAT, carried),
        ],
        [
            info("go_out", TensorProto.BOOL, []),
            info("c_out", TensorProto.FLOAT, carried),
            info("unit_out", TensorProto.FLOAT, carried),
        ],
    )
    # TensorRT's parser warns of a trip count with a condition, but inside a function it does not accept an absent one.
    yes = w.node("Constant", [], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    bits = w.scalar(len(scales) + len(steps))
    return str(w.node("Loop", [bits, yes, begin, units], outputs=2, body=graph)[0])
