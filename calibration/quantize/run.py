"""`quantize`: a float bundle in, a quantised bundle out."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...errors import RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ...export.vectors import record_decoder
from ...export.vectors.judge import record_judge
from ...runtime.bundle import Bundle, BundleWriter, open_bundle
from ...runtime.plain_feeds import plain_feeds
from ...runtime.tensors import DECODER, VISUAL_STEP
from ..quality import compare, read_text
from .moments import InputMoments, calibration_text
from .options import BITS, SMALL_FLOATS, Options
from .rewrite import Rewritten, rewrite_decoder
from .small_floats import FP4_BLOCK


@dataclass(frozen=True)
class QuantizeResult:
    """What was written. Bytes are those of graph and weights; ``loss`` is None if it was not measured."""

    path: Path
    options: Options
    source_bytes: int
    bytes: int
    quantized: int
    kept: int
    seconds: float
    loss: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def quantize(
    bundle: str | Path,
    out: str | Path,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    text: str | Path | None = None,
    calibration: str | Path | None = None,
    measure: bool = True,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> QuantizeResult:
    """Write the bundle ``bundle`` with quantised weights to ``out``.

    ``calibration`` is the text that rounding by ``gptq`` reads (default: parts of Python's own library); ``text`` is the file on which perplexity and KL divergence against the source are measured (default: see
    `farthing.calibration.quality`); ``measure`` False leaves that out. Nothing is left at ``out`` on failure.
    Raises RequestError (options, ``out`` in use, a source that is quantised already) and BundleError.
    """
    start = time.perf_counter()
    writer = BundleWriter(out, overwrite=overwrite)  # refuses an unsuitable target before any work
    source = open_bundle(bundle)
    if DECODER not in source.manifest["graphs"]:
        method = source.manifest["method"]["id"]
        raise RequestError(
            found_wanted(
                f"method of {source.path}",
                method,
                "decoder",
                f"`farthing export {method} --dtype ...` chooses how such a bundle stores its weights",
            )
        )
    has = source.manifest["quantization"]
    if has["weights"] not in ("float32", "float16"):
        raise RequestError(
            found_wanted(
                f"weights of {source.path}",
                f"{has['weights']} already",
                "float32 or float16",
                "quantize the bundle that `farthing export` made",
            )
        )
    options = options.checked(has["embedding"])
    document = read_text(text) if measure else None
    if calibration is not None and options.rounding != "gptq":
        raise RequestError(found_wanted("--calibration", "given", "absent without --rounding gptq", "leave it out"))
    read = calibration_text(calibration) if options.rounding == "gptq" else None
    with writer:
        graphs = writer.path / "graphs"
        graphs.mkdir()
        moments = None if read is None else InputMoments(source, read, progress=progress)
        written = rewrite_decoder(source.graph(DECODER), graphs, options, moments=moments, progress=progress)
        _check_onnx(graphs / written.file)
        others = _other_graphs(source, graphs, options, written)
        _copy_rest(source, writer.path)
        loss = None
        with tempfile.TemporaryDirectory(prefix=".stand-in.", dir=writer.path.parent) as folder:
            runs = graphs / written.file
            if options.weights == "nvfp4":
                runs = Path(folder) / written.file
                rewrite_decoder(source.graph(DECODER), Path(folder), options, stand_in=True, progress=progress)
            _record_again(source, runs, writer.path, progress)
            if "vision" in source.manifest:
                _record_images_again(source, writer.path, options, progress)
            if document:
                loss = compare(source, source.graph(DECODER), runs, document, progress=progress)
        progress("hashing", 0, 1)
        path = writer.commit(_manifest(source, written, others, options, moments, loss))
        progress("hashing", 1, 1)
    return QuantizeResult(
        path=path,
        options=options,
        source_bytes=source.weight_bytes,
        bytes=open_bundle(path, hashes=False).weight_bytes,
        quantized=written.quantized,
        kept=written.kept,
        seconds=round(time.perf_counter() - start, 3),
        loss=loss,
    )


def _other_graphs(source: Bundle, folder: Path, options: Options, decoder: Rewritten) -> dict[str, Any]:
    """Entries of the graphs beside the decoder. Visual passes share its weights, rounded as they are; tower and projector stay as they were."""
    entries: dict[str, Any] = {}
    for name, entry in source.manifest["graphs"].items():
        if name.startswith(VISUAL_STEP):
            made = rewrite_decoder(source.graph(name), folder, options, lender=decoder.tensors)
            _check_onnx(folder / made.file)
            entries[name] = {**entry, "file": f"graphs/{made.file}", "data": [f"graphs/{n}" for n in made.data]}
        elif name != DECODER:
            for file in (entry["file"], *entry["data"]):
                shutil.copyfile(source.file(file), folder / Path(file).name)
            entries[name] = entry
    return entries


def _record_images_again(source: Bundle, folder: Path, options: Options, progress: Progress) -> None:
    """The source's images, answered by the new graphs. Raises RequestError for weights that ONNX Runtime does not compute with."""
    from ...export.visual.vectors import record_images

    if options.weights == "nvfp4":
        raise RequestError(
            found_wanted(
                "weights", "nvfp4 for a vision-language bundle", "fp8, int8 or int4", "choose another --weights"
            )
        )
    path = folder / source.manifest["vectors"]
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = record_images(folder / "graphs", source.manifest, progress)
    content["images"] = [case.as_json() for case in cases]
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def _check_onnx(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _copy_rest(source: Bundle, folder: Path) -> None:
    """Everything but graphs and recorded vectors: tokenizer, chat template, tables."""
    replaced = {source.manifest["vectors"]}
    for graph in source.manifest["graphs"].values():
        replaced |= {graph["file"], *graph["data"]}
    for relative in sorted(set(source.manifest["files"]) - replaced):
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.file(relative), target)


