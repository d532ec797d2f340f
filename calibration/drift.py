"""The drift report: a bundle beside the PyTorch reference of its checkpoint, layer by layer.

The residual streams are named inner values of every graph (`farthing.runtime.tensors.HIDDEN`). For the report they become outputs
of a copy of the model in memory; the weights stay where they are, mapped from the bundle's own data file. Both sides see the
recorded prompts with their continuations in one pass, so an error is the layers' own and not a different choice of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundleError, CheckpointError, MissingDependencyError, found_wanted
from ..plugins import library_path
from ..runtime import tensors as names
from ..runtime.bundle import Bundle
from ..runtime.cache_dtype import empty_cache
from ..runtime.plain_feeds import places, plain_feeds
from ..runtime.verify import check_tolerance, has_coded_cache, is_integer, open_session, read_cases, session_options

if TYPE_CHECKING:
    from ..export.checkpoint import Checkpoint

TOLERANCE = 1e-4
"""Largest allowed relative error of a row for float weights: like is compared with like (the reference rounds its matrices too), so
only the order of sums differs. Measured on SmolLM2: 6e-6."""

EMBEDDING_TOLERANCE = {"float32": 1e-4, "float16": 1e-3, "int8": 5e-2, "int4": 3e-1}
"""The same for the embedding, which alone tells the right checkpoint from a wrong one. Layers with integer weights have no default:
their drift is the loss of quantisation, and how much is too much is the user's to say."""


@dataclass(frozen=True)
class LayerDrift:
    """``name`` is ``embedding``, ``layer i`` or ``logits``.

    ``relative`` is |difference| / |reference| (norm 2) of the worst row, ``median`` of the middle one.
    """

    name: str
    max_abs: float
    relative: float
    median: float


@dataclass(frozen=True)
class Drift:
    """The stream after every layer, then the logits, of one engine (``bodies`` or ``kernels``)."""

    engine: str
    rows: int
    tolerance: float | None
    """None: layers are reported, not judged."""
    embedding_tolerance: float
    layers: list[LayerDrift]

    def is_over(self, layer: LayerDrift) -> bool:
        """Whether ``layer`` is over its tolerance. NaN is, whatever the tolerance."""
        allowed = self.embedding_tolerance if layer.name == "embedding" else self.tolerance
        return not layer.relative <= (np.finfo(np.float64).max if allowed is None else allowed)

    @property
    def first_over(self) -> LayerDrift | None:
        """The first layer over tolerance: where to look, since everything after it inherits its error."""
        return next(filter(self.is_over, self.layers), None)

    def as_json(self) -> dict[str, Any]:
        """Plain data; a number that is not finite becomes None."""
        first = self.first_over
        return {
            "engine": self.engine,
            "rows": self.rows,
            "tolerance": self.tolerance,
            "embedding_tolerance": self.embedding_tolerance,
            "first_over": first.name if first else None,
            "layers": [
                {k: v if isinstance(v, str) or np.isfinite(v) else None for k, v in asdict(layer).items()}
                for layer in self.layers
            ],
        }


def drift(bundle: Bundle, checkpoint: Checkpoint, *, tolerance: float | None = None, threads: int = 1) -> list[Drift]:
    """Compare ``bundle`` with ``checkpoint``, by bodies and, where they are installed, by kernels.

    ``tolerance`` is for all layers; the default is TOLERANCE for float weights and none for integer ones, where only the embedding
    is judged. Holds one layer of the checkpoint at a time. Raises CheckpointError where the two are
    not of one shape, BundleError where the graph does not name its streams, MissingDependencyError without torch or onnx.
    """
    embedding = EMBEDDING_TOLERANCE[bundle.manifest["quantization"].get("embedding") or "float32"]
    if tolerance is not None:
        check_tolerance(tolerance)
        embedding = tolerance
    elif not is_integer(bundle) and not has_coded_cache(bundle):
        tolerance = TOLERANCE
    _check_same_shape(bundle, checkpoint)
    model = with_streams(bundle)
    sequences = [c.prompt_ids + c.greedy_ids[:-1] for c in read_cases(bundle)]
    wanted = _reference(bundle, checkpoint, sequences, threads)
    results = []
    for engine in ("bodies", "kernels") if library_path() else ("bodies",):
        options = session_options(bundle, engine, threads)
        # The model comes as bytes, so that its data file has to be told where it is.
        folder = bundle.graph(names.DECODER).parent.resolve()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        found = _run(open_session(model, options), bundle, sequences)
        results.append(Drift(engine, sum(map(len, sequences)), tolerance, embedding, _compare(found, wanted)))
    return results


