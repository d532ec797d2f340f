"""Recipe of method ``judge``: a decoder with a judge of drafted tokens (Bachmann et al. 2025, arXiv 2501.19309). Lossy.

The bundle is a plain decoder with one more output. Decoded without drafts, or with the standard rule, it gives the checkpoint's own
text; the judge accepts other tokens too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..errors import RequestError, found_wanted
from ..models.judge import Judge, Rule
from ..runtime.bundle import BundleWriter
from ..runtime.bundle.read import sha256_of
from ..runtime.tensors import DECODER
from .checkpoint import Checkpoint, TokenizerFiles, open_checkpoint
from .checkpoint.judge_file import open_judge
from .decoder import DTYPES, check_onnx, decoder_manifest, graph_entry, prompts_of, write_tokenizer
from .graph import GraphWriter, Progress, no_progress
from .graph.judge import write_judge_decoder
from .recipe_types import ExportResult, Recipe
from .vectors import check_against_reference, record_decoder
from .vectors.judge import check_judge, record_judge


def export_judge(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    judge: str | Path | None = None,
    delta: float | None = None,
    min_probability: float = 0.01,
    max_consecutive: int = 8,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a decoder with the judge in file ``judge`` to the bundle ``out``.

    ``delta`` replaces the file's threshold; ``min_probability`` and ``max_consecutive`` are the safety valves of
    `farthing.models.judge.Rule`. The rest as in `export_decoder`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    if judge is None:
        raise RequestError(
            found_wanted("judge", "not given", "a .safetensors file", "give --judge; `farthing train-judge` makes one")
        )
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    trained = open_judge(judge, source, delta=delta)
    rule = Rule(trained.delta, min_probability, max_consecutive)
    tokenizer = source.tokenizer()
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        with GraphWriter(writer.path / "graphs", DECODER) as graph:
            write_judge_decoder(graph, source, trained, dtype=dtype, progress=progress)
        check_onnx(graph.path)
        prompts = prompts_of(source, tokenizer)
        recording = record_decoder(graph.path, source.config, prompts, progress=progress)
        verdicts = record_judge(graph.path, source.config, prompts)
        vectors = {**recording.as_json(), "judge": verdicts.as_json()}
        (writer.path / "vectors" / "decoder.json").write_text(
            json.dumps(vectors, sort_keys=True) + "\n", encoding="utf-8"
        )
        report = None
        if check:
            progress("comparing with PyTorch", 0, 2)
            report = check_against_reference(recording, source, dtype)
            progress("comparing with PyTorch", 1, 2)
            report["judge"] = check_judge(verdicts, source, trained, dtype)
            progress("comparing with PyTorch", 2, 2)
        if tokenizer:
            write_tokenizer(writer.path / "tokenizer", tokenizer)
        progress("hashing", 0, 1)
        graphs = {DECODER: graph_entry(graph)}
        manifest = decoder_manifest(RECIPE.method, "speculative", source, graphs, tokenizer, dtype)
        manifest["method"]["guarantee"] = "lossy"
        manifest["judge"] = _entry(Path(judge), trained, rule, tokenizer)
        path = writer.commit(manifest)
        progress("hashing", 1, 1)
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=source.config.parameters + source.config.hidden_size + 1,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=graph.node_count,
        nodes_per_layer=graph.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _entry(file: Path, judge: Judge, rule: Rule, tokenizer: TokenizerFiles | None) -> dict[str, Any]:
    """What the manifest says of the judge."""
    measured = judge.notes.get("false_accept_rate")
    return {
        "delta": rule.delta,
        "min_probability": rule.min_probability,
        "max_consecutive": rule.max_consecutive,
        "control_ids": control_ids(tokenizer),
        "layer": judge.layer,
        "false_accept_rate": None if measured is None else float(measured),
        "file": {"name": file.name, "sha256": sha256_of(file)},
    }


def control_ids(tokenizer: TokenizerFiles | None) -> list[int]:
    """Ascending ids of all special tokens: an answer must not end, and a turn not change, by the judge alone."""
    if tokenizer is None:
        return []
    added = json.loads(tokenizer.json).get("added_tokens") or []
    return sorted({int(t["id"]) for t in added if t.get("special")} | {int(i) for i in tokenizer.eos_ids})


RECIPE = Recipe(
    method="judge",
    title="Decoder with a learned judge that accepts more of a draft (lossy)",
    dtypes=DTYPES,
    export=export_judge,
)
