"""Reading the weights of one graph and writing those of another, a tensor at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from ...errors import BundleError, found_wanted
from ...export.graph.external_data import ExternalData
from ...export.graph.writer import INLINE_LIMIT

FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
"""Dtypes a float matrix may have, with their ONNX numbers."""

CODED = (".codes", ".scales", ".zeros", ".whole")
"""What a quantised matrix is made of."""

_NUMPY = {TensorProto.FLOAT: "<f4", TensorProto.FLOAT16: "<f2", TensorProto.INT64: "<i8", TensorProto.INT32: "<i4"}


class SourceTensors:
    """The initializers of ``model``, loaded without external data from the file ``path``. Big ones are mapped, not read."""

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self._path = path
        self._protos = {t.name: t for t in model.graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._protos

    def dtype(self, name: str) -> int:
        """ONNX number of the tensor's dtype."""
        return self._protos[name].data_type

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self._protos[name].dims)

    def array(self, name: str) -> np.ndarray:
        """The tensor, read-only: a map of the external data, or a copy of an inner one. Raises BundleError."""
        proto = self._protos[name]
        if proto.data_type not in _NUMPY:
            raise BundleError(
                found_wanted(
                    f"dtype of tensor {name} of {self._path}",
                    TensorProto.DataType.Name(proto.data_type),
                    "FLOAT, FLOAT16 or INT64",
                    "quantize a bundle that `farthing export` made",
                )
            )
        if proto.data_location != TensorProto.EXTERNAL:
            return onnx.numpy_helper.to_array(proto)
        where = {entry.key: entry.value for entry in proto.external_data}
        path = self._path.parent / where["location"]
        dtype, shape, offset = np.dtype(_NUMPY[proto.data_type]), tuple(proto.dims), int(where.get("offset", 0))
        size = int(np.prod(shape)) * dtype.itemsize
        if path.parent != self._path.parent or not path.is_file() or offset + size > path.stat().st_size:
            raise BundleError(
                found_wanted(
                    f"external data of tensor {name} of {self._path}",
                    f"{where['location']!r} at {offset}",
                    f"{size} bytes of a file beside the graph",
                    "export the bundle again",
                )
            )
        return np.memmap(path, dtype, "r", offset, shape)


class TargetTensors:
    """Collects initializers: small ones inside the .onnx file, others in ``data`` at page boundaries, as the exporter does.

    ``lender``: those of another graph in the same folder, made of the same weights; what it has is borrowed, not written again.
    """

    def __init__(self, data: ExternalData, lender: TargetTensors | None = None) -> None:
        self.protos: list[onnx.TensorProto] = []
        self._data = data
        self._names: set[str] = set()
        self._lent = {} if lender is None else {t.name: t for t in lender.protos}

    def __contains__(self, name: str) -> bool:
        """Whether the tensor is there, or was lent now, with the scales and zero points of codes."""
        if name not in self._names and name in self._lent:
            stem = name.removesuffix(".codes")
            parts = [name] if stem == name else [stem + suffix for suffix in CODED]
            for part in parts:
                if part in self._lent and part not in self._names:
                    self.protos.append(self._lent[part])
                    self._names.add(part)
        return name in self._names

    @property
    def files(self) -> list[str]:
        """Names of the data files that the tensors are in, in the order of their first use."""
        locations = [e.value for t in self.protos for e in t.external_data if e.key == "location"]
        return list(dict.fromkeys(locations))

    def add(self, name: str, kind: int, shape: tuple[int, ...], array: np.ndarray) -> str:
        """Write a tensor of ONNX dtype ``kind``; ``array`` holds its bytes (two INT4 in one). Returns ``name``."""
        proto = TensorProto(name=name, data_type=kind, dims=shape)
        if array.nbytes < INLINE_LIMIT:
            proto.raw_data = np.ascontiguousarray(array).tobytes()
        else:
            proto.data_location = TensorProto.EXTERNAL
            offset = self._data.begin()
            written = self._data.append(array, array.dtype, name)
            for key, value in (("location", self._data.path.name), ("offset", offset), ("length", written)):
                proto.external_data.add(key=key, value=str(value))
        self.protos.append(proto)
        self._names.add(name)
        return name
