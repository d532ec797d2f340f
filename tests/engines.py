"""What the runtime tests share: a tiny bundle, made once per process, and the engines to run it with."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

import tiny
from farthing.export.checkpoint import open_checkpoint
from farthing.export.decoder import export_decoder
from farthing.models.decoder import Decoder
from farthing.runtime.api import Runtime, load
from farthing.runtime.engines import native_parts

PROMPT = [5, 77, 12, 140, 33, 9, 201, 64, 64, 250, 18]

_MISSING = native_parts().missing
ENGINES = [
    pytest.param(False, id="portable"),
    pytest.param(True, id="native", marks=pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))),
]
"""Values of load's ``native``; a native part that is not built is a skip with its reason."""


@functools.cache
def folder() -> Path:
    """A folder for this process; removed at its end."""
    folder.keep = tempfile.TemporaryDirectory(prefix="farthing-test-")  # type: ignore[attr-defined]
    return Path(folder.keep.name)  # type: ignore[attr-defined]


@functools.cache
def bundle(family: str = "llama", **changes: Any) -> Path:
    """A bundle of a tiny model. Do not change it: others use it too."""
    name = "-".join([family, *(f"{k}={v}" for k, v in changes.items())])
    checkpoint = tiny.write_hf(folder() / f"{name}.hf", family, **changes)
    return export_decoder(checkpoint, folder() / name, check=False).path


@functools.cache
def greedy(count: int, prompt: tuple[int, ...] = tuple(PROMPT)) -> list[int]:
    """Greedy ids of the PyTorch reference of `bundle()`."""
    bundle()
    return Decoder(open_checkpoint(folder() / "llama.hf")).greedy(list(prompt), count)


def opened(native: bool, **options: Any) -> Runtime:
    """`bundle()`, loaded with one thread."""
    return load(bundle(), native=native, **{"threads": 1, **options})
