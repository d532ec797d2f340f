"""Finding and checking an ONNX file before anything is made of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, external_data_helper

from ...errors import CheckpointError, RequestError, found_wanted
from ...runtime.bundle.read import sha256_of
from ..graph.writer import TensorInfo

DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}

STANDARD = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains whose operators ONNX Runtime has by itself."""


@dataclass(frozen=True)
class Source:
    """A checked file: the model without the values of external data, which lie in ``folder``."""

    path: Path
    folder: Path
    model: onnx.ModelProto
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]

    def sha256(self) -> str:
        """Over the sorted list of (name, sha256) of the file and its external data."""
        names = {self.path.name, *external_files(self.model)}
        lines = [f"{name} {sha256_of(self.folder / name)}\n" for name in sorted(names)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_onnx(path: str | Path) -> Path:
    """The file itself, or the only .onnx file of a folder (model.onnx, if there are several). Raises RequestError."""
    place = Path(path)
    if place.is_file():
        return place
    if not place.is_dir():
        raise RequestError(found_wanted(f"{place}", "missing", "an .onnx file or a folder with one", "check the path"))
    found = sorted(place.glob("*.onnx"))
    named = [p for p in found if p.name == "model.onnx"]
    parts = [p.name for p in found if p.name.startswith("decoder_")]
    if parts and not named:
        raise RequestError(
            found_wanted(
                f"content of {place}",
                f"a decoder in parts ({', '.join(parts)})",
                "one model.onnx for prompts and steps",
                "export it again with a current optimum-onnx, task text-generation-with-past",
            )
        )
    if len(found) != 1 and not named:
        listed = ", ".join(p.name for p in found[:8]) or "no .onnx file"
        raise RequestError(found_wanted(f"content of {place}", listed, "one .onnx file", "name the file itself"))
    return named[0] if named else found[0]


def read_onnx(path: str | Path) -> Source:
    """Open and check ``path``. Raises RequestError, CheckpointError: not ONNX, external data missing or outside the folder, tensors or
    operators that a bundle of this kind cannot have."""
    file = find_onnx(path)
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's error classes differ between its implementations
        raise CheckpointError(
            found_wanted(f"{file}", f"not readable as ONNX ({str(error)[:200]})", "an ONNX model", "export it again")
        ) from error
    if not model.graph.node:
        raise CheckpointError(found_wanted(f"graph of {file}", "empty", "some nodes", "export it again"))
    _check_external(file, model)
    _check_operators(file, model)
    try:
        onnx.checker.check_model(str(file))
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            found_wanted(
                f"{file}", f"not valid ONNX ({first[:200]})", "a graph that the checker passes", "export it again"
            )
        ) from error
    held = {i.name for i in model.graph.initializer}
    inputs = [_info(file, i) for i in model.graph.input if i.name not in held]
    outputs = [_info(file, o) for o in model.graph.output]
    if not inputs:
        raise CheckpointError(found_wanted(f"inputs of {file}", "none", "at least one", "export it again"))
    return Source(file, file.parent, model, inputs, outputs)


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files that hold values of the model."""
    return sorted(
        {
            external_data_helper.ExternalDataInfo(t).location
            for t in external_data_helper._get_all_tensors(model)
            if t.data_location == TensorProto.EXTERNAL
        }
    )


def _check_external(file: Path, model: onnx.ModelProto) -> None:
    root = file.parent.resolve()
    for name in external_files(model):
        path = (root / name).resolve()
        if root not in path.parents:
            raise CheckpointError(
                found_wanted(
                    f"external data {name!r} of {file}", "outside its folder", "a file beside it", "move it there"
                )
            )
        if not path.is_file():
            raise CheckpointError(
                found_wanted(f"external data {name!r} of {file}", "missing", "a file beside it", "copy it as well")
            )


def _check_operators(file: Path, model: onnx.ModelProto) -> None:
    own = {(f.domain, f.name) for f in model.functions}
    for node in model.graph.node:
        if node.domain not in STANDARD and (node.domain, node.op_type) not in own:
            raise CheckpointError(
                found_wanted(
                    f"operator {node.domain}::{node.op_type} of {file}",
                    "not a standard one",
                    "one of ONNX or ONNX Runtime, or one with a body in the file",
                    "export it with standard operators",
                )
            )


def _info(file: Path, value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise CheckpointError(
            found_wanted(
                f"type of {value.name} of {file}",
                TensorProto.DataType.Name(kind.elem_type) if value.type.HasField("tensor_type") else "no tensor",
                f"one of {', '.join(DTYPES.values())}",
                "export it with tensors of these types",
            )
        )
    if not kind.HasField("shape"):
        raise CheckpointError(
            found_wanted(f"shape of {value.name} of {file}", "unknown", "its dimensions", "infer shapes, then import")
        )
    shape: list[int | str] = []
    for axis, dimension in enumerate(kind.shape.dim):
        if dimension.HasField("dim_value") and dimension.dim_value > 0:
            shape.append(dimension.dim_value)
        else:  # unnamed ones differ from each other, as far as anyone knows
            shape.append(dimension.dim_param or f"{value.name}_{axis}")
    return TensorInfo(value.name, DTYPES[kind.elem_type], tuple(shape))