def with_streams(bundle: Bundle) -> bytes:
    """The decoder graph with hidden.0 .. hidden.L as further outputs, serialised without its external data."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                "package onnx", "not installed", "installed to compare layers", "pip install 'farthing[export]'"
            )
        ) from error
    path = bundle.graph(names.DECODER)
    model = onnx.load(str(path), load_external_data=False)
    produced = {name for node in model.graph.node for name in node.output}
    layers = bundle.manifest["model"]["layers"]
    streams = [names.HIDDEN.format(i) for i in range(layers + 1)]
    if missing := [s for s in streams if s not in produced]:
        raise BundleError(
            found_wanted(f"value {missing[0]} of {path}", "missing", "the stream of a layer", "export the bundle again")
        )
    for stream in streams:
        shape = ["B", "S", bundle.manifest["model"]["hidden_size"]]
        model.graph.output.append(onnx.helper.make_tensor_value_info(stream, onnx.TensorProto.FLOAT, shape))
    return model.SerializeToString()  # type: ignore[no-any-return]


def _check_same_shape(bundle: Bundle, checkpoint: Checkpoint) -> None:
    fields = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_dim", "vocab_size")
    for field in fields:
        found, wanted = getattr(checkpoint.config, field), bundle.manifest["model"][field]
        if found != wanted:
            raise CheckpointError(
                found_wanted(
                    f"{field} of checkpoint {checkpoint.path}", found, f"{wanted} as in {bundle.path}",
                    "give the checkpoint the bundle was exported from",
                )
            )  # fmt: skip


def _run(session: Any, bundle: Bundle, sequences: Sequence[list[int]]) -> list[list[np.ndarray]]:
    """Per sequence: hidden.0 .. hidden.L [S,D] and logits [S,V]."""
    kv = bundle.manifest["kv"]
    streams = [names.HIDDEN.format(i) for i in range(kv["layers"] + 1)]
    results = []
    for sequence in sequences:
        rows = np.arange(len(sequence), dtype=np.int64)[None]
        empty = empty_cache(kv, len(sequence))
        pasts = {n.format(i): empty for i in range(kv["layers"]) for n in (names.PAST_K, names.PAST_V)}
        feeds = {
            names.INPUT_IDS: np.array([sequence], np.int64),
            names.LOGIT_ROWS: rows,
            **places(session, rows, np.zeros(1, np.int64)),
            **plain_feeds(bundle.step_inputs, 1, len(sequence)),
            **pasts,
        }
        results.append([value[0] for value in session.run([*streams, names.LOGITS], feeds)])
    return results


def _reference(
    bundle: Bundle, checkpoint: Checkpoint, sequences: Sequence[list[int]], threads: int
) -> list[list[np.ndarray]]:
    """The same from PyTorch. All sequences in one padded batch, so that each layer is read once."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                "package torch", "not installed", "installed for the reference", "pip install 'farthing[export]'"
            )
        ) from error
    from ..models.blocks import KVCache
    from ..models.decoder import Decoder

    weights = bundle.manifest["quantization"]["weights"]
    model = Decoder(checkpoint, storage=weights if weights == "float16" else "float32", lazy=True)
    ids = torch.zeros((len(sequences), max(map(len, sequences))), dtype=torch.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    cache = KVCache.empty(checkpoint.config, ids.shape[1], len(sequences))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        output = model.forward(ids, cache, torch.zeros(len(sequences), dtype=torch.int64))
    finally:
        torch.set_num_threads(before)
    values = [value.numpy() for value in (*output.hidden, output.logits)]
    return [[value[i, : len(s)] for value in values] for i, s in enumerate(sequences)]


def _compare(found: list[list[np.ndarray]], wanted: list[list[np.ndarray]]) -> list[LayerDrift]:
    labels = ["embedding", *(f"layer {i}" for i in range(len(wanted[0]) - 2)), "logits"]
    result = []
    for k, label in enumerate(labels):
        ours = np.concatenate([f[k] for f in found]).astype(np.float64)
        theirs = np.concatenate([w[k] for w in wanted]).astype(np.float64)
        difference = ours - theirs
        scale = np.maximum(np.linalg.norm(theirs, axis=-1), np.finfo(np.float32).tiny)
        relative = np.linalg.norm(difference, axis=-1) / scale
        # numpy's max of a NaN is NaN, which `first_over` counts as over.
        result.append(
            LayerDrift(label, float(np.abs(difference).max()), float(relative.max()), float(np.median(relative)))
        )
    return result


def table(drifts: Sequence[Drift]) -> str:
    """The report as text, a line per layer; ``!`` marks what is over tolerance."""
    width = max(len(layer.name) for layer in drifts[0].layers) + 2
    head = f"{'max abs':>10}{'worst row':>11}{'median row':>12}  "
    lines = [
        "".ljust(width) + "".join(f"{d.engine:>{len(head) - 2}}  " for d in drifts),
        "".ljust(width) + head * len(drifts),
    ]
    for rows in zip(*(d.layers for d in drifts), strict=True):
        cells = ""
        for one, row in zip(drifts, rows, strict=True):
            cells += f"{row.max_abs:>10.2e}{row.relative:>11.2e}{row.median:>12.2e}{'!' if one.is_over(row) else ' '} "
        lines.append(f"{rows[0].name:<{width}}{cells}")
    for one in drifts:
        first = one.first_over
        if one.tolerance is None:
            limit = f"tolerance {one.embedding_tolerance:g} for the embedding; layers show the loss of quantisation and are not judged"
        else:
            limit = f"tolerance {one.tolerance:g} relative"
        where = f"the first over it is {first.name}" if first else "no layer is over it"
        lines.append(f"{one.engine}: {one.rows} rows; {limit}; {where}")
    return "\n".join(line.rstrip() for line in lines)


def plot(drifts: Sequence[Drift], title: str, path: str | Path) -> None:
    """Draw relative error (lines) over the layers, logarithmic, to an image file. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package matplotlib", "not installed", "installed to draw", "pip install 'farthing[export]'")
        ) from error
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    labels = [layer.name.removeprefix("layer ") for layer in drifts[0].layers]
    for one in drifts:
        # A log axis has no zero: an exact layer (the embedding, mostly) is drawn at the resolution of float32.
        heights = [max(layer.relative, 1e-8) for layer in one.layers]
        (line,) = axes.plot(
            range(len(labels)), heights, marker="o", markersize=3.5, label=f"{one.engine}, relative (worst row)"
        )
        peaks = [max(layer.max_abs, 1e-8) for layer in one.layers]
        axes.plot(range(len(labels)), peaks, linestyle=":", color=line.get_color(), label=f"{one.engine}, max abs")
    if drifts[0].tolerance is not None:
        axes.axhline(drifts[0].tolerance, color="black", linewidth=0.8, linestyle="--", label="tolerance (relative)")
    axes.set_yscale("log")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_xlabel("after layer")
    axes.set_ylabel("error against the PyTorch reference")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)
