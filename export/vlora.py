"""Recipe of method ``vlora``: an image becomes weights of the decoder, and no rows (Ma et al. 2024, arXiv 2405.20339). Exact: the model as defined."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RequestError, VerificationError, found_wanted
from ..models.clip import ClipConfig
from ..runtime.bundle import BundleWriter
from ..runtime.tensors import DECODER, PERCEIVE, VISION
from ..runtime.visual.images import sample_image
from ..runtime.visual.prepare import prepare
from ..runtime.visual.spec import VisionSpec
from .checkpoint.vlora_folder import VloraFolder, open_vlora
from .decoder import DTYPES, decoder_manifest, graph_entry
from .graph import GraphWriter, Progress, no_progress
from .graph.clip import write_clip
from .graph.vlora import VloraDecoderGraph, write_perceive
from .recipe_types import ExportResult, Recipe
from .vectors.check import TOLERANCE
from .visual.finish import finish_bundle
from .visual.preprocess import preprocess_entry
from .visual.reduction import FULL
from .visual.vectors import NEW_TOKENS, ImageCase

if TYPE_CHECKING:
    import torch


def export_vlora(
    checkpoint: str | Path | VloraFolder,
    out: str | Path,
    *,
    vision: str | Path | None = None,
    dtype: str = "float32",
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the folder ``checkpoint`` (``model_type`` llava_vlora) to the bundle ``out``.

    ``vision``: folder of CLIP, where its tower is not in the checkpoint. ``dtype`` is how the decoder's matrices are stored; tower, generator and
    branches stay float32. Nothing is left at ``out`` on failure. Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    model = checkpoint if isinstance(checkpoint, VloraFolder) else open_vlora(checkpoint, vision)
    preprocess = preprocess_entry(model)  # type: ignore[arg-type]
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        graphs = _write_graphs(writer.path / "graphs", model, preprocess, dtype, progress)
        entries = {name: graph_entry(graph) for name, graph in graphs.items()}
        manifest = decoder_manifest(RECIPE.method, "autoregressive", model, entries, model.tokenizer(), dtype)
        manifest["model"]["parameters"] += model.visual_parameters
        manifest["vision"] = _vision_entry(model, preprocess)
        compare = partial(check_perceived, model=model, manifest=manifest, dtype=dtype) if check else None
        path, report = finish_bundle(writer, graphs, manifest, model, dtype, compare, progress)
    return ExportResult(
        path=path,
        method=RECIPE.method,
        parameters=model.config.parameters + model.visual_parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=sum(g.node_count for g in graphs.values()),
        nodes_per_layer=graphs[DECODER].count_nodes(f"layers.{model.vlora.layers[0]}."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def check_perceived(cases: list[ImageCase], model: VloraFolder, manifest: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Compare every recorded row with PyTorch, from pixels on, the image's row masked as in training. Raises VerificationError.

    Returns ``max_abs``, ``allowed``, ``rows`` and ``largest_delta``, the largest number of an image's changes: what float16 must hold.
    """
    import torch

    from ..models.vlm_reference import image_features
    from ..models.vlora import VloraDecoder, logits, perceive

    how, token = manifest["vision"]["preprocess"], VisionSpec(manifest["vision"]).image_token_id

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(model.visual(name)))

    def generator(name: str) -> torch.Tensor:
        return read(f"vlora.{name}")

    decoder = VloraDecoder(model, model.vlora, generator, storage=dtype, lazy=True)
    found: dict[str, Any] = {"max_abs": 0.0, "allowed": TOLERANCE, "rows": 0, "largest_delta": 0.0}
    for case in cases:
        with torch.no_grad():
            views = prepare(sample_image(case.seed, case.height, case.width), how).views
            features = image_features(model.vlm, read, views, how["mean"], how["std"])
            deltas = perceive(model.vlora, generator, features)
        wanted = logits(decoder, token, [*case.case.prompt_ids, *case.case.greedy_ids[:-1]], deltas)[
            -NEW_TOKENS:
        ].numpy()
        error = float(np.abs(case.case.logits - wanted).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        if not error <= allowed:
            raise VerificationError(
                found_wanted(
                    f"largest difference between graphs and PyTorch reference (image {case.height} x {case.width})",
                    f"{error:.3g}",
                    f"at most {allowed:.3g}",
                    "this is a defect of the exporter for this model, please report it; nothing was written",
                )
            )
        if error / allowed >= found["max_abs"] / found["allowed"]:
            found |= {"max_abs": error, "allowed": allowed}
        found["rows"] += len(wanted)
        largest = max(float(d.abs().max()) for d in deltas.values())
        found["largest_delta"] = max(found["largest_delta"], largest)
    return found


def _write_graphs(
    folder: Path, model: VloraFolder, preprocess: dict[str, Any], dtype: str, progress: Progress
) -> dict[str, GraphWriter]:
    def generator(name: str) -> np.ndarray:
        return model.visual(f"vlora.{name}")

    c, tower = model.vlora, model.vlm.tower
    assert isinstance(tower, ClipConfig)
    with GraphWriter(folder, VISION) as vision:
        write_clip(
            vision,
            tower,
            lambda name: model.visual(f"tower.{name}"),
            mean=preprocess["mean"],
            std=preprocess["std"],
            progress=progress,
        )
    with GraphWriter(folder, PERCEIVE) as perceive:
        write_perceive(perceive, c, generator, progress=progress)
    # As `models.vlora.outward`.
    shaped = generator("Bs").reshape(len(c.types), len(c.layers), c.llm_dim, c.rank) * np.float32(c.scale)
    outward = {t: shaped[i] for i, t in enumerate(c.types)}
    with GraphWriter(folder, DECODER) as decoder:
        VloraDecoderGraph(decoder, model, c, outward, dtype=dtype, progress=progress).write()
    return {VISION: vision, PERCEIVE: perceive, DECODER: decoder}


def _vision_entry(model: VloraFolder, preprocess: dict[str, Any]) -> dict[str, Any]:
    c, tower = model.vlora, model.vlm.tower
    assert isinstance(tower, ClipConfig)
    return {
        "family": "llava",
        "image_token_id": model.vlm.image_token_id,
        "preprocess": preprocess,
        "grid": tower.grid,
        "feature_size": tower.feature_size,
        "newline": False,
        "positions": "keep",
        "perceive": True,
        # An image goes from perceive straight into the decoder.
        "levels": [{"id": FULL, "ratio": 0.0, "project": PERCEIVE, "step": DECODER}],
        "level": FULL,
        "method": {
            "types": c.types,
            "rank": c.rank,
            "layers": c.layers,
            "bytes_per_image": 4 * len(c.types) * len(c.layers) * c.llm_dim * c.rank,
        },
    }


RECIPE = Recipe(
    method="vlora",
    title="VLoRA: images as weights of the language model",
    dtypes=DTYPES,
    export=export_vlora,
)
