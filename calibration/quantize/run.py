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
from ...runtime.tensors import DECODER, PAST_K, PAST_V, PRESENT_K, PRESENT_V, VISUAL_STEP
from ..quality import compare, read_text
from .cache import CacheScales, code_cache, find_scales
from .moments import InputMoments, calibration_text
from .options import BITS, SMALL_FLOATS, Options
from .prepare import Prepared, prepare, reads_text
from .rewrite import Rewritten, rewrite_decoder
from .small_floats import FP4_BLOCK

_CACHES = tuple(n.format("") for n in (PAST_K, PAST_V, PRESENT_K, PRESENT_V))


@dataclass(frozen=True)
class QuantizeResult:
    """What was written. Bytes are those of graph and weights, and those that a token takes in the cache; ``loss`` is None if it was not measured."""

    path: Path
    options: Options
    source_bytes: int
    bytes: int
    quantized: int
    kept: int
    seconds: float
    loss: dict[str, Any] | None
    source_cache_bytes: int
    cache_bytes: int
    search: dict[str, Any] | None = None
    layers: dict[str, str] | None = None
    """With a budget, as the manifest has them: the search, and the width of each matrix."""

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

    ``calibration`` is the text that rounding by ``gptq`` and the scales of a cache in int8 read (default: parts of Python's own library); ``text`` is the file on which perplexity and KL divergence against the source are measured (default: see
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
    options = options.checked(has["embedding"], has["weights"], has["head"])
    if options.kv != "float32":
        _check_cache(source)
    document = read_text(text) if measure else None
    coded = options.kv != "float32"
    if calibration is not None and not reads_text(options) and not coded:
        raise RequestError(
            found_wanted(
                "--calibration", "given", "absent without --rounding gptq, awq, --budget or --kv int8", "leave it out"
            )
        )
    read = calibration_text(calibration) if reads_text(options) or coded else None
    with writer:
        graphs = writer.path / "graphs"
        graphs.mkdir()
        moments = InputMoments(source, read, progress=progress) if read and reads_text(options) else None
        prepared = prepare(source, options, moments, progress)
        written = rewrite_decoder(
            source.graph(DECODER),
            graphs,
            options,
            moments=moments if options.rounding.endswith("gptq") else None,
            plan=prepared.plan,
            progress=progress,
        )
        _check_onnx(graphs / written.file)
        others = _other_graphs(source, graphs, options, written)
        _copy_rest(source, writer.path)
        loss = None
        with tempfile.TemporaryDirectory(prefix=".stand-in.", dir=writer.path.parent) as folder:
            runs = graphs / written.file
            if options.weights == "nvfp4":
                runs = Path(folder) / written.file
                rewrite_decoder(source.graph(DECODER), Path(folder), options, stand_in=True, progress=progress)
            cache = None
            if coded and read is not None:
                cache = find_scales(source, read, graph=runs, progress=progress)
                for file in {runs, graphs / written.file}:
                    code_cache(file, cache)
                _check_onnx(graphs / written.file)
            _record_again(source, runs, writer.path, options, progress)
            if "vision" in source.manifest:
                _record_images_again(source, writer.path, options, progress)
            if document:
                kv = {**source.manifest["kv"], "dtype": options.kv}
                loss = compare(source, source.graph(DECODER), runs, document, changed_kv=kv, progress=progress)
        progress("hashing", 0, 1)
        path = writer.commit(_manifest(source, written, others, options, moments, cache, loss, prepared))
        progress("hashing", 1, 1)
    made = open_bundle(path, hashes=False)
    return QuantizeResult(
        path=path,
        options=options,
        source_bytes=source.weight_bytes,
        bytes=made.weight_bytes,
        quantized=written.quantized,
        kept=written.kept,
        seconds=round(time.perf_counter() - start, 3),
        loss=loss,
        source_cache_bytes=source.kv_bytes(1),
        cache_bytes=made.kv_bytes(1),
        search=prepared.said.get("budget"),
        layers=prepared.said.get("layers"),
    )


def _check_cache(source: Bundle) -> None:
    """Raises RequestError for bundles whose cache cannot become int8."""
    dtype = source.manifest["kv"]["dtype"]
    if dtype != "float32":
        raise RequestError(
            found_wanted(f"cache of {source.path}", f"{dtype} already", "float32", "quantize the bundle it was made of")
        )
    if "vision" in source.manifest:
        raise RequestError(
            found_wanted(
                f"--kv of {source.path}",
                "int8 for a bundle that reads images",
                "float32: passes of image rows write the same cache, and no scales were found on images",
                "leave --kv out",
            )
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


def _record_again(source: Bundle, graph: Path, folder: Path, options: Options, progress: Progress) -> None:
    """The source's prompts, answered by the new graph as ONNX defines it: float arithmetic on the dequantised weights."""
    prompts = [case["prompt_ids"] for case in json.loads(source.text(source.manifest["vectors"]))["cases"]]
    config: Any = SimpleNamespace(**source.manifest["kv"])
    recording = record_decoder(
        graph,
        config,
        prompts,
        more=lambda batch, rows: plain_feeds(source.step_inputs, batch, rows),
        cache_dtype=options.kv,
        progress=progress,
    )
    path = folder / source.manifest["vectors"]
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = recording.as_json()
    if "judge" in source.manifest:
        content["judge"] = record_judge(graph, config, prompts, cache_dtype=options.kv).as_json()
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def _manifest(
    source: Bundle,
    written: Rewritten,
    others: dict[str, Any],
    options: Options,
    moments: InputMoments | None,
    cache: CacheScales | None,
    loss: dict[str, Any] | None,
    prepared: Prepared,
) -> dict[str, Any]:
    old = source.manifest
    kept = {k: v for k, v in old.items() if k not in ("format", "format_version", "files")}
    graph = {**old["graphs"][DECODER], "file": f"graphs/{written.file}", "data": [f"graphs/{n}" for n in written.data]}
    quantization: dict[str, Any] = {
        "weights": options.weights,
        "embedding": options.embedding,
        "head": options.head,
    }
    if options.weights in SMALL_FLOATS:
        quantization |= {"block": FP4_BLOCK if options.weights == "nvfp4" else options.block, "symmetric": True}
    elif bits := BITS.get(options.weights) or BITS.get(options.head):
        quantization |= {"block": options.block, "symmetric": options.is_symmetric(bits)}
    if moments:
        if options.rounding != "nearest":
            quantization["rounding"] = options.rounding
        quantization |= prepared.said
        read = moments.text
        quantization["calibration"] = {"name": read.name, "sha256": read.sha256, "tokens": len(moments.ids)}
    if cache:
        about = {"name": cache.text.name, "sha256": cache.text.sha256, "tokens": cache.tokens}
        quantization["kv"] = {"dtype": options.kv, "scales": "range", "calibration": about}
        kept["kv"] = {**kept["kv"], "dtype": options.kv}
        for side in ("inputs", "outputs"):
            graph[side] = [{**t, "dtype": options.kv} if t["name"].startswith(_CACHES) else t for t in graph[side]]
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
