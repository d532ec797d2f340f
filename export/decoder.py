"""Recipe of method ``decoder``: a causal language model, decoded one token at a time. Exact."""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import RequestError, found_wanted
from ..runtime.bundle import BundleWriter
from ..runtime.plain_feeds import plain_feeds
from ..runtime.tensors import DECODER
from .checkpoint import Checkpoint, TokenizerFiles, open_checkpoint
from .graph import GraphWriter, Progress, no_progress, write_decoder
from .recipe_types import ExportResult, Recipe
from .vectors import Recording, check_against_reference, record_decoder
from .vectors.record import SENTENCE, prompts_for

DTYPES = ("float32", "float16")


def export_decoder(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a decoder language model to the bundle ``out``.

    ``dtype`` is how matrices are stored (float16 halves the size; arithmetic stays float32). ``check`` compares the graph with the
    PyTorch reference before the bundle is committed; it reads the weights once more. ``trees`` lets a pass hold a tree of drafts, for
    drafters that branch. Nothing is left at ``out`` on failure.
    Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    tokenizer = source.tokenizer()
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        with GraphWriter(writer.path / "graphs", DECODER) as graph:
            write_decoder(graph, source, dtype=dtype, trees=trees, progress=progress)
        check_onnx(graph.path)
        inputs = [i.name for i in graph.inputs]
        recording = record_decoder(
            graph.path,
            source.config,
            prompts_of(source, tokenizer),
            more=lambda batch, rows: plain_feeds(inputs, batch, rows),
            progress=progress,
        )
        _write_json(writer.path / "vectors" / "decoder.json", recording)
        report = None
        if check:
            progress("comparing with PyTorch", 0, 1)
            report = check_against_reference(recording, source, dtype)
            progress("comparing with PyTorch", 1, 1)
        if tokenizer:
            write_tokenizer(writer.path / "tokenizer", tokenizer)
        progress("hashing", 0, 1)
        graphs = {DECODER: graph_entry(graph)}
        path = writer.commit(decoder_manifest(RECIPE.method, "autoregressive", source, graphs, tokenizer, dtype))
        progress("hashing", 1, 1)
    c = source.config
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=c.parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=graph.node_count,
        nodes_per_layer=graph.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def check_onnx(path: Path) -> None:
    """The ONNX checker, by path so that external data is checked too and the 2 GB limit of protobuf does not apply."""
    import onnx

    onnx.checker.check_model(str(path))


def prompts_of(source: Checkpoint, tokenizer: TokenizerFiles | None) -> list[list[int]]:
    """Prompts of the recorded vectors; see `farthing.export.vectors.record`."""
    if tokenizer is None:
        return prompts_for(source.config, None)
    from tokenizers import Tokenizer

    return prompts_for(source.config, Tokenizer.from_str(tokenizer.json).encode(SENTENCE).ids)


def _write_json(path: Path, recording: Recording) -> None:
    path.write_text(json.dumps(recording.as_json(), sort_keys=True) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: TokenizerFiles) -> None:
    """Make ``folder`` with tokenizer.json and, if there is one, the chat template."""
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    if tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def graph_entry(graph: GraphWriter) -> dict[str, Any]:
    """What the manifest says of a written graph."""
    return {
        "file": f"graphs/{graph.path.name}",
        "data": [f"graphs/{name}" for name in graph.data_files],
        "inputs": [i.manifest() for i in graph.inputs],
        "outputs": [o.manifest() for o in graph.outputs],
    }


def decoder_manifest(
    method: str,
    procedure: str,
    source: Checkpoint,
    graphs: dict[str, Any],
    tokenizer: TokenizerFiles | None,
    dtype: str,
    vectors: str = "vectors/decoder.json",
) -> dict[str, Any]:
    """The manifest of a decoder, whatever loop decodes it."""
    c = source.config
    return {
        "name": source.name,
        "method": {
            "id": method,
            "procedure": procedure,
            # Rounding the weights changes what is decoded, if seldom.
            "guarantee": "exact" if dtype == "float32" else "lossy",
        },
        "model": {
            "family": c.family,
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "layers": c.layers,
            "heads": c.heads,
            "kv_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "max_positions": c.max_positions,
            "sliding_window": c.sliding_window,
            "tied_head": c.tied_head,
            "parameters": c.parameters,
        },
        "graphs": graphs,
        "kv": {"layers": c.layers, "kv_heads": c.kv_heads, "head_dim": c.head_dim, "dtype": "float32"},
        "tokenizer": _tokenizer_entry(tokenizer),
        "quantization": {"weights": dtype, "embedding": dtype, "head": dtype},
        "vectors": vectors,
        "provenance": {
            "checkpoint": {"kind": source.kind, "name": source.path.resolve().name, "sha256": source.sha256()},
            "versions": {
                "farthing": __version__,
                **{name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")},
            },
        },
    }


def _tokenizer_entry(tokenizer: TokenizerFiles | None) -> dict[str, Any] | None:
    if tokenizer is None:
        return None
    return {
        "file": "tokenizer/tokenizer.json",
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_ids": list(tokenizer.eos_ids),
        "add_bos": tokenizer.add_bos,
        "chat_template": None if tokenizer.chat_template is None else "tokenizer/chat_template.jinja",
    }


RECIPE = Recipe(
    method="decoder",
    title="Plain decoder language model (Llama, SmolLM2, Mistral, Qwen2/2.5, Qwen3)",
    dtypes=DTYPES,
    export=export_decoder,
)
