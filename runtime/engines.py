"""Choosing an engine: the native core where it is built, else the portable one. Both have the face of `Engine`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import MissingDependencyError, found_wanted
from ..plugins import library_path
from .bundle import Bundle, open_bundle

_HOW = "`farthing doctor` says what is missing; or leave native out to run in portable mode"


class Engine(Protocol):
    """What a runtime stands on: one sequence over one bundle."""

    @property
    def capacity(self) -> int:
        """Cache slots."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""

    @property
    def length(self) -> int:
        """Filled cache slots."""

    @property
    def tokens(self) -> list[int]:
        """The ids in the cache."""

    def reset(self) -> None:
        """Forget the sequence."""

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""

    def prefill(self, ids: Sequence[int]) -> None:
        """Append ids; `logits` is that of the last."""

    def extend(self, ids: Sequence[int]) -> np.ndarray:
        """Append ids in one pass; float32 [len(ids), V], the logits of each."""

    def logits(self) -> np.ndarray:
        """Float32 [V] of the last row, a copy."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        options: dict[str, Any],
        on_token: Callable[[int], bool] | None = None,
        images: Sequence[tuple[np.ndarray, str]] = (),
    ) -> dict[str, Any]:
        """Prefill and decode. ``images``: (uint8 [H,W,3], level) for each image token of the prompt."""

    def cancel(self) -> None:
        """End a generation on another thread."""

    def save_state(self, path: str) -> None:
        """Write the sequence to a file."""

    def load_state(self, path: str) -> None:
        """Take the sequence from a file."""


@dataclass(frozen=True)
class NativeParts:
    """What of the native part is there. ``missing`` is None if all is, else a sentence."""

    core: Any
    ops_library: Path | None
    missing: str | None


def native_parts() -> NativeParts:
    """Look for the core module and the operator library in the installed package."""
    ops = library_path()
    try:
        core = importlib.import_module("._core", __package__)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError)
        return NativeParts(
            None, ops, "the native core is not built" if absent else f"the native core does not load ({error})"
        )
    return NativeParts(core, ops, None if ops else "the operator library is not built")


def onnxruntime_library() -> Path | None:
    """libonnxruntime: FARTHING_ORT, else the one inside the onnxruntime package (which is not imported), else None.

    None leaves the search to the system's loader.
    """
    if named := os.environ.get("FARTHING_ORT"):
        return Path(named)
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(p for root in spec.submodule_search_locations for p in Path(root, "capi").glob("libonnxruntime.so*"))
    return found[0] if found else None


def open_engine(
    path: Path,
    *,
    threads: int,
    context: int,
    native: bool | None,
    hashes: bool,
    tensorrt: bool = False,
    cuda_graphs: bool = False,
) -> tuple[Engine, Bundle]:
    """Open the bundle at ``path`` with an engine. ``native`` as in `farthing.load`. Raises BundleError, MissingDependencyError.

    Every file is hashed once: by the core if it runs, which checks the same things, else here.
    """
    if tensorrt:
        return _tensorrt(path, context, native, hashes, cuda_graphs), open_bundle(path, hashes=False)
    if native is not False:
        parts = native_parts()
        if parts.missing is None:
            bundle = open_bundle(path, hashes=False)
            try:
                return _native(parts, path, threads, context, hashes), bundle
            except MissingDependencyError as error:  # an ONNX Runtime that is too old for the core, for example
                if native:
                    raise
                warnings.warn(f"running in portable mode, slower: {error}", RuntimeWarning, stacklevel=3)
        elif native:
            raise MissingDependencyError(found_wanted("the native engine", f"missing ({parts.missing})", "built", _HOW))
    from .portable import PortableEngine

    bundle = open_bundle(path, hashes=hashes)
    return PortableEngine(bundle, threads, context), bundle


def _tensorrt(path: Path, context: int, native: bool | None, hashes: bool, cuda_graphs: bool) -> Engine:
    """The C++ core over compiled engines: no ONNX Runtime, and no other way of running them."""
    core = native_parts().core
    if native is False or core is None:
        found = "left out" if native is False else "missing"
        raise MissingDependencyError(found_wanted("the native core", found, "present for the backend tensorrt", _HOW))
    return core.Engine(  # type: ignore[no-any-return]
        str(path), context=context, hashes=hashes, tensorrt=True, cuda_graphs=cuda_graphs
    )


def _native(parts: NativeParts, path: Path, threads: int, context: int, hashes: bool) -> Engine:
    from .portable import CHUNK

    library = onnxruntime_library()
    return parts.core.Engine(  # type: ignore[no-any-return]
        str(path), threads, context, str(library or ""), str(parts.ops_library), hashes, CHUNK
    )
