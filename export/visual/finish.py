"""The last steps of a bundle with images, whatever its method: record, compare with PyTorch, write tokenizer and manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...runtime.bundle import BundleWriter
from ...runtime.plain_feeds import plain_feeds
from ...runtime.tensors import DECODER
from ..checkpoint.seeing_folder import SeeingFolder
from ..decoder import check_onnx, prompts_of, write_tokenizer
from ..graph import GraphWriter, Progress
from ..vectors import check_against_reference, record_decoder
from .vectors import ImageCase, record_images


def finish_bundle(
    writer: BundleWriter,
    graphs: Mapping[str, GraphWriter],
    manifest: dict[str, Any],
    model: SeeingFolder,
    dtype: str,
    compare_images: Callable[[list[ImageCase]], dict[str, Any]] | None,
    progress: Progress,
) -> tuple[Path, dict[str, Any] | None]:
    """Record text and images with ``graphs``, compare both unless ``compare_images`` is None, and commit ``writer``.

    Returns the bundle's path and the report of the comparison. Raises VerificationError, BundleError.
    """
    for graph in graphs.values():
        check_onnx(graph.path)
    tokenizer = model.tokenizer()
    inputs = [i.name for i in graphs[DECODER].inputs]
    recording = record_decoder(
        graphs[DECODER].path,
        model.config,
        prompts_of(model, tokenizer),
        more=lambda batch, rows: plain_feeds(inputs, batch, rows),
        progress=progress,
    )
    images = record_images(writer.path / "graphs", manifest, progress)
    report = None
    if compare_images is not None:
        progress("comparing with PyTorch", 0, 2)
        report = check_against_reference(recording, model, dtype)
        progress("comparing with PyTorch", 1, 2)
        report["images"] = compare_images(images)
        progress("comparing with PyTorch", 2, 2)
    vectors = {**recording.as_json(), "images": [case.as_json() for case in images]}
    text = json.dumps(vectors, sort_keys=True) + "\n"
    (writer.path / "vectors" / "decoder.json").write_text(text, encoding="utf-8")
    if tokenizer:
        write_tokenizer(writer.path / "tokenizer", tokenizer)
    progress("hashing", 0, 1)
    path = writer.commit(manifest)
    progress("hashing", 1, 1)
    return path, report