def _record_again(source: Bundle, graph: Path, folder: Path, progress: Progress) -> None:
    """The source's prompts, answered by the new graph as ONNX defines it: float arithmetic on the dequantised weights."""
    prompts = [case["prompt_ids"] for case in json.loads(source.text(source.manifest["vectors"]))["cases"]]
    config: Any = SimpleNamespace(**source.manifest["kv"])
    recording = record_decoder(
        graph,
        config,
        prompts,
        more=lambda batch, rows: plain_feeds(source.step_inputs, batch, rows),
        progress=progress,
    )
    path = folder / source.manifest["vectors"]
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = recording.as_json()
    if "judge" in source.manifest:
        content["judge"] = record_judge(graph, config, prompts).as_json()
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def _manifest(
    source: Bundle,
    written: Rewritten,
    others: dict[str, Any],
    options: Options,
    moments: InputMoments | None,
    loss: dict[str, Any] | None,
) -> dict[str, Any]:
    old = source.manifest
    kept = {k: v for k, v in old.items() if k not in ("format", "format_version", "files")}
    graph = {**old["graphs"][DECODER], "file": f"graphs/{written.file}", "data": [f"graphs/{n}" for n in written.data]}
    quantization: dict[str, Any] = {
        "weights": options.weights,
        "embedding": options.embedding,
        "head": options.head,
        "block": FP4_BLOCK if options.weights == "nvfp4" else options.block,
        "symmetric": options.weights in SMALL_FLOATS or options.is_symmetric(BITS[options.weights]),
    }
    if moments:
        quantization["rounding"] = options.rounding
        read = moments.text
        quantization["calibration"] = {"name": read.name, "sha256": read.sha256, "tokens": len(moments.ids)}
    if loss:
        quantization["loss"] = loss
    if "judge" in kept:
        # It was measured on the states of the other weights.
        kept["judge"] = {**kept["judge"], "false_accept_rate": None}
    versions = {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")}
    return {
        **kept,
        # Rounded weights choose other tokens now and then.
        "method": {**old["method"], "guarantee": "lossy"},
        "graphs": {**others, DECODER: graph},
        "quantization": quantization,
        "provenance": {**old["provenance"], "versions": {**old["provenance"]["versions"], **versions}},
    }
