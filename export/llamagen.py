"""Recipe of method ``llamagen``: class-conditional images, code by code (Sun et al. 2024). Exact."""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import RequestError, VerificationError, found_wanted
from ..runtime.bundle import BundleWriter
from ..runtime.image_tensors import AR_STEP, CODES, PIXELS, VQ_DECODE
from ..runtime.stepper import Stepper
from .checkpoint.llamagen_checkpoint import LlamaGenCheckpoint
from .graph import GraphWriter, Progress, no_progress
from .graph.llamagen import write_ar_step, write_vq_decode
from .recipe_types import ExportResult, Recipe
from .vectors.record import NEW_TOKENS, Case, Recording, open_graph

DTYPES = ("float32", "float16")
TOLERANCE = 1e-4
"""Largest allowed difference from PyTorch, times the largest value where that exceeds 1: the order of sums only."""


def export_llamagen(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the pair in folder ``checkpoint`` to the bundle ``out``; ``dtype`` stores the matrices of the autoregressive model.

    ``check`` compares both graphs with PyTorch before the bundle is committed; nothing is left at ``out`` on failure.
    Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    start = time.perf_counter()
    writer = BundleWriter(out)
    source = LlamaGenCheckpoint(checkpoint)
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        progress("writing weights", 0, 2)
        with GraphWriter(writer.path / "graphs", AR_STEP) as step:
            write_ar_step(step, source, dtype)
        progress("writing weights", 1, 2)
        with GraphWriter(writer.path / "graphs", VQ_DECODE) as decode:
            write_vq_decode(decode, source)
        progress("writing weights", 2, 2)
        manifest = _manifest(source, step, decode, dtype)
        recording = _record(step.path, source, manifest)
        vectors = json.dumps(recording.as_json(), sort_keys=True) + "\n"
        (writer.path / "vectors" / f"{AR_STEP}.json").write_text(vectors, encoding="utf-8")
        report = _check(recording, decode.path, source, dtype) if check else None
        path = writer.commit(manifest)
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=source.parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=step.node_count + decode.node_count,
        nodes_per_layer=step.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _record(graph: Path, source: LlamaGenCheckpoint, manifest: dict[str, Any]) -> Recording:
    """First class, last class and no class, continued greedily."""
    c = source.config
    prompts = [[c.codes], [c.codes + c.classes - 1], [c.codes + c.classes]]
    steps = min(NEW_TOKENS, c.tokens)
    stepper = Stepper(open_graph(graph), manifest, len(prompts), c.positions)
    logits = [stepper.step(np.array(prompts, np.int64))]
    while len(logits) < steps:
        logits.append(stepper.step(logits[-1].argmax(-1)[:, None]))
    rows = np.stack(logits, axis=1)
    return Recording([Case(p, [int(i) for i in r.argmax(-1)], r) for p, r in zip(prompts, rows, strict=True)])


def _check(recording: Recording, decode: Path, source: LlamaGenCheckpoint, dtype: str) -> dict[str, Any]:
    import torch

    model = source.model
    if dtype == "float16":
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(parameter.half().float())
    worst, allowed, rows = 0.0, 0.0, 0
    with torch.no_grad():
        for case in recording.cases:
            wanted = model(torch.tensor([case.prompt_ids + case.greedy_ids[:-1]]))[0].numpy()
            worst, allowed = _compare("logits", case.logits, wanted, worst, allowed)
            rows += len(wanted)
        stream = np.arange(source.config.tokens, dtype=np.int64)
        codes = (stream[None] * 2654435761 + 12345) % source.config.codes
        wanted = source.vq.decode(torch.from_numpy(codes)).numpy()
    pixels = open_graph(decode).run([PIXELS], {CODES: codes})[0]
    worst, allowed = _compare("pixels", pixels, wanted, worst, allowed)
    return {"max_abs": worst, "allowed": allowed, "rows": rows}


def _compare(what: str, found: np.ndarray, wanted: np.ndarray, worst: float, allowed: float) -> tuple[float, float]:
    """The larger of ``worst`` and this difference, with what it may be. Raises VerificationError."""
    error = float(np.nan_to_num(np.abs(found - wanted).max(), nan=np.inf))
    bound = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if not error <= bound:
        raise VerificationError(
            found_wanted(
                f"largest difference of {what} between graph and PyTorch reference",
                f"{error:.3g}",
                f"at most {bound:.3g}",
                "this is a defect of the exporter for this model, please report it; nothing was written",
            )
        )
    return max((worst, allowed), (error, bound))


def _manifest(source: LlamaGenCheckpoint, step: GraphWriter, decode: GraphWriter, dtype: str) -> dict[str, Any]:
    c, q = source.config, source.vq_config
    return {
        "name": source.name,
        "method": {"id": RECIPE.method, "procedure": "autoregressive", "guarantee": "exact"},
        "model": {
            "family": "llamagen",
            "vocab_size": c.embeddings,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "layers": c.layers,
            "heads": c.heads,
            "kv_heads": c.heads,
            "head_dim": c.head_dim,
            "max_positions": c.positions,
            "tied_head": False,
            "parameters": source.parameters,
        },
        "graphs": {name: _graph(graph) for name, graph in ((AR_STEP, step), (VQ_DECODE, decode))},
        "kv": {"layers": c.layers, "kv_heads": c.heads, "head_dim": c.head_dim, "dtype": "float32"},
        "image_codes": {"codes": c.codes, "classes": c.classes, "grid": c.grid, "size": c.grid * q.downsampling},
        "tokenizer": None,
        "quantization": {"weights": dtype, "embedding": dtype, "head": dtype},
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


RECIPE = Recipe(
    method="llamagen",
    title="LlamaGen, class-conditional images token by token",
    dtypes=DTYPES,
    export=export_llamagen,
)
