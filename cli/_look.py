"""What `farthing doctor` looks at: one function per part of the machine, each returning findings."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OK, MISSING, OPTIONAL = "ok", "missing", "optional"


@dataclass(frozen=True)
class Finding:
    """One part. ``status``: ok, missing (needed for full speed or for a command that was asked for), optional (absent, and fine)."""

    part: str
    status: str
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


EXTRAS = {
    "export": (("torch", "onnx", "gguf", "matplotlib"), "farthing export, quantize and verify --against"),
    "rtx": (("tensorrt_rtx",), "building engines with TensorRT-RTX"),
    "quant": (("modelopt",), "NVIDIA's quantisation"),
}
"""Extra -> modules that it brings, and what they are for. Kept short on purpose: setup.py is the full list."""


def everything() -> list[Finding]:
    """All findings, in the order in which they matter."""
    return [*_python(), *_onnxruntime(), *_native(), *_tools(), *_extras(), *_tensorrt()]


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 10)
    yield Finding(
        "python",
        OK if good else MISSING,
        f"{platform.python_version()} on {platform.machine()}",
        "" if good else "Python 3.10 or later",
    )
    for name in ("numpy", "tokenizers", "jinja2", "jsonschema"):
        version = _version(name)
        yield Finding(
            name, OK if version else MISSING, version or "not installed", "" if version else f"pip install {name}"
        )


def _onnxruntime() -> Iterator[Finding]:
    from ..runtime.engines import onnxruntime_library

    version = _version("onnxruntime") or _version("onnxruntime-gpu")
    yield Finding(
        "onnxruntime",
        OK if version else MISSING,
        version or "not installed",
        "" if version else "pip install onnxruntime",
    )
    library = onnxruntime_library()
    found = str(library) if library and library.is_file() else ctypes.util.find_library("onnxruntime")
    fix = "" if found else "pip install onnxruntime, or set FARTHING_ORT to a libonnxruntime.so"
    if os.environ.get("FARTHING_ORT") and not (library and library.is_file()):
        found, fix = None, "FARTHING_ORT names no file: correct or unset it"
    yield Finding("libonnxruntime", OK if found else MISSING, found or "not found", fix)


def _native() -> Iterator[Finding]:
    from ..runtime.engines import native_parts

    parts = native_parts()
    build = "install compiler, cmake and headers (below), then: pip install --force-reinstall --no-deps farthing (or, in its source, make build)"
    yield Finding(
        "native core",
        OK if parts.core else MISSING,
        str(parts.core.__file__) if parts.core else str(parts.missing),
        "" if parts.core else build,
    )
    if parts.ops_library is None:
        yield Finding(
            "operator kernels", MISSING, "not built; graphs run by their standard-operator bodies, slower", build
        )
        return
    yield Finding("operator kernels", OK, f"{parts.ops_library}, instruction set {_isa(parts.ops_library)}")


def _isa(library: Path) -> str:
    """Which of its code paths the operator library chose for this processor."""
    try:
        function = ctypes.CDLL(str(library)).farthing_ops_isa
    except (OSError, AttributeError) as error:
        return f"unknown ({error})"
    function.restype = ctypes.c_char_p
    return (function() or b"unknown").decode("ascii", "replace")


def _tools() -> Iterator[Finding]:
    """What building the native part takes. Not needed to run what is built."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    yield _tool("C++20 compiler", compiler, "apt-get install g++")
    for name in ("cmake", "ninja"):
        beside = shutil.which(name, path=str(Path(sys.executable).parent))
        yield _tool(name, beside or shutil.which(name), f"pip install {name}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    yield Finding(
        "Python headers",
        OK if header.is_file() else OPTIONAL,
        str(header) if header.is_file() else "not found",
        "" if header.is_file() else "apt-get install python3-dev",
    )
    found = next((p for p in _header_places() if p.is_file()), None)
    yield Finding(
        "ONNX Runtime headers",
        OK if found else OPTIONAL,
        str(found) if found else "not found",
        "" if found else "set ONNXRUNTIME_ROOT, or apt-get install libonnxruntime-dev, or let the build fetch them",
    )


def _tool(part: str, path: str | None, fix: str) -> Finding:
    if path is None:
        return Finding(part, OPTIONAL, "not found", fix + " (only to build the native part)")
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    lines = told.splitlines()
    return Finding(part, OK, f"{path}: {lines[0].strip()}" if lines else path)


def _header_places() -> Iterator[Path]:
    name = "onnxruntime_c_api.h"
    roots = [Path(os.environ["ONNXRUNTIME_ROOT"])] if os.environ.get("ONNXRUNTIME_ROOT") else []
    roots += [Path("/usr"), Path("/usr/local")]
    for root in roots:
        for folder in ("include", "include/onnxruntime", "include/onnxruntime/core/session"):
            yield root / folder / name
    build = Path(__file__).parent.parent / "build"  # where the build keeps headers that it fetched
    if build.is_dir():
        yield from build.glob("**/onnxruntime_c_api.h")


def _extras() -> Iterator[Finding]:
    for extra, (modules, purpose) in EXTRAS.items():
        absent = [m for m in modules if importlib.util.find_spec(m) is None]
        present = ", ".join(f"{m} {_version(m) or ''}".strip() for m in modules)
        yield Finding(
            f"extra [{extra}]",
            OPTIONAL if absent else OK,
            f"without {', '.join(absent)}" if absent else present,
            f"pip install 'farthing[{extra}]', for {purpose}" if absent else "",
        )


def _tensorrt() -> Iterator[Finding]:
    named = {n: ctypes.util.find_library(n) for n in ("nvinfer", "tensorrt_rtx")}
    modules = [m for m in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(m) is not None]
    found = [str(path) for path in named.values() if path] + [f"{m} {_version(m) or ''}".strip() for m in modules]
    yield Finding("TensorRT", OK if found else OPTIONAL, ", ".join(found) or "none found (untested on GPU)")
    from ..runtime.engines import native_parts

    headers = getattr(native_parts().core, "tensorrt_headers", str)()
    yield Finding(
        "TensorRT backend",
        OK if headers else OPTIONAL,
        f"built with headers {headers} (untested on GPU)"
        if headers
        else "not in this build: no TensorRT or CUDA headers",
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
