"""Recipe of method ``gam``: gated associative memory, a language model with a state of constant size. Exact.

The checkpoint is the official class's state_dict (`farthing.export.checkpoint.gam_checkpoint`); sizes are read off its shapes.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import RequestError, found_wanted
from ..runtime.bundle import BundleWriter
from ..runtime.tensors import GAM
from .checkpoint import TokenizerFiles
from .checkpoint.gam_checkpoint import GamCheckpoint
from .graph import GraphWriter, Progress, no_progress
from .graph.gam import write_gam
from .recipe_types import ExportResult, Recipe
from .vectors.gam import check_gam, gam_prompts, record_gam
from .vectors.record import SENTENCE

DTYPES = ("float32", "float16", "int8")
"""``int8`` stores the memory banks in 8 bits with one scale a slot, and the other matrices in float16."""


def export_gam(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a GAM to the bundle ``out``.

    ``dtype`` is how weights are stored, see DTYPES; arithmetic is float32. ``check`` compares the graph with the PyTorch reference before
    the bundle is committed. Nothing is left at ``out`` on failure. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    matrices, memory = ("float16" if dtype == "int8" else dtype), dtype
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    source = GamCheckpoint(checkpoint)
    tokenizer = source.tokenizer()
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        with GraphWriter(writer.path / "graphs", GAM) as graph:
            write_gam(graph, source, dtype=matrices, memory=memory, progress=progress)
        _check_onnx(graph.path)
        manifest = _manifest(source, graph, tokenizer, matrices, memory)
        prompts = gam_prompts(source.config, _sentence(tokenizer))
        recording = record_gam(graph.path, source.config, manifest, prompts, progress=progress)
        vectors = json.dumps(recording.as_json(), sort_keys=True) + "\n"
        (writer.path / "vectors" / f"{GAM}.json").write_text(vectors, encoding="utf-8")
        report = None
        if check:
            progress("comparing with PyTorch", 0, 1)
            report = check_gam(recording, source, matrices, memory)
            progress("comparing with PyTorch", 1, 1)
        if tokenizer:
            (writer.path / "tokenizer").mkdir()
            (writer.path / "tokenizer" / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
        path = writer.commit(manifest)
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=source.config.parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=graph.node_count,
        nodes_per_layer=graph.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _check_onnx(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _sentence(tokenizer: TokenizerFiles | None) -> list[int] | None:
    if tokenizer is None:
        return None
    from tokenizers import Tokenizer

    return list(Tokenizer.from_str(tokenizer.json).encode(SENTENCE).ids)


def _manifest(
    source: GamCheckpoint, graph: GraphWriter, tokenizer: TokenizerFiles | None, matrices: str, memory: str
) -> dict[str, Any]:
    c = source.config
    return {
        "name": source.name,
        "method": {"id": RECIPE.method, "procedure": "autoregressive", "guarantee": "exact"},
        "model": {
            "family": "gam",
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "layers": c.layers,
            "slots": c.slots,
            "kernel_size": c.kernel_size,
            "receptive_field": c.receptive_field,
            "max_positions": c.max_positions,
            "tied_head": True,
            "parameters": c.parameters,
        },
        "graphs": {
            GAM: {
                "file": f"graphs/{graph.path.name}",
                "data": [f"graphs/{name}" for name in graph.data_files],
                "inputs": [i.manifest() for i in graph.inputs],
                "outputs": [o.manifest() for o in graph.outputs],
            }
        },
        "state": {"layers": c.layers, "rows": c.kernel_size - 1, "width": c.hidden_size, "dtype": "float32"},
        "tokenizer": None
        if tokenizer is None
        else {
            "file": "tokenizer/tokenizer.json",
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_ids": list(tokenizer.eos_ids),
            "add_bos": tokenizer.add_bos,
            "chat_template": None,
        },
        "quantization": {"weights": matrices, "embedding": matrices, "head": matrices, "memory": memory},
        "vectors": f"vectors/{GAM}.json",
        "provenance": {
            "checkpoint": {"kind": source.kind, "name": source.path.resolve().name, "sha256": source.sha256()},
            "versions": {
                "farthing": __version__,
                **{name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")},
            },
        },
    }


RECIPE = Recipe(
    method="gam",
    title="Gated associative memory (GAM), a language model with a state of constant size",
    dtypes=DTYPES,
    export=export_gam,
)
