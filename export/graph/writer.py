"""GraphWriter: builds an ONNX graph with onnx.helper, our operators with their bodies, and weights streamed to disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...plugins import DOMAIN, DOMAIN_VERSION, operator
from ...plugins.contract import IR_VERSION, OPSET
from .external_data import ExternalData, convert

INLINE_LIMIT = 4096
"""Bytes. Smaller initializers stay in the .onnx file: a page each would waste more than it saves."""

Progress = Callable[[str, int, int], None]
"""(what is being done, done so far, total); called often, must be cheap."""

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: dtype as numpy names it, dimensions as numbers or symbols."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def manifest(self) -> dict[str, Any]:
        """As the manifest of a bundle lists it."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    def proto(self) -> onnx.ValueInfoProto:
        """As ONNX has it."""
        return helper.make_tensor_value_info(self.name, _TYPES[self.dtype], list(self.shape))


class GraphWriter:
    """Collects one graph and writes ``<stem>.onnx`` and ``<stem>.onnx.data`` into ``folder``.

    Weights go to disk when they are added and are not kept, so memory is bounded by the largest single array handed in.
    Output depends on the calls only: same calls, same bytes.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.path = folder / f"{stem}.onnx"
        self.inputs: list[TensorInfo] = []
        self.outputs: list[TensorInfo] = []
        self.inner: list[TensorInfo] = []
        """Inner values with a known shape, written as value_info."""
        self._stem = stem
        self._borrowed: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._functions: dict[str, tuple[dict[str, Any], tuple[bool, ...], onnx.FunctionProto]] = {}
        self._data = ExternalData(folder / f"{stem}.onnx.data")

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.__exit__(kind, error, trace)

    @property
    def data_files(self) -> list[str]:
        """Names of the external data files, those of borrowed weights included: none if every tensor is small."""
        own = [self._data.path.name] if self._data.path.exists() else []
        return own + [name for name in self._borrowed if name not in own]

    @property
    def node_count(self) -> int:
        """Nodes of the graph so far, bodies not counted."""
        return len(self._nodes)

    @property
    def constants(self) -> set[str]:
        """Names of the initializers so far."""
        return {i.name for i in self._initializers}

    def reads(self, name: str) -> bool:
        """Whether a node so far has ``name`` among its inputs."""
        return any(name in node.input for node in self._nodes)

    def count_nodes(self, prefix: str) -> int:
        """Nodes whose first output starts with ``prefix``."""
        return sum(node.output[0].startswith(prefix) for node in self._nodes)

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a standard node, named after its first output."""
        self._nodes.append(helper.make_node(op, list(inputs), list(outputs), name=f"{outputs[0]}/{op}", **attributes))

    def operator(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node of one of our operators, and its body once per graph.

        A body has attributes and absent inputs built in, so all nodes of an operator must agree in them. Raises ValueError.
        """
        present = tuple(bool(name) for name in inputs)
        if op not in self._functions:
            self._functions[op] = (attributes, present, operator(op).body(attributes, present))
        known, known_present, _ = self._functions[op]
        if (known, known_present) != (attributes, present):
            raise ValueError(
                f"node {outputs[0]} of {op} has attributes {attributes} and inputs {present}, expected {known} and {known_present} "
                "as in its first node; a graph carries one body per operator, so use another operator for the odd one"
            )
        self._nodes.append(
            helper.make_node(op, list(inputs), list(outputs), name=f"{outputs[0]}/{op}", domain=DOMAIN, **attributes)
        )

    def constant(self, name: str, array: np.ndarray) -> None:
        """Add a small initializer, whatever its size, inside the .onnx file. float32 or int64."""
        proto = TensorProto(name=name, data_type=_TYPES[str(array.dtype)], dims=array.shape)
        proto.raw_data = np.ascontiguousarray(array).tobytes()
        self._initializers.append(proto)

    def weight(self, name: str, shape: tuple[int, ...], dtype: str, parts: Iterable[np.ndarray]) -> None:
        """Add an initializer made of ``parts`` one after the other along the first axis, each written and let go.

        float16, float32 or int8 (from int8 parts); inside the .onnx file below INLINE_LIMIT bytes, else in external data at a page boundary.
        """
        target = np.dtype(dtype).newbyteorder("<")
        proto = TensorProto(name=name, data_type=_TYPES[dtype], dims=shape)
        size = int(np.prod(shape)) * target.itemsize
        if size < INLINE_LIMIT:
            proto.raw_data = b"".join(piece.tobytes() for part in parts for piece in convert(part, target, name))
            written = len(proto.raw_data)
        else:
            proto.data_location = TensorProto.EXTERNAL
            offset = self._data.begin()
            written = sum(self._data.append(part, target, name) for part in parts)
            for key, value in (("location", self._data.path.name), ("offset", offset), ("length", written)):
                proto.external_data.add(key=key, value=str(value))
        if written != size:
            raise ValueError(
                f"tensor {name} got {written} bytes, expected {size} for {dtype} {list(shape)}; the parts do not fit"
            )
        self._initializers.append(proto)

    def borrow(self, lender: GraphWriter, name: str) -> None:
        """Add the initializer ``name`` of another graph in the same folder: the same bytes of the same file, not a copy of them.

        A tensor small enough to stay in its .onnx file is copied. Raises KeyError.
        """
        found = next((i for i in lender._initializers if i.name == name), None)
        if found is None:
            raise KeyError(name)
        self._initializers.append(found)
        for entry in found.external_data:
            if entry.key == "location" and entry.value not in self._borrowed:
                self._borrowed.append(entry.value)

    def borrow_rows(self, lender: GraphWriter, name: str, first: int, new_name: str) -> None:
        """Add the rows from ``first`` on of the initializer ``name`` of another graph, as ``new_name``: bytes of the same file, not a copy.

        Raises KeyError for an unknown tensor, ValueError where no row is left.
        """
        found = next((i for i in lender._initializers if i.name == name), None)
        if found is None:
            raise KeyError(name)
        rows = found.dims[0]
        if not 0 <= first < rows:
            raise ValueError(f"first row of {name} is {first}, expected 0 to {rows - 1}")
        part = TensorProto(name=new_name, data_type=found.data_type, dims=[rows - first, *found.dims[1:]])
        if found.data_location != TensorProto.EXTERNAL:
            part.raw_data = found.raw_data[len(found.raw_data) // rows * first :]
        else:
            part.data_location = TensorProto.EXTERNAL
            where = {entry.key: entry.value for entry in found.external_data}
            skipped = int(where["length"]) // rows * first
            where |= {"offset": str(int(where["offset"]) + skipped), "length": str(int(where["length"]) - skipped)}
            for key, value in where.items():
                part.external_data.add(key=key, value=value)
            if where["location"] not in self._borrowed:
                self._borrowed.append(where["location"])
        self._initializers.append(part)

    def save(self) -> None:
        """Write the .onnx file. Call once, after the last node and weight."""
        graph = helper.make_graph(
            self._nodes,
            self._stem,
            [i.proto() for i in self.inputs],
            [o.proto() for o in self.outputs],
            self._initializers,
            value_info=[v.proto() for v in self.inner],
        )
        model = helper.make_model(
            graph,
            functions=[function for _, _, function in self._functions.values()],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
            ir_version=IR_VERSION,
            producer_name="farthing",
        )
        self.path.write_bytes(model.SerializeToString(deterministic=True))
