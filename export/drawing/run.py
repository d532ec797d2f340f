"""Writing, recording, checking and committing the bundle of an image model, whatever its method."""

from __future__ import annotations

import importlib.metadata
import json
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import RequestError, found_wanted
from ...runtime.bundle import BundleWriter
from ...runtime.image_tensors import AR_STEP
from ..decoder import check_onnx
from ..graph import GraphWriter, Progress
from ..recipe_types import ExportResult
from ..vectors.record import open_graph
from .calls import recorded_calls
from .check import check_drawing
from .method import DrawingMethod
from .record import record_drawing

DTYPES = ("float32", "float16")


def check_dtype(dtype: str) -> None:
    """Raises RequestError for a storage type that image models do not have."""
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))


def export_drawing(method: DrawingMethod, out: str | Path, *, check: bool, progress: Progress) -> ExportResult:
    """Export ``method``'s models to the bundle ``out``; ``check`` compares every graph with PyTorch before the bundle is committed.

    Nothing is left at ``out`` on failure. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    start = time.perf_counter()
    writer, source = BundleWriter(out), method.source
    with writer:
        folder = writer.path / "graphs"
        for made in (folder, writer.path / "vectors"):
            made.mkdir()
        progress("writing weights", 0, 1)
        graphs: dict[str, GraphWriter] = {}
        with ExitStack() as open_files:

            def new(name: str) -> GraphWriter:
                graphs[name] = open_files.enter_context(GraphWriter(folder, name))
                return graphs[name]

            step = method.write_all(new)
        progress("writing weights", 1, 1)
        for graph in graphs.values():
            check_onnx(graph.path)
        manifest = _manifest(method, graphs)
        recording = record_drawing(folder, manifest, method.conditions(), progress)
        opened = cache(lambda name: open_graph(folder / f"{name}.onnx"))
        calls = recorded_calls(manifest, method.code_values, opened)
        vectors = json.dumps({**recording.as_json(), "calls": calls}, sort_keys=True) + "\n"
        (writer.path / "vectors" / f"{AR_STEP}.json").write_text(vectors, encoding="utf-8")
        report = check_drawing(method, folder, manifest, recording, progress) if check else None
        path = writer.commit(manifest)
    return ExportResult(
        path=path,
        method=method.method,
        parameters=source.parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=sum(g.node_count for g in graphs.values()),
        nodes_per_layer=step.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _manifest(method: DrawingMethod, graphs: dict[str, GraphWriter]) -> dict[str, Any]:
    source, c = method.source, method.source.config
    return {
        "name": source.name,
        "method": {"id": method.method, "procedure": method.procedure, "guarantee": method.guarantee},
        "model": {
            "family": "llamagen",
            "vocab_size": c.embeddings,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "layers": method.layers,
            "heads": c.heads,
            "kv_heads": c.heads,
            "head_dim": c.head_dim,
            "max_positions": c.positions,
            "tied_head": False,
            "parameters": source.parameters,
        },
        "graphs": {name: _graph(graph) for name, graph in graphs.items()},
        "kv": {"layers": method.layers, "kv_heads": c.heads, "head_dim": c.head_dim, "dtype": "float32"},
        "image_codes": {
            "codes": c.codes,
            "classes": c.classes,
            "grid": c.grid,
            "size": c.grid * method.downsampling,
            **method.image_codes(),
        },
        "tokenizer": None,
        "quantization": {"weights": method.dtype, "embedding": method.dtype, "head": method.dtype},
        "vectors": f"vectors/{AR_STEP}.json",
        "provenance": {
            "checkpoint": {"kind": source.kind, "name": source.name, "sha256": source.sha256()},
            "versions": {
                "farthing": __version__,
                **{name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")},
            },
        },
    }


def _graph(graph: GraphWriter) -> dict[str, Any]:
    return {
        "file": f"graphs/{graph.path.name}",
        "data": [f"graphs/{name}" for name in graph.data_files],
        "inputs": [i.manifest() for i in graph.inputs],
        "outputs": [o.manifest() for o in graph.outputs],
    }
