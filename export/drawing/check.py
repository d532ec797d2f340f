"""Every graph of an image bundle against PyTorch: steps with a cache against one pass without, pixels, codes, draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plugins import operator
from ...runtime import image_tensors as names
from ...runtime.code_walk import open_walk
from ...runtime.drawing.uniforms import uniforms
from ..graph import Progress
from ..vectors.record import open_graph
from .compare import Compare
from .record import DrawnRecording, Run

if TYPE_CHECKING:
    from .method import DrawingMethod


def check_drawing(
    method: DrawingMethod, graphs: Path, manifest: dict[str, Any], recording: DrawnRecording, progress: Progress
) -> dict[str, Any]:
    """Compare everything; returns ``max_abs``, ``allowed``, ``rows``. Raises VerificationError."""
    method.round()
    compare = Compare()
    progress("comparing with PyTorch", 0, 3)
    for run in recording.runs:
        wanted = method.wanted(run.conditions, run.drawn)
        for turn, (found, right) in enumerate(zip(run.logits, wanted, strict=True)):
            compare.close(f"logits of turn {turn}", found, right, rows=right.shape[0] * right.shape[1])
        _one_pass(graphs, manifest, run, wanted, compare)
    progress("comparing with PyTorch", 1, 3)
    _tokenizer(method, graphs, compare)
    progress("comparing with PyTorch", 2, 3)
    _sample(graphs, method.source.config.codes, compare)
    method.check_more(graphs, compare, recording.runs[0])
    progress("comparing with PyTorch", 3, 3)
    return compare.report()


def _one_pass(graphs: Path, manifest: dict[str, Any], run: Run, wanted: list[np.ndarray], compare: Compare) -> None:
    """All codes in a single pass, as verification of drafts runs them. A diagonal model's passes have several rows already."""
    walk = open_walk(lambda name: open_graph(graphs / f"{name}.onnx"), manifest, run.conditions)
    if walk.order.name != "diagonal" and len(run.drawn) > 1:
        walk.begin()
        compare.close("logits of one pass over all rows", walk.together(run.drawn[:-1]), np.stack(wanted[1:], axis=1))


def _tokenizer(method: DrawingMethod, graphs: Path, compare: Compare) -> None:
    import torch

    tokenizer, image = method.source.tokenizer, method.source.config
    codes = (uniforms(1, 0, image.tokens).astype(np.float64) * method.code_values).astype(np.int64)[None]
    side = image.grid * method.downsampling
    low, high = method.image_codes()["pixel_range"]
    pixels = (low + (high - low) * uniforms(2, 0, 3 * side * side)).astype(np.float32).reshape(1, 3, side, side)
    with torch.no_grad():
        wanted = tokenizer.decode(torch.from_numpy(codes)).numpy()
    found = open_graph(graphs / f"{names.VQ_DECODE}.onnx").run([names.PIXELS], {names.CODES: codes})[0]
    compare.close("pixels", found, wanted)
    made = open_graph(graphs / f"{names.VQ_ENCODE}.onnx").run([names.CODES], {names.PIXELS: pixels})[0]
    with torch.no_grad():
        short = tokenizer.shortfall(torch.from_numpy(pixels), torch.from_numpy(made)).numpy()
    compare.close("how far encoded codes are from the best", short, np.zeros_like(short))


def _sample(graphs: Path, codes: int, compare: Compare) -> None:
    """The graph of draws against the operator's reference, with every filter on."""
    import torch

    logits = (8 * uniforms(3, 0, 2 * 3 * codes) - 4).reshape(2, 1, 3, codes)
    feeds = {
        names.COND: logits[0],
        names.UNCOND: logits[1],
        names.SCALE: np.array([2.5], np.float32),
        names.UNIFORMS: uniforms(4, 0, 3)[None],
        names.TEMPERATURE: np.array([0.9], np.float32),
        names.TOP_K: np.array([max(1, codes // 2)], np.int64),
        names.TOP_P: np.array([0.9], np.float32),
    }
    compare_operator("GuidedSample", graphs / f"{names.SAMPLE}.onnx", feeds, {}, compare, torch)


def compare_operator(
    name: str,
    graph: Path,
    feeds: Mapping[str, np.ndarray | None],
    attributes: dict[str, Any],
    compare: Compare,
    torch: Any,
) -> None:
    """A graph of one operator against its reference; ``feeds`` are all inputs in the order of its ports, None absent, constants included."""
    contract = operator(name)
    session = open_graph(graph)
    taken = {i.name for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]
    found = session.run(outputs, {n: v for n, v in feeds.items() if n in taken})
    given = [None if v is None else torch.from_numpy(np.ascontiguousarray(v)) for v in feeds.values()]
    wanted = contract.reference(*given, **contract.with_defaults(attributes))
    for output, got, right in zip(outputs, found, wanted, strict=True):
        if got.dtype == np.int64:
            compare.equal(f"{output} of {graph.stem}", got, right.numpy())
        else:
            compare.close(f"{output} of {graph.stem}", got, right.numpy())
