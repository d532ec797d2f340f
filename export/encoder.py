"""Recipe of method ``encoder``: BERT (MiniLM, sentence-transformers), run once per batch of texts. Exact."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import CheckpointError, RequestError, VerificationError, found_wanted
from ..models.bert import BertConfig, expected_tensors, forward
from ..runtime.bundle import BundleWriter
from ..runtime.bundle.read import sha256_of
from ..runtime.network import open_session, run_session
from ..runtime.network_tensors import NETWORK
from .checkpoint.json_file import Fields
from .checkpoint.safetensors_file import SafetensorsFile
from .graph import GraphWriter, Progress, no_progress
from .graph.encoder import write_encoder
from .onnx_import.build import copy_tokenizer, network_manifest, record
from .recipe_types import ExportResult, Recipe

ALLOWED = 1e-4
"""Largest difference of a state from PyTorch. Measured on MiniLM-L6: 3e-6."""


def export_encoder(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the BERT encoder in folder ``checkpoint`` (config.json, model.safetensors, tokenizer.json) to the bundle ``out``.

    A folder of sentence-transformers with mean pooling gets the output sentence_embedding. ``check`` compares with PyTorch.
    Raises CheckpointError, RequestError, VerificationError, BundleError; nothing is left at ``out``.
    """
    if dtype != "float32":
        raise RequestError(
            found_wanted("dtype", repr(dtype), "float32", "`farthing quantize` makes an encoder smaller")
        )
    start = time.perf_counter()
    writer = BundleWriter(out)
    folder = Path(checkpoint)
    c = _config(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(found_wanted(f"{weights}", "missing", "the weights", "fetch the whole folder"))
    file = SafetensorsFile(weights)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in file.names() else ""
    for name, shape in expected_tensors(c).items():
        found = list(file.shape(prefix + name)) if prefix + name in file.names() else "missing"
        if found != list(shape):
            raise CheckpointError(
                found_wanted(f"shape of {prefix + name} of {weights}", found, list(shape), "check config.json")
            )

    def read(name: str) -> np.ndarray:
        return np.asarray(file.read(prefix + name), np.float32)

    with writer:
        (writer.path / "graphs").mkdir()
        with GraphWriter(writer.path / "graphs", NETWORK) as graph:
            write_encoder(graph, c, read)
        progress("recording", 0, 1)
        fed = record(graph.path, graph.inputs, c.vocab_size, writer.path / "vectors" / f"{NETWORK}.json")
        progress("recording", 1, 1)
        report = _check(c, read, graph.path, fed) if check else None
        parameters = sum(int(np.prod(s)) for s in expected_tensors(c).values())
        model = {
            "family": "bert",
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "layers": c.layers,
            "heads": c.heads,
            "max_positions": c.max_positions,
            "parameters": parameters,
        }
        digest = hashlib.sha256(f"{weights.name} {sha256_of(weights)}\n".encode()).hexdigest()
        path = writer.commit(
            network_manifest(
                name=folder.resolve().name,
                method=RECIPE.method,
                model=model,
                data=graph.data_files,
                inputs=graph.inputs,
                outputs=graph.outputs,
                tokenizer=copy_tokenizer(folder, writer.path, c.vocab_size),
                checkpoint={"kind": "safetensors", "name": folder.resolve().name, "sha256": digest},
            )
        )
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=graph.node_count,
        nodes_per_layer=graph.count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def _config(folder: Path) -> BertConfig:
    fields = Fields.load(folder / "config.json")
    for key, wanted in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        found = fields.values.get(key, wanted if key != "model_type" else None)
        if found != wanted:
            raise CheckpointError(
                found_wanted(
                    f"{key} of {folder / 'config.json'}", repr(found), repr(wanted), "choose a BERT checkpoint"
                )
            )
    heads, size = fields.count("num_attention_heads"), fields.count("hidden_size")
    if size % heads:
        raise CheckpointError(
            found_wanted(
                f"hidden_size of {folder / 'config.json'}", size, f"a multiple of {heads} heads", "fetch it again"
            )
        )
    return BertConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_size=size,
        intermediate_size=fields.count("intermediate_size"),
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        max_positions=fields.count("max_position_embeddings"),
        types=fields.count("type_vocab_size"),
        epsilon=fields.number("layer_norm_eps", 1e-12),
        pooled=_pooled(folder),
    )


def _pooled(folder: Path) -> bool:
    """Whether the folder is one of sentence-transformers with mean pooling; other poolings are refused rather than guessed."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return False
    modes = {k for k, v in Fields.load(path).values.items() if k.startswith("pooling_mode_") and v is True}
    if modes != {"pooling_mode_mean_tokens"}:
        raise CheckpointError(
            found_wanted(
                f"pooling of {path}",
                sorted(modes),
                "pooling_mode_mean_tokens",
                "move 1_Pooling away for the states alone",
            )
        )
    return True


def _check(
    c: BertConfig, read: Callable[[str], np.ndarray], graph: Path, fed: list[dict[str, np.ndarray]]
) -> dict[str, object]:
    import torch

    session, worst, rows = open_session(graph), 0.0, 0
    for feeds in fed:
        with torch.no_grad():
            wanted = forward(
                c, lambda n: torch.from_numpy(read(n).copy()), *(torch.from_numpy(a) for a in feeds.values())
            )
        for tensor, array in zip(wanted, run_session(session, feeds).values(), strict=False):
            if tensor is not None:
                error = np.abs(tensor.numpy() - array).max()
                worst, rows = max(worst, float(np.nan_to_num(error, nan=np.inf))), rows + array.shape[0]
    if not worst <= ALLOWED:
        raise VerificationError(
            found_wanted(
                "largest difference from PyTorch", f"{worst:.3g}", f"at most {ALLOWED}", "report it with config.json"
            )
        )
    return {"max_abs": worst, "allowed": ALLOWED, "rows": rows}


RECIPE = Recipe(
    method="encoder", title="BERT encoder (MiniLM, sentence-transformers)", dtypes=("float32",), export=export_encoder
)
