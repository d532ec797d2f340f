"""The loops of this package in C++ (`runtime/core/drawing`): the same codes, number for number, without Python between the passes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError
from ..engines import native_parts, onnxruntime_library
from .request import Request
from .result import Drawn, Speculation
from .speculate import Account


def core_module() -> Any | None:
    """The built core, if it can draw with kernels; None where something is missing, which the loops in Python do without."""
    parts = native_parts()
    return parts.core if parts.missing is None and hasattr(parts.core, "Drawer") else None


def native_loops(path: str | Path, threads: int, tokens: int) -> NativeLoops | None:
    """The loops in C++ where they are built and find an ONNX Runtime that is new enough, else None. Raises BundleError, RequestError."""
    core = core_module()
    if core is None:
        return None
    try:
        return NativeLoops(core, path, threads, tokens)
    except MissingDependencyError as error:
        warnings.warn(f"drawing by the loops in Python, slower: {error}", RuntimeWarning, stacklevel=3)
        return None


class NativeLoops:
    """The bundle at ``path``, whose files were checked, with ``tokens`` codes an image, in the module ``core``."""

    def __init__(self, core: Any, path: str | Path, threads: int, tokens: int) -> None:
        ops = native_parts().ops_library
        self._tokens = tokens
        self._core = core.Drawer(str(path), threads, str(onnxruntime_library() or ""), str(ops), hashes=False)

    @property
    def together(self) -> int:
        """Images that are drawn in one batch, at most."""
        return int(self._core.together)

    def draw(self, condition: np.ndarray, request: Request) -> Drawn:
        """A checked request. ``condition`` is classes int64 [B] or features of texts float32 [B,T,dc]."""
        guidance, warp = request.guidance, request.warp
        options: dict[str, Any] = {
            "seed": request.seeds[0],
            "guidance": guidance.scale,
            "interval": guidance.interval,
            "schedule": guidance.schedule,
            "temperature": warp.temperature,
            "top_k": warp.top_k,
            "top_p": warp.top_p,
            "decode": request.mode,
            "draft_length": min(request.length, self._tokens),
        }
        texts = np.ascontiguousarray(condition) if condition.ndim == 3 else None
        classes = [] if condition.ndim == 3 else condition.tolist()
        prefix = None if request.prefix is None else np.ascontiguousarray(request.prefix, np.int64)

        def heard(done: int, total: int) -> None:  # None goes on, whatever the caller's function returns
            request.progress(done, total)

        codes, made = self._core.draw(classes, options, heard, texts, prefix)
        before = self._core.pixel_seconds
        rgb = self.decode(codes)
        seconds = {
            "model": made["model_seconds"],
            "choosing": made["choosing_seconds"],
            "pixels": self._core.pixel_seconds - before,
        }
        loop = max(0.0, made["total_seconds"] - seconds["model"] - seconds["choosing"])
        seconds |= {"loop": loop, "total": made["total_seconds"] + seconds["pixels"]}
        speculation = None
        if request.length:
            account = Account(*(made[n] for n in ("judged", "accepted", "chance", "above", "below", "image_passes")))
            speculation = Speculation.of(account, request.mode)
        return Drawn(codes, rgb, made["passes"], request.mode, seconds, speculation)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [B,H,W,3] of codes int64 [B,g*g]. Raises RequestError."""
        pixels: np.ndarray = self._core.decode(np.ascontiguousarray(codes, np.int64))
        return pixels
