"""Where the native parts of the ladder are: what `make ladder` builds, or a folder that FARTHING_CUDA_BUILD names."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build_folder() -> Path:
    """CMake's folder of plugins/cuda."""
    return Path(os.environ.get("FARTHING_CUDA_BUILD") or ROOT / "build" / "cuda")


def ladder_folder() -> Path:
    """The environment with NVIDIA's packages, apart from the one that runs farthing."""
    return Path(os.environ.get("FARTHING_LADDER") or ROOT / "build" / "rtx")


def missing(path: Path) -> str | None:
    """Why ``path`` cannot be used; None when it is there."""
    return None if path.is_file() else f"{path.name} is not built (make ladder, from a source tree)"
