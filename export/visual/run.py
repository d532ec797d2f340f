"""Writing the bundle of a vision-language model: tower, projector, visual passes and decoder, with what a method adds to them."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, RequestError, found_wanted
from ...models.qwen_vision import QwenVisionConfig
from ...runtime.anyres import anyres, choose_pinpoint
from ...runtime.bundle import BundleWriter
from ...runtime.tensors import DECODER, PROJECT, VISION, VISUAL_STEP
from ..checkpoint import open_vlm
from ..checkpoint.vlm_folder import VlmFolder
from ..decoder import DTYPES, decoder_manifest, graph_entry
from ..graph import GraphWriter, Progress, no_progress, write_decoder
from ..graph.project import ProjectGraph
from ..graph.tower import write_tower
from ..graph.visual_step import VisualStepGraph
from ..recipe_types import ExportResult
from .finish import finish_bundle
from .native import longest_side, native_counts
from .preprocess import preprocess_entry
from .reduction import FULL, Level, Reduction
from .vectors import check_images


def export_visual(
    checkpoint: str | Path | VlmFolder,
    out: str | Path,
    reduction: Reduction,
    *,
    dtype: str = "float32",
    trees: bool = False,
    check: bool = True,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export the vision-language model in the folder ``checkpoint`` to the bundle ``out``, with the levels of ``reduction``.

    ``dtype`` is how the decoder's matrices are stored; tower and projector stay float32. ``trees`` and ``check`` as in `export_decoder`;
    the check compares images at every level with PyTorch, too. Nothing is left at ``out`` on failure.
    Raises CheckpointError, RequestError, VerificationError, BundleError.
    """
    if dtype not in DTYPES:
        raise RequestError(found_wanted("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "correct --dtype"))
    start = time.perf_counter()
    writer = BundleWriter(out)  # refuses an unsuitable target before any work
    model = checkpoint if isinstance(checkpoint, VlmFolder) else open_vlm(checkpoint)
    reduction.check(model)
    check_positions(model, reduction)
    counts = row_counts(model)
    levels = (Level(FULL, 0.0), *reduction.levels(model, counts))
    check_room(model, levels)
    preprocess = preprocess_entry(model)
    with writer:
        for folder in ("graphs", "vectors"):
            (writer.path / folder).mkdir()
        graphs, entries = _write_graphs(
            writer.path / "graphs", model, reduction, levels, preprocess, dtype, trees, progress
        )
        manifest = decoder_manifest(
            reduction.method,
            "autoregressive",
            model,
            {name: graph_entry(g) for name, g in graphs.items()},
            model.tokenizer(),
            dtype,
        )
        if reduction.guarantee != "exact":
            manifest["method"]["guarantee"] = reduction.guarantee
        manifest["model"]["parameters"] += model.visual_parameters
        manifest["vision"] = vision_entry(model, reduction, preprocess, entries)
        compare = partial(check_images, model=model, manifest=manifest, dtype=dtype) if check else None
        path, report = finish_bundle(writer, graphs, manifest, model, dtype, compare, progress)
    return ExportResult(
        path=path,
        method=reduction.method,
        parameters=model.config.parameters + model.visual_parameters,
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        nodes=sum(g.node_count for g in graphs.values()),
        nodes_per_layer=graphs[DECODER].count_nodes("layers.0."),
        seconds=round(time.perf_counter() - start, 3),
        check=report,
    )


def row_counts(model: VlmFolder) -> list[tuple[int, int]]:
    """(rows, line breaks among them) of images: of the one view, or of every full size and of the most extreme shape."""
    c = model.vlm
    if isinstance(c.tower, QwenVisionConfig):
        return native_counts(preprocess_entry(model))
    if not c.newline:
        return [(c.tower.tokens, 0)]
    side, found = c.tower.image_size, set()
    # Shapes between have fewer rows than the sizes they are fitted into; at 1 : 20 next to nothing is left of the tiles.
    for shape in (*c.pinpoints, (20 * side, side), (side, 20 * side)):
        high, wide = choose_pinpoint(shape, c.pinpoints)
        layout = anyres(shape, (high // side, wide // side), c.tower.grid)
        found.add((layout.order.size, layout.newlines))
    return sorted(found)


def check_positions(model: VlmFolder, reduction: Reduction) -> None:
    """Raise RequestError where rows that have a time, a row and a column would be numbered anew."""
    if reduction.positions == "compact" and model.config.mrope_section:
        raise RequestError(
            found_wanted("positions", "compact with M-RoPE", "keep", "dropped rows leave the others where they are")
        )


def check_room(model: VlmFolder, levels: tuple[Level, ...]) -> None:
    """Raise RequestError where a sliding window would count slots that pruned rows have left. Positions and slots differ then."""
    window = model.config.sliding_window
    if window and window < model.config.max_positions and len(levels) > 1:
        raise RequestError(
            found_wanted(
                "sliding window of the decoder",
                f"{window} slots with rows dropped",
                "none, or level full alone",
                "export with method vlm",
            )
        )


def vision_entry(
    model: VlmFolder, reduction: Reduction, preprocess: dict[str, Any], levels: list[dict[str, Any]]
) -> dict[str, Any]:
    """Entry ``vision`` of the manifest."""
    c = model.vlm
    entry: dict[str, Any] = {
        "family": c.family,
        "image_token_id": c.image_token_id,
        "preprocess": preprocess,
        "grid": longest_side(preprocess) if isinstance(c.tower, QwenVisionConfig) else c.tower.grid,
        "feature_size": c.tower.feature_size,
        "newline": c.newline,
        "positions": reduction.positions,
        "levels": levels,
        "level": reduction.default_level(),
        "method": reduction.about(),
    }
    if model.config.mrope_section:
        entry["mrope_section"] = list(model.config.mrope_section)
    if reduction.prune_layer is not None:
        entry["prune_layer"] = reduction.prune_layer
    return entry


def _write_graphs(
    folder: Path,
    model: VlmFolder,
    reduction: Reduction,
    levels: tuple[Level, ...],
    preprocess: dict[str, Any],
    dtype: str,
    trees: bool,
    progress: Progress,
) -> tuple[dict[str, GraphWriter], list[dict[str, Any]]]:
    """All graphs by name, and the levels of the manifest."""
    graphs: dict[str, GraphWriter] = {}
    late = reduction.prune_layer

    def tower(name: str) -> np.ndarray:
        return model.visual(f"tower.{name}")

    def projector(name: str) -> np.ndarray:
        return model.visual(f"projector.{name}")

    def project(name: str, level: Level, tokens: int | str) -> str:
        with GraphWriter(folder, name) as graph:
            piece = ProjectGraph(graph, model.vlm, projector, graphs.get(PROJECT))
            if level.id == FULL:
                piece.begin()
                piece.finish(piece.rows, "", tokens)
            else:
                reduction.project(piece, model, level, tokens)
        graphs[name] = graph
        return name

    def visual_step(name: str, level: Level, tokens: int | str) -> str:
        select = None
        if late is not None and isinstance(tokens, int):
            select = reduction.select(model, level, tokens)
        with GraphWriter(folder, name) as graph:
            VisualStepGraph(
                graph,
                model,
                graphs[DECODER],
                dtype=dtype,
                skip=level.skip,
                prune_layer=late,
                select=select,
                kept_tokens=tokens,
            ).write()
        graphs[name] = graph
        return name

    with GraphWriter(folder, VISION) as graph:
        write_tower(
            graph,
            model.vlm.tower,
            tower,
            mean=preprocess["mean"],
            std=preprocess["std"],
            extend=reduction.extend_tower(model),
            progress=progress,
        )
    graphs[VISION] = graph
    with GraphWriter(folder, DECODER) as graph:
        write_decoder(graph, model, dtype=dtype, trees=trees, prune_layer=late, progress=progress)
    graphs[DECODER] = graph
    everything = model.vlm.rows
    entries: list[dict[str, Any]] = []
    for level in levels:
        entry: dict[str, Any] = {"id": level.id, "ratio": level.ratio}
        if level.id == FULL:
            entry |= {"project": project(PROJECT, level, everything), "step": visual_step(VISUAL_STEP, level, "N")}
        elif level.skip is not None:
            step = visual_step(f"{VISUAL_STEP}_{level.id}", level, "N") if level.skip else VISUAL_STEP
            entry |= {"project": PROJECT, "step": step}
        elif level.pool > 1:
            pooled = "L" if model.vlm.newline else model.vlm.clip.tokens // level.pool**2
            entry |= {
                "project": project(f"{PROJECT}_{level.id}", level, pooled),
                "step": VISUAL_STEP,
                "pool": level.pool,
            }
        else:
            entry["buckets"] = []
            for tokens in level.buckets:
                suffix = f"{level.id}_{tokens}"
                where = {"project": PROJECT, "step": VISUAL_STEP}
                if late is None:
                    where["project"] = project(f"{PROJECT}_{suffix}", level, tokens)
                else:
                    where["step"] = visual_step(f"{VISUAL_STEP}_{suffix}", level, tokens)
                entry["buckets"].append({"tokens": tokens, **where})
        entries.append(entry)
    if len({e["id"] for e in entries}) != len(entries):
        raise CheckpointError(found_wanted("levels", [e["id"] for e in entries], "different ids", "report this"))
    return graphs, entries
