"""A small writer for operator bodies: emits standard ONNX nodes with unique names and returns value names.

Two nodes of one name inside functions make TensorRT's parser warn (it renames them), hence the counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from . import DOMAIN
from .contract import OPSET


class BodyWriter:
    """Collects the nodes of one FunctionProto. Call ``node`` for each operator, then ``function`` once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []

    def node(
        self, op: str, inputs: Sequence[str], *, outputs: int | Sequence[str] = 1, **attributes: Any
    ) -> str | list[str]:
        """Add a node; returns its output name, or the list of them when there is more than one."""
        index = len(self.nodes)
        stem = f"{self.name}_{op}_{index}"
        names = [f"{stem}_{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self.nodes.append(helper.make_node(op, list(inputs), names, name=stem, **attributes))
        return names[0] if len(names) == 1 else names

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.node("Constant", [], value=helper.make_tensor("", TensorProto.INT64, [len(values)], values))

    def scalar(self, value: int) -> str:
        """A constant int64 scalar."""
        return self.node("Constant", [], value=helper.make_tensor("", TensorProto.INT64, [], [value]))

    def real(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.node("Constant", [], value=helper.make_tensor("", TensorProto.FLOAT, [], [value]))

    def function(
        self, inputs: Sequence[str], outputs: Sequence[str], attributes: Sequence[str] = ()
    ) -> onnx.FunctionProto:
        """The finished function. ``attributes`` are declared so that nodes may carry them; the body has them baked in."""
        return helper.make_function(
            DOMAIN,
            self.name,
            list(inputs),
            list(outputs),
            self.nodes,
            [helper.make_opsetid("", OPSET)],
            list(attributes),
        )
