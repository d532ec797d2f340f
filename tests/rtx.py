"""Where TensorRT-RTX is, for the tests that build engines: FARTHING_RTX_PYTHON, build/rtx, or this Python."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

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
