"""From a graph in memory to the files of a bundle that is run once per input."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from ... import __version__
from ...errors import CheckpointError, VerificationError, found_wanted
from ...runtime.network import describe, made_up, open_session, run_session
from ...runtime.network_tensors import NETWORK
from ..graph.external_data import ExternalData
from ..graph.writer import INLINE_LIMIT, TensorInfo

SIZES = ({"batch": 1, "length": 16}, {"batch": 2, "length": 23})
"""Of the recorded inputs: dimensions that are symbols. Two, so that a graph with one size frozen into it shows."""


def write_network(model: onnx.ModelProto, folder: Path, out: Path) -> list[str]:
    """Write ``out``/network.onnx with every tensor from 4 KiB on in a page-aligned data file; returns the names of data files.

    ``folder`` holds the values of ``model`` that lie outside it. Same model, same bytes. ``model`` is left without large values.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NETWORK}.onnx"
    with ExternalData(path.with_name(f"{path.name}.data")) as data:
        for tensor in model.graph.initializer:
            _place(tensor, folder, data)
        for tensor in external_data_helper._get_all_tensors(model):  # of subgraphs, bodies and Constant nodes
            if tensor.data_location == TensorProto.EXTERNAL and not _is_in(tensor, data.path.name):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor, str(folder)), tensor.name))
    written = [data.path.name] if data.path.exists() else []
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))
    return written


def _is_in(tensor: TensorProto, name: str) -> bool:
    return any(e.key == "location" and e.value == name for e in tensor.external_data)


def _place(tensor: TensorProto, folder: Path, data: ExternalData) -> None:
    array = np.ascontiguousarray(numpy_helper.to_array(tensor, str(folder)))
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
        if tensor.data_location == TensorProto.EXTERNAL or not tensor.raw_data:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        array = np.frombuffer(tensor.raw_data, np.uint8)  # two values a byte
    if array.dtype.kind in "OV" or array.nbytes < INLINE_LIMIT:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return
    placed = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    offset = data.begin()
    length = data.append(array, array.dtype, tensor.name)
    for key, value in (("location", data.path.name), ("offset", offset), ("length", length)):
        placed.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(placed)


def parameters_of(model: onnx.ModelProto) -> int:
    """Values of all floating-point initializers."""
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in kinds)


def vocabulary_of(model: onnx.ModelProto, ids: str) -> int | None:
    """Rows of the table that input ``ids`` is looked up in, or None where it is not looked up directly."""
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == ids and len(shapes.get(node.input[0], [])) == 2:
            return int(shapes[node.input[0]][0])
    return None


def record(graph: Path, inputs: Sequence[TensorInfo], id_limit: int, path: Path) -> list[dict[str, np.ndarray]]:
    """Run ``graph`` on made-up inputs, write the vectors to ``path``; returns the inputs. Raises VerificationError for what is not finite."""
    session = open_session(graph)
    cases, fed = [], []
    for seed, sizes in enumerate(SIZES):
        feeds = made_up([i.manifest() for i in inputs], seed=seed, sizes=sizes, id_limit=id_limit)
        outputs = run_session(session, feeds)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise VerificationError(
                    found_wanted(
                        f"output {name} of {graph.name}", "not finite", "numbers", "see whether the weights are whole"
                    )
                )
        cases.append({"seed": seed, "sizes": sizes, "outputs": describe(outputs)})
        fed.append(feeds)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"id_limit": id_limit, "cases": cases}, sort_keys=True) + "\n", encoding="utf-8")
    return fed


def network_manifest(
    *,
    name: str,
    method: str,
    model: dict[str, Any],
    data: Sequence[str],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    tokenizer: dict[str, Any] | None,
    checkpoint: dict[str, str],
) -> dict[str, Any]:
    """The manifest of a bundle that is run once per input."""
    dtypes = {"weights": "float32", "embedding": "float32", "head": "float32"}
    return {
        "name": name,
        "method": {"id": method, "procedure": "single_pass", "guarantee": "exact"},
        "model": model,
        "graphs": {
            NETWORK: {
                "file": f"graphs/{NETWORK}.onnx",
                "data": [f"graphs/{d}" for d in data],
                "inputs": [i.manifest() for i in inputs],
                "outputs": [o.manifest() for o in outputs],
            }
        },
        "tokenizer": tokenizer,
        "quantization": dtypes,
        "vectors": f"vectors/{NETWORK}.json",
        "provenance": {
            "checkpoint": checkpoint,
            "versions": {
                "farthing": __version__,
                **{p: importlib.metadata.version(p) for p in ("onnx", "onnxruntime")},
            },
        },
    }


def copy_tokenizer(folder: Path, out: Path, vocab_size: int | None) -> dict[str, Any] | None:
    """Copy tokenizer.json of ``folder``, if there is one and the graph looks ids up; returns the manifest's entry."""
    source = folder / "tokenizer.json"
    if vocab_size is None or not source.is_file():
        return None
    from tokenizers import Tokenizer

    text = source.read_text(encoding="utf-8")
    size = Tokenizer.from_str(text).get_vocab_size()
    if size > vocab_size:
        raise CheckpointError(
            found_wanted(
                f"vocabulary of {source}",
                f"{size} ids",
                f"at most the {vocab_size} rows of the table",
                "use the model's own",
            )
        )
    (out / "tokenizer").mkdir()
    (out / "tokenizer" / "tokenizer.json").write_text(text, encoding="utf-8")
    return {
        "file": "tokenizer/tokenizer.json",
        "vocab_size": size,
        "bos_id": None,
        "eos_ids": [],
        "add_bos": False,
        "chat_template": None,
    }
