"""Target ``cpu``: the graph as ONNX Runtime's optimiser leaves it, kept where opening it is cheaper than optimising again.

Measured on SmolLM2-135M, one thread: int4 weights open in 0.17 to 0.23 CPU seconds instead of 0.44 to 0.56 and hold 145 MB instead
of 161, since the fusion into MatMulNBits and its repacking of weights are done; float32 gains nothing (0.2 to 0.8 against 0.24),
since our kernels pack those weights at opening either way. So both are measured, and what does not help is not kept.
ONNX Runtime can also store its pre-packed weights; that made int4 files 1.7 times larger for 0.05 s, and is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ...errors import BundleError, found_wanted
from ...plugins import library_path
from ...runtime.bundle import Bundle
from ...runtime.bundle.compiled import FORMAT, FORMAT_VERSION, identity, key_folder, open_compiled
from ...runtime.bundle.read import sha256_of
from .result import CompileResult

ACCURACY_LEVEL = "4"
"""session.qdq_matmulnbits_accuracy_level of the runtime (ort_backend.cc): the fusion is made for one."""

WORTH = 0.9
"""An optimised graph is kept when opening it takes less than this share of the CPU seconds."""

_EXTERNAL_FROM = "4096"
"""Bytes from which weights go to the data file, as in our own graphs."""


def compile_cpu(bundle: Bundle, root: Path) -> CompileResult:
    """Write the optimised graphs of ``bundle`` below ``root``, or find them there.

    Kept only if they open faster; ``notes`` has the CPU seconds of both, at one thread. Raises BundleError.
    """
    import onnxruntime

    library = library_path()
    key = {
        "bundle": identity(bundle),
        "onnxruntime": onnxruntime.__version__,
        "kernels": sha256_of(library) if library else "",
        "machine": os.uname().machine,
    }
    out = root / key_folder(key)
    if out.exists():
        try:
            return _result(out, open_compiled(out).index, cached=True)
        except BundleError:
            shutil.rmtree(out)
    root.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=root))
    try:
        index = _write(bundle, staged, library, key)
        notes = index["notes"]
        if notes["optimised_cpu_seconds"] > WORTH * notes["source_cpu_seconds"]:
            return CompileResult(path=root, target="cpu", graphs={}, notes={**notes, "kept": False})
        (staged / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        staged.chmod(0o755)
        os.replace(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return _result(out, index, cached=False)


def _write(bundle: Bundle, folder: Path, library: Path | None, key: dict[str, Any]) -> dict[str, Any]:
    graphs: dict[str, Any] = {}
    source = optimised = 0.0
    # Of a bundle with images only the decoder is opened by every program; graphs of levels would each get a copy of its weights.
    for name in [bundle.step_graph] if "vision" in bundle.manifest else bundle.manifest["graphs"]:
        begin = time.perf_counter()
        path = folder / f"{name}.onnx"
        _optimise(bundle.graph(name), path, library)
        graphs[name] = {"file": path.name, "seconds": round(time.perf_counter() - begin, 3), "profiles": []}
        source += open_seconds(bundle.graph(name), library, optimised=False)
        optimised += open_seconds(path, library, optimised=True)
    files = {p.name: {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": "cpu",
        "key": key,
        "capacity": 0,
        "graphs": graphs,
        "files": files,
        "warnings": [],
        "notes": {"source_cpu_seconds": round(source, 4), "optimised_cpu_seconds": round(optimised, 4)},
    }


def _options(library: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", ACCURACY_LEVEL)
    if library:
        options.register_custom_ops_library(str(library))
    return options


def _optimise(source: Path, target: Path, library: Path | None) -> None:
    import onnxruntime

    options = _options(library)
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", target.name + ".data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _EXTERNAL_FROM)
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes have no common base
        raise BundleError(
            found_wanted(f"{source}", f"refused by ONNX Runtime ({error})", "a graph it can run", "update onnxruntime")
        ) from error


def open_seconds(graph: Path, library: Path | None, *, optimised: bool, rounds: int = 3) -> float:
    """CPU seconds to make a session of ``graph``, the least of ``rounds``, each in a process of its own."""
    found = []
    for _ in range(rounds):
        command = [
            sys.executable,
            str(Path(__file__).with_name("open_session.py")),
            str(graph),
            str(library or ""),
            str(int(optimised)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BundleError(
                found_wanted(
                    f"opening {graph}", f"failed ({done.stderr.strip()[-400:]})", "a session", "update onnxruntime"
                )
            )
        found.append(float(done.stdout.split()[-1]))
    return min(found)


def _result(out: Path, index: dict[str, Any], *, cached: bool) -> CompileResult:
    graphs = {
        name: {
            "file": g["file"],
            "bytes": sum(e["bytes"] for f, e in index["files"].items() if f.startswith(g["file"])),
            "seconds": g["seconds"],
        }
        for name, g in index["graphs"].items()
    }
    return CompileResult(path=out, target="cpu", graphs=graphs, cached=cached, notes={**index["notes"], "kept": True})
