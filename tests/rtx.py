"""Where TensorRT-RTX is, for the tests that build engines: FARTHING_RTX_PYTHON, build/rtx, or this Python."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

_MADE = Path(__file__).parent.parent / "build" / "rtx" / "bin" / "python"


def python() -> str | None:
    """A Python with tensorrt_rtx, or None."""
    if named := os.environ.get("FARTHING_RTX_PYTHON"):
        return named
    if _MADE.exists():
        return str(_MADE)
    return "" if importlib.util.find_spec("tensorrt_rtx") else None


needs_rtx = pytest.mark.skipif(
    python() is None,
    reason="TensorRT-RTX is not installed; `make rtx` puts it under build/rtx, or set FARTHING_RTX_PYTHON",
)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `farthing compile` find it."""
    if found := python():
        monkeypatch.setenv("FARTHING_RTX_PYTHON", found)


def write_plan(folder: Path, graph: str, profiles: list[dict[str, Any]], *, in_place: bool) -> Path:
    """A folder that `farthing.export.compile.process` builds ``graph``.onnx in; returns it."""
    from farthing.export.compile import build_engine

    plan = {
        "format": "farthing-plan",
        "format_version": build_engine.FORMAT_VERSION,
        "target": "tensorrt-rtx",
        "module": "tensorrt_rtx",
        "trt": None,
        "needs_device": False,
        "compute_capabilities": [89],
        "plugins": None,
        "capacity": 1,
        "key": {},
        "files": {},
        "graphs": [{"name": graph, "file": f"{graph}.onnx", "profiles": profiles, "in_place": in_place}],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    shutil.copyfile(build_engine.__file__, folder / "build_engine.py")
    return folder
