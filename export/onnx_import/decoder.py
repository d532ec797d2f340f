"""A decoder with past that others exported: its weights in our step graph, compared with the original, which gives the vectors.

Their graph concatenates the cache anew at every step and computes the whole head for every row. It is not patched: weights are
taken out of it by role and `write_decoder` writes the graph that `farthing export decoder` writes, so an imported decoder is as fast
as one exported from its checkpoint, and everything that works on such a bundle works on this one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ...errors import RequestError, found_wanted
from ...runtime.bundle import Bundle, BundleWriter
from ...runtime.plain_feeds import plain_feeds
from ...runtime.tensors import DECODER
from ..decoder import RECIPE, check_onnx, decoder_manifest, graph_entry, prompts_of, write_tokenizer
from ..graph import GraphWriter, Progress, no_progress, write_decoder
from ..vectors import record_decoder
from ..vectors.record import Recording
from .decoder_checkpoint import OnnxCheckpoint, is_decoder
from .original import TOLERANCE, compare_recordings, record_original
from .read import Source, read_onnx
from .result import ImportResult


def import_decoder(source: Source, out: str | Path, *, progress: Progress = no_progress) -> ImportResult:
    """Make the decoder bundle ``out`` of a graph with past; config.json and the tokenizer lie beside it.

    The recorded vectors are the original's. Nothing is left at ``out`` on failure.
    Raises CheckpointError where the graph holds what cannot be mapped, VerificationError where bundle and original differ, BundleError.
    """
    start = time.perf_counter()
    writer = BundleWriter(out)
    checkpoint = OnnxCheckpoint(source)
    tokenizer = checkpoint.tokenizer()
    prompts = prompts_of(checkpoint, tokenizer)
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        with GraphWriter(writer.path / "graphs", DECODER) as graph:
            write_decoder(graph, checkpoint, dtype="float32", progress=progress)
        check_onnx(graph.path)
        ours = _record(graph.path, [i.name for i in graph.inputs], checkpoint, prompts, progress)
        theirs = record_original(source.path, checkpoint.config, prompts, progress=progress)
        worst = compare_recordings(theirs, ours, source.path)
        (writer.path / "vectors" / "decoder.json").write_text(
            json.dumps(theirs.as_json(), sort_keys=True) + "\n", encoding="utf-8"
        )
        if tokenizer:
            write_tokenizer(writer.path / "tokenizer", tokenizer)
        progress("hashing", 0, 1)
        graphs = {DECODER: graph_entry(graph)}
        manifest = decoder_manifest(RECIPE.method, "autoregressive", checkpoint, graphs, tokenizer, "float32")
        manifest["provenance"]["checkpoint"]["name"] = source.path.name
        path = writer.commit(manifest)
        progress("hashing", 1, 1)
    return ImportResult(
        path=path,
        parameters=checkpoint.config.parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=graph.node_count,
        seconds=round(time.perf_counter() - start, 3),
        max_error=worst,
        method=RECIPE.method,
    )


def verify_decoder_against_onnx(
    bundle: Bundle, original: str | Path, *, tolerance: float | None = None, threads: int = 1
) -> float:
    """Run the graph with past ``original`` (file or folder, config.json beside it) on the bundle's prompts, and the bundle by its bodies.

    Returns the largest difference of two logits. Raises RequestError where ``original`` is no decoder of the bundle's shape,
    CheckpointError, VerificationError where a logit differs by more than ``tolerance`` (1e-4) of the largest of its row.
    """
    source = read_onnx(original)
    if not is_decoder(source):
        raise RequestError(found_wanted(f"{source.path}", "not a decoder with past", "one", "give the file imported"))
    checkpoint = OnnxCheckpoint(source)
    c, kv = checkpoint.config, bundle.manifest["kv"]
    theirs = (c.layers, c.kv_heads, c.head_dim, c.vocab_size)
    ours = (kv["layers"], kv["kv_heads"], kv["head_dim"], bundle.manifest["model"]["vocab_size"])
    if DECODER not in bundle.manifest["graphs"] or theirs != ours:
        raise RequestError(
            found_wanted(
                f"layers, key heads, head size, vocabulary of {source.path}", theirs, ours, "give the file imported"
            )
        )
    prompts = prompts_of(checkpoint, checkpoint.tokenizer())
    inputs = [i["name"] for i in bundle.manifest["graphs"][DECODER]["inputs"]]
    found = _record(bundle.graph(DECODER), inputs, checkpoint, prompts, no_progress)
    wanted = record_original(source.path, c, prompts, threads=threads)
    return compare_recordings(wanted, found, source.path, TOLERANCE if tolerance is None else tolerance)


def _record(
    graph: Path, inputs: list[str], checkpoint: OnnxCheckpoint, prompts: list[list[int]], progress: Progress
) -> Recording:
    return record_decoder(
        graph,
        checkpoint.config,
        prompts,
        more=lambda batch, rows: plain_feeds(inputs, batch, rows),
        progress=progress,
    )
