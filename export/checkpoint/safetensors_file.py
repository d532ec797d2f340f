"""Reading one safetensors file: a JSON header, then raw tensors, mapped and not copied.

Read here and not through the `safetensors` library because that has no bfloat16 for numpy, and because every defect should be
named with its tensor. Format: u64 header length, JSON {name: {dtype, shape, data_offsets}}, data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, found_wanted

DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""Stored dtypes we read; bfloat16 travels as its 16 bits."""

_HEADER_LIMIT = 100 << 20
"""Bytes; the limit of the format's own library."""


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int


class SafetensorsFile:
    """The tensors of one file. Opening reads and checks the header: types, bounds, overlaps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > _HEADER_LIMIT or 8 + length > size:
                raise self._bad("header", f"{length} bytes in a file of {size}", "a header inside the file")
            try:
                header = json.loads(stream.read(length), object_pairs_hook=self._no_duplicates)
            except (ValueError, RecursionError) as error:
                raise self._bad("header", f"not JSON ({error})", "a JSON object") from error
        if not isinstance(header, dict):
            raise self._bad("header", type(header).__name__, "a JSON object")
        notes = header.pop("__metadata__", None) or {}
        if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
            raise self._bad("metadata", "malformed", "an object of strings")
        self.metadata: dict[str, str] = notes
        """What the writer noted beside the tensors."""
        self._data_start = 8 + length
        self._entries = {name: self._entry(name, value, size - 8 - length) for name, value in header.items()}
        self._check_overlap(size - 8 - length)

    def names(self) -> list[str]:
        """Names of all tensors, in file order."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor ``name``."""
        return self._entries[name].shape

    def read(self, name: str) -> np.ndarray:
        """float32 or float16: a read-only view of the mapped file, or for bfloat16 a widened copy."""
        entry = self._entries[name]
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise self._bad(
                f"dtype of tensor {name}",
                entry.dtype,
                f"one of {', '.join(DTYPES)}",
                "convert the weights to float32 or bfloat16",
            )
        if not math.prod(entry.shape):
            raise self._bad(f"shape of tensor {name}", list(entry.shape), "no dimension of size 0")
        # `[...]` makes a plain array of the memmap, whose subclass would spread through every later result.
        view = np.memmap(self.path, dtype, "r", offset=self._data_start + entry.start, shape=entry.shape or (1,))
        array = np.asarray(view)
        if entry.dtype == "BF16":
            wide = array.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return array

    def _entry(self, name: str, value: Any, room: int) -> _Entry:
        try:
            dtype, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
            if not all(type(v) is int and v >= 0 for v in (*shape, start, end)) or not isinstance(dtype, str):
                raise TypeError("sizes are not whole numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise self._bad(f"entry of tensor {name}", f"malformed ({error})", "dtype, shape, data_offsets") from error
        if not start <= end <= room:
            raise self._bad(f"data of tensor {name}", f"bytes {start} to {end} of {room}", "bytes inside the file")
        if dtype in DTYPES and end - start != math.prod(shape) * DTYPES[dtype].itemsize:
            raise self._bad(f"data of tensor {name}", f"{end - start} bytes", f"the size of {dtype} {list(shape)}")
        return _Entry(dtype, shape, start)

    def _check_overlap(self, room: int) -> None:
        spans = sorted(
            (e.start, e.start + math.prod(e.shape) * DTYPES[e.dtype].itemsize, n)
            for n, e in self._entries.items()
            if e.dtype in DTYPES
        )
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start < end:
                raise self._bad(f"data of tensor {second}", f"overlapping that of {first}", "bytes of its own")

    def _no_duplicates(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    def _bad(
        self, what: str, found: object, wanted: object, fix: str = "the file is damaged or cut short; fetch it again"
    ) -> CheckpointError:
        return CheckpointError(found_wanted(f"{what} of {self.path}", found, wanted, fix))


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write float32 and float16 ``tensors`` and notes to ``path``: same content, same bytes, which the format's library does not promise.

    Beside ``path`` first and then renamed, so that an interrupt leaves the old file whole.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            stream.write(np.ascontiguousarray(array).data)
    fresh.replace(path)
