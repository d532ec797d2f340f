"""Target ``tensorrt-rtx``: engines built ahead of time, on any machine, for the compute capabilities named."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...errors import BundleError, MissingDependencyError, RequestError, found_wanted
from ...runtime.bundle import Bundle
from ...runtime.bundle.compiled import key_folder
from ...runtime.weight_formats import LEAST_SM, check_capability
from .plan import write_plan
from .process import build_in_subprocess
from .profiles import Ranges
from .result import CompileResult, engines_in

CAPABILITIES = (75, 80, 86, 89, 120, 121)
"""What TensorRT-RTX 1.7 compiles for; it refuses 87, 90 and 110: no Jetson."""

DEFAULT = (86, 89, 120)

GENERATION = "10.16"
"""TensorRT-RTX 1.7 reads opset 24, TensorScatter and the rest, as TensorRT 10.15 and later do."""


def compile_rtx(
    bundle: Bundle, root: Path, ranges: Ranges, sm: Sequence[int] = (), trt: str | None = None
) -> CompileResult:
    """Build one engine per graph into ``root``; one engine serves all of ``sm``. Bodies everywhere: RTX has no plugins.

    Raises RequestError (capability), BundleError (a graph that TensorRT-RTX refuses), MissingDependencyError.
    """
    weights = bundle.manifest["quantization"]["weights"]
    capabilities = sorted(set(sm)) or [n for n in DEFAULT if n >= LEAST_SM.get(weights, 0)]
    for number in capabilities:
        check_capability(weights, number, "--sm")
        if number not in CAPABILITIES:
            raise RequestError(
                found_wanted(
                    "--sm",
                    number,
                    f"some of {', '.join(map(str, CAPABILITIES))}",
                    "TensorRT-RTX has no Jetson; use --target tensorrt there"
                    if number in (72, 87, 101, 110)
                    else "correct it",
                )
            )
    python = rtx_python()
    root.mkdir(parents=True, exist_ok=True)
    # On the bundle's own file system, so that weights are linked and not copied.
    with tempfile.TemporaryDirectory(prefix=".plan.", dir=root) as folder:
        plan = write_plan(
            bundle,
            Path(folder),
            target="tensorrt-rtx",
            trt=trt or GENERATION,
            ranges=ranges,
            capabilities=capabilities,
            share=True,
        )
        out = root / key_folder({**plan["key"], "sm": capabilities, "rtx": rtx_version(python)})
        if out.exists():
            try:
                return engines_in(out, cached=True)
            except BundleError:
                shutil.rmtree(out)
        build_in_subprocess(python, Path(folder), out)
    return engines_in(out, cached=False)


def rtx_python() -> str:
    """A Python that has tensorrt_rtx: FARTHING_RTX_PYTHON, else this one. Raises MissingDependencyError."""
    if named := os.environ.get("FARTHING_RTX_PYTHON"):
        if not os.access(named, os.X_OK):
            raise MissingDependencyError(
                found_wanted("FARTHING_RTX_PYTHON", repr(named), "a Python with tensorrt_rtx", "correct or unset it")
            )
        return named
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingDependencyError(
            found_wanted(
                "package tensorrt_rtx",
                "not installed",
                "installed here, or in the Python that FARTHING_RTX_PYTHON names",
                "pip install 'farthing[rtx]'",
            )
        )
    return sys.executable


def rtx_version(python: str) -> str:
    """Version of tensorrt_rtx in ``python``, from the installed package's metadata."""
    code = "import importlib.metadata as m; print(m.version('tensorrt-rtx-cu13'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
