"""Recipe of method ``ftp``: future token prediction (Walker 2024, arXiv 2410.18160). Exact.

An encoder, and the head that was trained with it, become two graphs over one copy of the weights: the step, whose logits come from the
head's first step, and the draft of the tokens behind. The text is that of FTP decoded one token at a time.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..errors import RequestError, VerificationError, found_wanted
from ..runtime.bundle import BundleWriter
from ..runtime.bundle.read import sha256_of
from ..runtime.tensors import FTP_DRAFT_CHAIN, FTP_STEP
from .checkpoint import Checkpoint, open_checkpoint
from .checkpoint.ftp_head import open_head
from .decoder import DTYPES, check_onnx, decoder_manifest, graph_entry, prompts_of, write_tokenizer
from .graph import GraphWriter, Progress, no_progress
from .graph.ftp import write_ftp_draft, write_ftp_step
from .recipe_types import ExportResult, Recipe
from .vectors import check_against_reference, record_decoder
from .vectors.ftp import record_ftp_drafts


def export_ftp(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export an encoder with the head in file ``adapter`` (`farthing.models.ftp`) to the bundle ``out``.

    The rest as in `farthing.export.decoder.export_decoder`. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    if adapter is None:
        raise RequestError(
            found_wanted(
                "adapter",
                "not given",
                "the head's .safetensors file",
                "give --adapter; benchmarks/train_ftp.py makes one",
            )
        )
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    head = open_head(adapter, source)
    tokenizer = source.tokenizer()
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        graphs = writer.path / "graphs"
        with GraphWriter(graphs, FTP_STEP) as step, GraphWriter(graphs, FTP_DRAFT_CHAIN) as draft:
            write_ftp_step(step, source, head, dtype=dtype, progress=progress)
            write_ftp_draft(draft, step, source, head, dtype=dtype)
        for graph in (step, draft):
            check_onnx(graph.path)
        prompts = prompts_of(source, tokenizer)
        recording = record_decoder(step.path, source.config, prompts, progress=progress)
        drafts = record_ftp_drafts(step.path, draft.path, source.config, prompts)
        file = f"vectors/{FTP_STEP}.json"
        vectors = {**recording.as_json(), "drafts": drafts}
        (writer.path / file).write_text(json.dumps(vectors, sort_keys=True) + "\n", encoding="utf-8")
        report = None
        if check:
            from ..models.ftp import FtpDecoder
            from .vectors.ftp import check_ftp_drafts

            progress("comparing with PyTorch", 0, 2)
            rounded = head if dtype == "float32" else _rounded(head)
            model = FtpDecoder(source, rounded, storage=dtype, lazy=True)
            report = check_against_reference(recording, source, dtype, model=model)
            progress("comparing with PyTorch", 1, 2)
            if (wrong := check_ftp_drafts(drafts, model)) is not None:
                raise VerificationError(
                    found_wanted(
                        "draft of the graph",
                        wrong,
                        "that of the PyTorch reference",
                        "please report it; nothing was written",
                    )
                )
            progress("comparing with PyTorch", 2, 2)
        if tokenizer:
            write_tokenizer(writer.path / "tokenizer", tokenizer)
        progress("hashing", 0, 1)
        entries = {FTP_STEP: graph_entry(step), FTP_DRAFT_CHAIN: graph_entry(draft)}
        manifest = decoder_manifest(RECIPE.method, "speculative", source, entries, tokenizer, dtype, file)
        c = head.config
        manifest["ftp"] = {
            "horizon": c.horizon,
            "memory": c.memory,
            "layers": c.layers,
            "latent_size": (c.memory + 1) * c.hidden_size,
            "adapter": {"name": Path(adapter).name, "sha256": sha256_of(Path(adapter))},
        }
        path = writer.commit(manifest)
        progress("hashing", 1, 1)
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=source.config.parameters + sum(p.numel() for p in head.parameters()),
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=step.node_count + draft.node_count,
        nodes_per_layer=step.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _rounded(head):  # type: ignore[no-untyped-def]
    """A copy of ``head`` with its matrices as float16 stores them."""
    import copy

    made = copy.deepcopy(head)
    for name, tensor in made.state_dict().items():
        if tensor.ndim == 2 and name not in ("offsets", "memory_positions"):
            tensor.copy_(tensor.half().float())
    return made


RECIPE = Recipe(
    method="ftp",
    title="Decoder whose state is written to predict several tokens (future token prediction)",
    dtypes=DTYPES,
    export=export_ftp,
)
