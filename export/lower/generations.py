"""What each TensorRT generation reads. The one place where that is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from ...errors import RequestError, found_wanted

MODERN = ("Attention", "RMSNormalization", "RotaryEmbedding", "Swish", "TensorScatter")
"""Operators of opset 23 and 24 in our bodies that the parser of TensorRT 10.14 and earlier does not have."""

OLDER = (*MODERN, "CastLike", "GroupNormalization")
"""What is decomposed for those: GroupNormalization had its scale by group, not by channel, until opset 21."""


@dataclass(frozen=True)
class Generation:
    """A span of TensorRT versions that one graph serves.

    ``first`` is the earliest version (major, minor); ``opset`` and ``ir_version`` are those of the graph written for it;
    ``decomposed`` are the operators that become others. ``namespace_attribute``: a plugin's namespace must be an attribute of
    its node (the parser takes the node's domain for it since 10.10).
    """

    first: tuple[int, int]
    opset: int
    ir_version: int
    decomposed: tuple[str, ...]
    namespace_attribute: bool

    def decomposes(self, node: onnx.NodeProto, dtype: Callable[[str], int]) -> bool:
        """Whether ``node`` must become others; ``dtype`` gives the ONNX dtype of a value.

        TensorRT's own attention has kernels for float16 and bfloat16 only: the builder of TensorRT-RTX 1.7 refuses a float32 one
        ("not supported by a dedicated kernel"), and we take enterprise TensorRT for the same. Its TensorScatter takes no int8 ("cache has type
        Int8 but must have type Float, Half, or BFloat16"); ScatterND does, at the price that a cache of codes is not updated in place.
        """
        if node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type in self.decomposed:
            return True
        if node.op_type == "TensorScatter":
            return dtype(node.input[0]) == onnx.TensorProto.INT8
        return node.op_type == "Attention" and dtype(node.input[0]) == onnx.TensorProto.FLOAT


GENERATIONS = (
    # Opset 20 and IR 10 are what the ONNX of that time (1.16) knew; graphs with int4 blocks need 21, which it also knew.
    Generation((10, 0), 20, 10, OLDER, True),
    Generation((10, 10), 20, 10, OLDER, False),
    Generation((10, 15), 24, 11, (), False),
)


def generation(version: str) -> Generation:
    """The generation of TensorRT ``version``, e.g. ``10.3`` or ``11.4.0.106``. Raises RequestError for what is no version from 10 on."""
    parts = version.split(".")
    try:
        number = (int(parts[0]), int(parts[1]) if len(parts) > 1 else 0)
        serves = [g for g in GENERATIONS if g.first <= number]
    except ValueError:
        serves = []
    if not serves:
        raise RequestError(
            found_wanted(
                "TensorRT version",
                repr(version),
                "10.0 or later, e.g. 10.3, 10.16 or 11.4",
                "correct --trt; `dpkg -l` lists tensorrt on a Jetson",
            )
        )
    return serves[-1]
