"""Recipe of method ``mtp``: gated-LoRA multi-token prediction (Samragh et al. 2025, arXiv 2507.11851). Exact.

A decoder and a trained adapter (`farthing train-mtp`, or a file in BatchSpec's names) become two graphs over one copy of the weights: the step with
mask rows, and the chain that makes drafts of what the masks saw.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from ..errors import RequestError, found_wanted
from ..models.config import DecoderConfig
from ..runtime.bundle import BundleWriter
from ..runtime.bundle.read import sha256_of
from ..runtime.mask_feeds import causal_feeds
from ..runtime.tensors import MTP_DRAFT_CHAIN, MTP_STEP
from .checkpoint import Checkpoint, TokenizerFiles, open_checkpoint
from .checkpoint.mtp_adapter import open_adapter
from .decoder import DTYPES, check_onnx, decoder_manifest, graph_entry, prompts_of, write_tokenizer
from .graph import GraphWriter, Progress, no_progress
from .graph.mtp import write_draft_chain, write_mtp_step
from .recipe_types import ExportResult, Recipe
from .vectors import check_against_reference, record_decoder
from .vectors.mtp import check_drafts, record_drafts


def export_mtp(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    masks: int | None = None,
    alpha: float | None = None,
    draft_vocab: str | int | None = None,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a decoder with the adapter in file ``adapter`` to the bundle ``out``.

    ``masks`` uses the first so many of the trained masks, ``alpha`` is the LoRAs' where the file does not say it. ``draft_vocab`` limits drafts
    (not the text) to some ids, which makes the chain's head smaller: a file of ids, or a number N for the first N and the stop ids; byte-pair
    vocabularies are numbered by falling frequency. The rest as in `export_decoder`. Raises CheckpointError, RequestError, VerificationError,
    BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    if adapter is None:
        raise RequestError(
            found_wanted(
                "adapter", "not given", "a .safetensors file", "give --adapter; `farthing train-mtp` makes one"
            )
        )
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    trained = open_adapter(adapter, source, alpha=alpha)
    used = trained if masks is None else open_adapter(adapter, source, masks=masks, alpha=alpha)
    tokenizer = source.tokenizer()
    draft_ids = None if draft_vocab is None else _draft_ids(draft_vocab, source.config, tokenizer)
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        graphs = writer.path / "graphs"
        with GraphWriter(graphs, MTP_STEP) as step, GraphWriter(graphs, MTP_DRAFT_CHAIN) as chain:
            write_mtp_step(step, source, used, dtype=dtype, progress=progress)
            write_draft_chain(chain, step, source, used, dtype=dtype, draft_ids=draft_ids)
        for graph in (step, chain):
            check_onnx(graph.path)
        prompts = prompts_of(source, tokenizer)
        recording = record_decoder(step.path, source.config, prompts, more=causal_feeds, progress=progress)
        drafts = record_drafts(step.path, chain.path, source.config, used.config.masks, prompts)
        vectors = {**recording.as_json(), "drafts": drafts.as_json()}
        file = f"vectors/{MTP_STEP}.json"
        (writer.path / file).write_text(json.dumps(vectors, sort_keys=True) + "\n", encoding="utf-8")
        report = None
        if check:
            progress("comparing with PyTorch", 0, 2)
            report = check_against_reference(recording, source, dtype)
            progress("comparing with PyTorch", 1, 2)
            report["drafts"] = check_drafts(drafts, source, used, dtype, draft_ids)
            progress("comparing with PyTorch", 2, 2)
        if tokenizer:
            write_tokenizer(writer.path / "tokenizer", tokenizer)
        progress("hashing", 0, 1)
        entries = {MTP_STEP: graph_entry(step), MTP_DRAFT_CHAIN: graph_entry(chain)}
        manifest = decoder_manifest(RECIPE.method, "speculative", source, entries, tokenizer, dtype, file)
        manifest["mtp"] = {
            "masks": used.config.masks,
            "trained_masks": trained.config.masks,
            "rank": max(
                pair[0].shape[0] for g in ("qkv", "o", "gate_up", "down") if (pair := used.fused(source.config, 0, g))
            ),
            "draft_vocab_size": source.config.vocab_size if draft_ids is None else len(draft_ids),
            "adapter": {"name": Path(adapter).name, "sha256": sha256_of(Path(adapter))},
        }
        path = writer.commit(manifest)
        progress("hashing", 1, 1)
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=source.config.parameters + used.parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=step.node_count + chain.node_count,
        nodes_per_layer=step.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _draft_ids(wanted: str | int, config: DecoderConfig, tokenizer: TokenizerFiles | None) -> np.ndarray:
    """Ascending ids of the draft vocabulary, int64. Raises RequestError."""
    if str(wanted).isdigit():
        ids = [*range(min(int(wanted), config.vocab_size)), *(tokenizer.eos_ids if tokenizer else ())]
    else:
        try:
            ids = [int(word) for word in Path(str(wanted)).read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            raise RequestError(
                found_wanted(
                    f"draft vocabulary {wanted}",
                    f"unreadable ({error})",
                    "a number, or a file of ids",
                    "correct --draft-vocab",
                )
            ) from error
    found = np.unique(np.array(ids, np.int64))
    if not found.size or found[0] < 0 or found[-1] >= config.vocab_size:
        raise RequestError(
            found_wanted(
                f"draft vocabulary {wanted}",
                f"{found[0]} to {found[-1]}" if found.size else "empty",
                f"ids from 0 to {config.vocab_size - 1}",
                "correct --draft-vocab",
            )
        )
    return found


RECIPE = Recipe(
    method="mtp",
    title="Decoder that drafts by mask tokens with gated LoRA (multi-token prediction)",
    dtypes=DTYPES,
    export=export_mtp,
)
