"""What a rule writes with: new nodes, constants shared between them, and what is known of the values it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import BundleError, found_wanted


class Emitter:
    """Collects the nodes that replace one node. Constants become initializers of the graph, one per value."""

    def __init__(self, types: dict[str, onnx.TypeProto.Tensor], taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._types = types
        self._taken = taken
        self._stem = ""
        self._constants: dict[tuple[int, tuple[int, ...], bytes], str] = {}

    def begin(self, node: onnx.NodeProto) -> None:
        """Start replacing ``node``: new values are named after its first output."""
        self.nodes = []
        self._stem = node.output[0]

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a standard node with one output; returns the output's name."""
        name = output or self._fresh(f"{self._stem}/{op}")
        self.nodes.append(
            helper.make_node(op, list(inputs), [name], name=self._fresh(f"{name}/{op}.node"), **attributes)
        )
        return name

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Add a Split of ``value`` into parts of ``sizes``; returns their names."""
        names = [self._fresh(f"{self._stem}/Split.{i}") for i in range(len(sizes))]
        node = helper.make_node(
            "Split", [value, self.ints(*sizes)], names, name=self._fresh(names[0] + ".node"), axis=axis
        )
        self.nodes.append(node)
        return names

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        """A constant int64 scalar."""
        return self._constant(np.array(value, np.int64))

    def real(self, value: float, dtype: int) -> str:
        """A constant scalar of ONNX dtype ``dtype``."""
        return self._constant(np.array(value, helper.tensor_dtype_to_np_dtype(dtype)))

    def dtype(self, value: str) -> int:
        """ONNX dtype of ``value``. Raises BundleError when shape inference did not find it."""
        if value not in self._types:
            raise BundleError(
                found_wanted(
                    f"dtype of {value}", "unknown", "one that shape inference finds", "export the bundle again"
                )
            )
        return int(self._types[value].elem_type)

    def dims(self, value: str) -> list[int | None]:
        """Sizes of ``value``, None where they are symbolic. Raises BundleError when not even the rank is known."""
        if value not in self._types or not self._types[value].HasField("shape"):
            raise BundleError(
                found_wanted(f"rank of {value}", "unknown", "one that shape inference finds", "export the bundle again")
            )
        return [d.dim_value if d.HasField("dim_value") else None for d in self._types[value].shape.dim]

    def size(self, value: str, axis: int) -> int:
        """A size that must be a number. Raises BundleError."""
        found = self.dims(value)[axis]
        if found is None:
            raise BundleError(
                found_wanted(
                    f"size {axis} of {value}", "dynamic", "a number known at compile time", "export the bundle again"
                )
            )
        return found

    def _constant(self, array: np.ndarray) -> str:
        proto = numpy_helper.from_array(array)
        key = (int(proto.data_type), array.shape, array.tobytes())
        if key not in self._constants:
            name = self._fresh(f"lowered.const.{len(self._constants)}")
            proto.name = name
            self._constants[key], self.initializers[name] = name, proto
            self._types[name] = helper.make_tensor_type_proto(proto.data_type, array.shape).tensor_type
        return self._constants[key]

    def _fresh(self, stem: str) -> str:
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}.{count}"
        self._taken.add(name)
        return name


FLOAT = TensorProto.FLOAT
