"""`quantize_network`: a float bundle of a network in, int8 weights and activations out, and what that costs."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ...errors import RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ...export.graph.opset import AXES, opset_of, raised
from ...export.graph.writer import TensorInfo
from ...export.onnx_import.build import record, write_network
from ...runtime.bundle import BundleWriter
from ...runtime.network import Network, open_network, open_session
from ...runtime.network_tensors import NETWORK
from ..evaluate_network import NetworkEvaluation, compare_networks
from ..network_data import samples_of
from .center import center
from .chooser import Chooser
from .layers import find_layers
from .observe import observe_model
from .options import StaticOptions
from .refine import refine
from .rewrite import plan, rewrite


@dataclass(frozen=True)
class StaticResult:
    """What was written. ``quantized`` layers of ``layers``; ``kept`` by name, most sensitive first; ``silent`` never had a value but 0."""

    path: Path
    options: StaticOptions
    layers: int
    quantized: int
    smoothed: int
    centred: int
    kept: list[str]
    kept_share: float
    search: dict[str, Any]
    silent: list[str]
    source_bytes: int
    bytes: int
    seconds: float
    loss: NetworkEvaluation

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def quantize_network(
    bundle: str | Path,
    out: str | Path,
    options: StaticOptions = StaticOptions(),  # noqa: B008 (frozen)
    *,
    text: str | Path | None = None,
    images: str | Path | None = None,
    limit: int = 128,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> StaticResult:
    """Write the network ``bundle`` with int8 weights and activations to ``out``: explicit Q/DQ, static scales.

    Every second sample of ``text`` or ``images`` (see `farthing.calibration.network_data`) calibrates, the others measure. Nothing is left at
    ``out`` on failure. Raises RequestError (options, data, nothing to quantise, a quantised source), BundleError.
    """
    start = time.perf_counter()
    options = options.checked()
    writer = BundleWriter(out, overwrite=overwrite)
    source = open_network(bundle)
    manifest = source.bundle.manifest
    if "activations" in manifest["quantization"]:
        raise RequestError(
            found_wanted(
                f"weights of {bundle}", "int8 already", "float32", "quantize the bundle that was imported or exported"
            )
        )
    graph = source.bundle.graph(NETWORK)
    model = _newer(onnx.load(str(graph), load_external_data=False))
    layers = find_layers(model)
    if not layers:
        raise RequestError(
            found_wanted(
                f"layers of {bundle}", "none with constant float32 weights", "Conv, MatMul or Gemm", "nothing to do"
            )
        )
    samples = samples_of(source.bundle, text=text, images=images, limit=2 * limit)
    first, second = samples.half(0), samples.half(1)
    observed = observe_model(model, graph.parent, layers, first, progress)
    centred = center(model, graph.parent, layers, observed) if options.smooth else []
    if centred:
        again = [layer for layer in layers if layer.input in centred]
        observed |= observe_model(model, graph.parent, again, first, progress)
    chosen = plan(model, graph.parent, layers, observed, options.ranges, options.smooth)
    usable = [layer for layer in layers if layer.input in chosen.scales]
    if not usable:
        raise RequestError(
            found_wanted(
                "activations on the calibration data", "0 everywhere", "values", "give data of the model's kind"
            )
        )
    chosen = refine(
        model, graph.parent, usable, chosen, first, progress, rounding=options.rounding, correct=options.correct
    )
    chooser = Chooser(source, model, usable, chosen, first, progress)
    found = chooser.search(options)
    searched = found.as_json(options.wanted, chooser.kind)
    done = [layer for layer in usable if layer not in found.kept]
    if not done:
        raise RequestError(found_wanted("layers to quantise", "none left", "at least one", "lower --keep"))
    rewrite(model, graph.parent, done, chosen)
    smoothed = len({layer.input for layer in done} & set(chosen.smooth))
    with writer:
        data = write_network(model, graph.parent, writer.path / "graphs")
        for relative in manifest["files"]:
            if relative.startswith("tokenizer/"):
                (writer.path / relative).parent.mkdir(exist_ok=True)
                shutil.copyfile(source.bundle.file(relative), writer.path / relative)
        target = writer.path / "graphs" / f"{NETWORK}.onnx"
        inputs = [TensorInfo(t["name"], t["dtype"], tuple(t["shape"])) for t in manifest["graphs"][NETWORK]["inputs"]]
        limit_ids = int(json.loads(source.bundle.text(manifest["vectors"]))["id_limit"])
        record(target, inputs, limit_ids, writer.path / manifest["vectors"])
        loss = compare_networks(Network(source.bundle, open_session(target)), source, second, progress)
        names = {layer.index: layer.weight for layer in layers}
        quantization = {
            **manifest["quantization"],
            "weights": "int8",
            "activations": "int8",
            "ranges": options.ranges,
            "smoothed": smoothed,
            "centred": len(centred),
            "rounding": options.rounding,
            "shifted": sum(layer.index in chosen.shifts for layer in done),
            "kept": [names[layer.index] for layer in found.kept],
            **({"search": searched} if searched else {}),
            "calibration": {"name": first.name, "sha256": first.sha256, "items": first.count},
            "loss": json.loads(json.dumps(loss.as_json())),
        }
        entry = {**manifest["graphs"][NETWORK], "data": [f"graphs/{d}" for d in data]}
        rest = {k: v for k, v in manifest.items() if k not in ("format", "format_version", "files")}
        path = writer.commit(
            {
                **rest,
                "method": {**manifest["method"], "guarantee": "lossy"},
                "graphs": {NETWORK: entry},
                "quantization": quantization,
            }
        )
    return StaticResult(
        path=path,
        options=options,
        layers=len(layers),
        quantized=len(done),
        smoothed=smoothed,
        centred=len(centred),
        kept=[names[layer.index] for layer in found.kept],
        kept_share=sum(layer.size for layer in found.kept) / sum(layer.size for layer in usable),
        search=searched,
        silent=[layer.weight for layer in layers if layer not in usable],
        source_bytes=source.bundle.weight_bytes,
        bytes=open_network(path).bundle.weight_bytes,
        seconds=round(time.perf_counter() - start, 3),
        loss=loss,
    )


def _newer(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in an opset that TensorRT's lowering reads, whose ReduceMean has axes as an input; DequantizeLinear itself takes an axis from 13 on."""
    try:
        return raised(model, AXES)
    except RequestError:
        if opset_of(model) < 13:
            raise
        return model
