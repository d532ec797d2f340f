"""`import_onnx`: a plain ONNX file in, a bundle out, compared with ONNX Runtime on the file itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError, VerificationError, found_wanted
from ...runtime.bundle import Bundle, BundleWriter
from ...runtime.network import (
    TOLERANCE,
    OutputResult,
    compare_values,
    open_session,
    read_network_cases,
    run_session,
)
from ...runtime.network_tensors import NETWORK
from ..graph.writer import Progress, no_progress
from .build import copy_tokenizer, network_manifest, parameters_of, record, vocabulary_of, write_network
from .decoder import import_decoder
from .decoder_checkpoint import is_decoder
from .picture import settle_picture
from .read import find_onnx, read_onnx
from .result import ImportResult

ID_LIMIT = 100
"""Ids of recorded inputs where the graph does not show how many there are."""


def import_onnx(
    source: str | Path,
    out: str | Path,
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    progress: Progress = no_progress,
) -> ImportResult:
    """Make the bundle ``out`` of the ONNX file (or folder with one) ``source``: encoders, vision models, any network run once per input,
    and decoders with past (`import_decoder`).

    The graph of a network stays as it is; weights go to a page-aligned file beside it. tokenizer.json beside the file is taken along. ``mean`` and
    ``std`` per channel, of RGB from 0 to 1, say how pictures become the input, for `farthing eval` and `farthing quantize`; by
    default what preprocessor_config.json beside the file says, else ImageNet's (`settle_picture`). Nothing is left at ``out`` on failure. Raises RequestError, CheckpointError, VerificationError, BundleError.
    """
    start = time.perf_counter()
    writer = BundleWriter(out)
    found = read_onnx(source)
    if is_decoder(found):
        if mean or std:
            raise RequestError(
                found_wanted(f"{found.path}", "a decoder", "a vision model", "leave out --mean and --std")
            )
        return import_decoder(found, out, progress=progress)
    nodes, parameters = len(found.model.graph.node), parameters_of(found.model)
    ids = next((i.name for i in found.inputs if i.dtype in ("int64", "int32")), None)
    vocab = None if ids is None else vocabulary_of(found.model, ids)
    model: dict[str, Any] = {"family": "network", "parameters": max(parameters, 1)}
    if vocab is not None:
        model |= {"family": "encoder", "vocab_size": vocab}
    sha256 = found.sha256()
    found, image = settle_picture(found, mean, std)
    if image:
        model |= {"family": "vision", "image": image}
    elif mean or std:
        raise RequestError(
            found_wanted(
                f"inputs of {found.path}",
                [i.name for i in found.inputs],
                "one image [N,3,H,W]",
                "leave out --mean and --std",
            )
        )
    checkpoint = {"kind": "onnx", "name": found.path.resolve().name, "sha256": sha256}
    with writer:
        data = write_network(found.model, found.folder, writer.path / "graphs")
        progress("writing", 1, 3)
        graph = writer.path / "graphs" / f"{NETWORK}.onnx"
        inputs = record(
            graph, found.inputs, min(vocab or ID_LIMIT, 1 << 20), writer.path / "vectors" / f"{NETWORK}.json"
        )
        progress("recording", 2, 3)
        ours, theirs = open_session(graph), open_session(found.path)
        worst = 0.0
        for number, feeds in enumerate(inputs):
            reference, own = run_session(theirs, feeds), run_session(ours, feeds)
            for name, array in reference.items():
                result = compare_values(number, name, own[name], _described(array), TOLERANCE)
                if not result.ok:
                    raise VerificationError(result.failure("this is a defect of farthing; report it with the file"))
                worst = max(worst, result.error)
        tokenizer = copy_tokenizer(found.folder, writer.path, vocab)
        manifest = network_manifest(
            name=found.path.stem if found.path.stem != "model" else found.path.resolve().parent.name,
            method="import",
            model=model,
            data=data,
            inputs=found.inputs,
            outputs=found.outputs,
            tokenizer=tokenizer,
            checkpoint=checkpoint,
        )
        path = writer.commit(manifest)
        progress("hashing", 3, 3)
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return ImportResult(path, parameters, size, nodes, round(time.perf_counter() - start, 3), worst)


def verify_against_onnx(
    bundle: Bundle, original: str | Path, *, tolerance: float | None = None, threads: int = 1
) -> OutputResult:
    """Run the ONNX file ``original`` beside the bundle on the recorded inputs: the output that differs most of what is allowed.

    Raises RequestError where ``original`` has other inputs or outputs, BundleError.
    """
    file = find_onnx(original)
    entry = bundle.manifest["graphs"][NETWORK]
    theirs, ours = open_session(file, threads), open_session(bundle.graph(NETWORK), threads)
    for side, session_side in (("inputs", theirs.get_inputs()), ("outputs", theirs.get_outputs())):
        have, want = sorted(t.name for t in session_side), sorted(t["name"] for t in entry[side])
        if have != want:
            raise RequestError(found_wanted(f"{side} of {file}", have, want, "give the file the bundle was made from"))
    quantized = "activations" in bundle.manifest["quantization"]
    results = []
    for number, case in enumerate(read_network_cases(bundle)):
        reference, own = run_session(theirs, case["feeds"]), run_session(ours, case["feeds"])
        allowed = float("inf") if quantized and tolerance is None else tolerance or TOLERANCE
        for name, array in reference.items():
            if array.shape != own[name].shape:
                raise RequestError(
                    found_wanted(
                        f"shape of {name} of {file}",
                        list(array.shape),
                        list(own[name].shape),
                        "give the file the bundle was made from",
                    )
                )
            results.append(compare_values(number, name, own[name], _described(array), allowed))
    return max(results, key=lambda r: (not r.ok, r.error / max(r.allowed, 1e-30), r.error))


def _described(array: np.ndarray) -> dict[str, Any]:
    """Every value of ``array``, as `compare_values` takes it."""
    flat = np.asarray(array, np.float64).reshape(-1)
    return {"places": np.arange(flat.size), "values": flat, "l2": float(np.linalg.norm(flat))}
