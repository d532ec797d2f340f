"""`quantize_weights`: a float bundle of a network in, weights in 4 or 8 bits out, activations as they were, and what that costs."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import BundleError, RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ...export.graph.opset import BLOCKS, raised
from ...export.graph.writer import TensorInfo
from ...export.onnx_import.build import record, write_network
from ...runtime.bundle import Bundle, BundleWriter
from ...runtime.network import Network, open_network, open_session
from ...runtime.network_tensors import NETWORK
from ..budget import Found, check_budget
from ..evaluate_network import NetworkEvaluation, compare_networks
from ..network_data import Samples, samples_of
from ..network_kl import kind_of
from ..quantize.options import SMALLEST_BLOCK
from .biases import find_biases
from .fold import fold_factors
from .layers import find_weights
from .moments import NetworkMoments
from .options import WeightOptions
from .rewrite import find_tables, rewrite, rewrite_tables
from .rounding import Rounder
from .sensitivity import BITS, FLOAT, Search, weight_costs
from .stand_in import open_in_memory, results


@dataclass(frozen=True)
class WeightResult:
    """What was written. ``widths`` of each weight by name; ``left``: weights that stay in float with the reason; ``scaled``: weights with AWQ's
    factors; ``search`` of a budget."""

    path: Path
    options: WeightOptions
    widths: dict[str, str]
    left: dict[str, str]
    scaled: int
    source_bytes: int
    bytes: int
    seconds: float
    loss: NetworkEvaluation
    search: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def quantize_weights(
    bundle: str | Path,
    out: str | Path,
    options: WeightOptions = WeightOptions(),  # noqa: B008 (frozen)
    *,
    text: str | Path | None = None,
    images: str | Path | None = None,
    limit: int = 128,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> WeightResult:
    """Write the network ``bundle`` with weights in blocks of small integers to ``out``; activations stay float32.

    Every second sample of ``text`` or ``images`` (see `farthing.calibration.network_data`) calibrates rounding and search, the others measure. Nothing
    is left at ``out`` on failure. Raises RequestError (options, data, nothing to quantise, a quantised source, a budget), BundleError.
    """
    start = time.perf_counter()
    options = options.checked()
    writer = BundleWriter(out, overwrite=overwrite)
    source = open_network(bundle)
    job = Job(source, options, progress)
    samples = samples_of(source.bundle, text=text, images=images, limit=2 * limit)
    first, second = samples.half(0), samples.half(1)
    rounder, factors = job.prepare(first)
    found = None if options.budget is None else job.search(rounder, first)
    widths = dict.fromkeys((w.name for w in job.weights), options.weights) if found is None else found.best.widths
    model = job.rewritten(rounder, widths)
    with writer:
        manifest = source.bundle.manifest
        data = write_network(model, job.folder, writer.path / "graphs")
        _copy_tokenizer(source.bundle, writer.path)
        target = writer.path / "graphs" / f"{NETWORK}.onnx"
        inputs = [TensorInfo(t["name"], t["dtype"], tuple(t["shape"])) for t in manifest["graphs"][NETWORK]["inputs"]]
        limit_ids = int(json.loads(source.bundle.text(manifest["vectors"]))["id_limit"])
        record(target, inputs, limit_ids, writer.path / manifest["vectors"])
        loss = compare_networks(Network(source.bundle, open_session(target)), source, second, progress)
        entry = {**manifest["graphs"][NETWORK], "data": [f"graphs/{d}" for d in data]}
        rest = {k: v for k, v in manifest.items() if k not in ("format", "format_version", "files")}
        quantization = job.described(widths, first, found)
        quantization["loss"] = json.loads(json.dumps(loss.as_json()))
        path = writer.commit(
            {
                **rest,
                "method": {**manifest["method"], "guarantee": "lossy"},
                "graphs": {NETWORK: entry},
                "quantization": quantization,
            }
        )
    return WeightResult(
        path=path,
        options=options,
        widths=widths,
        left=job.left,
        scaled=len(factors),
        source_bytes=source.bundle.weight_bytes,
        bytes=open_network(path).bundle.weight_bytes,
        seconds=round(time.perf_counter() - start, 3),
        loss=loss,
        search=quantization.get("budget"),
    )


class Job:
    """One source and what is to be done to it."""

    def __init__(self, source: Network, options: WeightOptions, progress: Progress) -> None:
        self._source, self._options, self._progress = source, options, progress
        self._manifest = source.bundle.manifest
        has = self._manifest["quantization"]
        if "activations" in has or has["weights"] != "float32":
            raise RequestError(
                found_wanted(
                    f"weights of {source.bundle.path}",
                    f"{has['weights']} already",
                    "float32",
                    "quantize the bundle that was imported or exported",
                )
            )
        graph = source.bundle.graph(NETWORK)
        self.folder = graph.parent
        self.model = raised(onnx.load(str(graph), load_external_data=False), BLOCKS)
        found, self.left = find_weights(self.model)
        self.weights = [w for w in found if options.block_of(w.inputs)]
        odd = [w for w in found if not options.block_of(w.inputs)]
        self.left |= {w.name: f"{w.inputs} inputs, no multiple of {SMALLEST_BLOCK}, which TensorRT needs" for w in odd}
        if not self.weights:
            raise RequestError(
                found_wanted(
                    f"weights of {source.bundle.path}",
                    "none that can be stored in blocks",
                    "constant float32 matrices of MatMul, Gemm or convolutions of 1 x 1",
                    "nothing to do",
                )
            )
        self.tables = [name for name, _ in find_tables(self.model)] if options.embedding == "int8" else []

    def prepare(self, samples: Samples) -> tuple[Rounder, dict[str, np.ndarray]]:
        """Fold AWQ's factors in where asked for; returns the rounder, and the factors by weight."""
        options = self._options
        moments, factors = None, {}
        if options.rounding != "nearest" or options.budget is not None:
            moments = NetworkMoments(self.model, self.folder, self.weights, samples, self._progress)
        if options.rounding.startswith("awq") and moments is not None:
            factors = fold_factors(self.model, self.folder, self.weights, moments, options)
        biases = find_biases(self.model, self.weights) if options.rounding.endswith("gptq") else {}
        return Rounder(self.model, self.folder, options, moments, factors, biases), factors

    def searched(self, rounder: Rounder, samples: Samples) -> Search:
        """A search for widths on ``samples``."""
        kind = self._kind(samples)
        return Search(self.model, self.folder, self.weights, rounder, self._options, samples, kind, self._progress)

    def search(self, rounder: Rounder, samples: Samples) -> Found:
        """Widths within the budget. Raises RequestError where there is no choice."""
        assert self._options.budget is not None
        fixed = self.fixed_bytes()  # refuses before anything is measured
        one = self.searched(rounder, samples)
        self.alone = one.alone
        return one.within(self._options.budget, fixed)

    def _kind(self, samples: Samples) -> str:
        first = results(open_in_memory(self.model, self.folder), [next(iter(samples))[1]])
        return kind_of(first, text="image" not in self._manifest["model"])

    def fixed_bytes(self) -> int:
        """Of graph and weights, what does not depend on the widths. Raises RequestError for a budget that leaves no choice."""
        rounder = Rounder(self.model, self.folder, replace(self._options, rounding="nearest"), None)
        least = self.rewritten(rounder, dict.fromkeys((w.name for w in self.weights), "int4"))
        with tempfile.TemporaryDirectory(prefix="farthing-budget-") as folder:
            write_network(least, self.folder, Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
        costs = [weight_costs(weight, self._options) for weight in self.weights]
        fixed = size - sum(cost["int4"] for cost in costs)
        if self._options.budget is not None:
            check_budget(costs, self._options.budget, fixed)
        return fixed

    def rewritten(self, rounder: Rounder, widths: dict[str, str]) -> onnx.ModelProto:
        """The graph with every weight at its width."""
        rounded = {}
        chosen = [w for w in self.weights if widths[w.name] in BITS]
        for done, weight in enumerate(chosen):
            bits = BITS[widths[weight.name]]
            rounded[weight.name] = bits, rounder.blocks(weight, bits)
            self._progress("quantising", done + 1, len(chosen))
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        rewrite(model, self.weights, rounded)
        for weight in chosen:
            for name, array in rounder.bias(weight, rounded[weight.name][0]).items():
                tensor = next(t for t in model.graph.initializer if t.name == name)
                tensor.CopyFrom(numpy_helper.from_array(array, name))
        held = {t.name: t for t in model.graph.initializer}
        tables = {n: np.asarray(numpy_helper.to_array(held[n], str(self.folder))) for n in self.tables}
        for name, table in tables.items():
            if not np.isfinite(table).all():
                raise BundleError(found_wanted(f"table {name}", "not finite", "numbers", "import a sound model again"))
        rewrite_tables(model, tables)
        return model

    def described(self, widths: dict[str, str], samples: Samples, found: Found | None) -> dict[str, Any]:
        """What the manifest says of it."""
        options = self._options
        used = sorted(set(widths.values()) & set(BITS))
        quantization: dict[str, Any] = {
            **self._manifest["quantization"],
            "weights": used[0],
            "embedding": "int8" if self.tables else self._manifest["quantization"]["embedding"],
            "block": options.block,
            "symmetric": options.is_symmetric(BITS[used[0]]),
            "kept": [*self.left, *(name for name, width in widths.items() if width == FLOAT)],
        }
        if options.rounding != "nearest":
            quantization["rounding"] = options.rounding
        if options.rounding != "nearest" or found is not None:
            quantization["calibration"] = {"name": samples.name, "sha256": samples.sha256, "items": samples.count}
        if found is not None:
            quantization["layers"] = widths
            quantization["budget"] = {"limit": options.budget, **found.as_json(), "sensitivity": self.alone}
        return quantization


def _copy_tokenizer(source: Bundle, folder: Path) -> None:
    for relative in source.manifest["files"]:
        if relative.startswith("tokenizer/"):
            (folder / relative).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.file(relative), folder / relative)
