"""The external data file of a graph, written as the tensors come.

Every tensor starts at a multiple of 4096 bytes, the page size, so that a reader can map any of them by itself: ONNX Runtime
maps the file instead of reading it, our kernels take the weights from the mapping, and the process holds them once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from ...errors import CheckpointError, found_wanted

ALIGNMENT = 4096
_CHUNK = 1 << 22
"""Values converted at a time: 16 MB beside the tensor itself."""

_F16_MAX = 65504.0


class ExternalData:
    """An append-only file of aligned tensors; created by the first one. A context manager: closes, never deletes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO | None = None
        self._at = 0

    def __enter__(self) -> ExternalData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def begin(self) -> int:
        """Pad to the next page; returns the offset at which the next tensor starts."""
        padding = -self._at % ALIGNMENT
        self._open().write(b"\0" * padding)
        self._at += padding
        return self._at

    def append(self, array: np.ndarray, dtype: np.dtype, name: str) -> int:
        """Write ``array`` converted to ``dtype``, C order, little-endian; returns the number of bytes."""
        size = 0
        for piece in convert(array, dtype, name):
            self._open().write(piece.data.cast("B"))
            size += piece.nbytes
        self._at += size
        return size

    def _open(self) -> BinaryIO:
        if self._stream is None:
            self._stream = self.path.open("wb")
        return self._stream


def convert(array: np.ndarray, dtype: np.dtype, name: str) -> Iterator[np.ndarray]:
    """Flat pieces of ``array`` as ``dtype`` (float32, float16, int64). Raises CheckpointError for values float16 cannot hold."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == dtype:
        yield flat
        return
    for first in range(0, flat.size, _CHUNK):
        piece = flat[first : first + _CHUNK]
        if dtype == np.float16:
            largest = float(max(-piece.min(), piece.max()))
            if largest > _F16_MAX:
                raise CheckpointError(
                    found_wanted(
                        f"largest value of tensor {name}", largest, f"at most {_F16_MAX:.0f}", "use --dtype float32"
                    )
                )
        yield piece.astype(dtype)
