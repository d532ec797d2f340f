"""Reading a GGUF container: metadata and tensor table, every length checked against the file before it is believed.

The container is parsed here (the `gguf` library builds an array object per value: 3 s for SmolLM2's vocabulary, and a wrong
length sends it through the whole file); sizes of block formats and dequantisation are the library's.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, MissingDependencyError, found_wanted

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DAMAGED = "the file is damaged or cut short; fetch it again"
_CHUNK = 1 << 22
"""Values dequantised at a time: the library's temporaries stay near 50 MB however large the tensor is."""


def library() -> Any:
    """The `gguf` module. Raises MissingDependencyError."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                "package gguf", "not installed", "installed to read GGUF files", "pip install 'farthing[export]'"
            )
        ) from error
    return gguf


@dataclass(frozen=True)
class _Entry:
    type: Any
    """gguf.GGMLQuantizationType."""
    shape: tuple[int, ...]
    """Outermost first, as numpy has it (GGUF stores the reverse)."""
    start: int
    size: int


class GgufFile:
    """Metadata (``fields``: key -> int, float, bool, str or list) and tensors of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        self._buffer = self._map.data
        self._at = 0
        if bytes(self._buffer[:4]) != b"GGUF":
            raise self._bad("first bytes", bytes(self._buffer[:4]), "b'GGUF'", "this is no GGUF file, or a damaged one")
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise self._bad("GGUF version", version, "2 or 3 (little-endian)", "convert it with a current llama.cpp")
        tensors, pairs = self._scalar("Q"), self._scalar("Q")
        self.fields: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string()
            if key in self.fields:
                raise self._bad(f"key {key}", "there twice", "there once", _DAMAGED)
            self.fields[key] = self._value(self._scalar("I"))
        infos = [self._info() for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._bad("field 'general.alignment'", alignment, "a power of two", _DAMAGED)
        data = -(-self._at // alignment) * alignment
        self._entries: dict[str, _Entry] = {}
        for name, kind, shape, offset in infos:
            if name in self._entries:
                raise self._bad(f"tensor {name}", "there twice", "there once", _DAMAGED)
            self._entries[name] = self._entry(name, kind, shape, data + offset)

    def names(self) -> list[str]:
        """Names of all tensors, in file order."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor ``name``, [outputs, inputs] for a matrix."""
        return self._entries[name].shape

    def read(self, name: str) -> np.ndarray:
        """float32, or float16 for F16; F32 and F16 are read-only views of the mapped file, others are dequantised copies."""
        entry = self._entries[name]
        types = library().GGMLQuantizationType
        raw = self._map[entry.start : entry.start + entry.size]
        if entry.type in (types.F32, types.F16):
            dtype = np.dtype("<f4" if entry.type == types.F32 else "<f2")
            if entry.start % dtype.itemsize:
                raw = raw.copy()
            return np.asarray(raw.view(dtype)).reshape(entry.shape)
        block, size = library().GGML_QUANT_SIZES[entry.type]
        blocks = np.asarray(raw).reshape(-1, size)
        result = np.empty(blocks.shape[0] * block, np.float32)
        step = max(1, _CHUNK // block)
        for first in range(0, blocks.shape[0], step):
            piece = blocks[first : first + step].reshape(-1)
            try:
                with np.errstate(all="ignore"):  # a damaged scale is NaN or inf; Checkpoint.tensor names it
                    values = library().dequantize(piece, entry.type)
            except NotImplementedError as error:
                raise self._bad(
                    f"type of tensor {name}",
                    entry.type.name,
                    "one the gguf library can dequantise, e.g. F16, Q8_0, Q4_K",
                    "convert the file to one of them",
                ) from error
            result[first * block : first * block + values.size] = values
        return result.reshape(entry.shape)

    def _entry(self, name: str, kind: int, shape: tuple[int, ...], start: int) -> _Entry:
        gguf = library()
        try:
            type_ = gguf.GGMLQuantizationType(kind)
            block, size = gguf.GGML_QUANT_SIZES[type_]
        except (ValueError, KeyError) as error:
            raise self._bad(
                f"type of tensor {name}", kind, "a known quantisation type", "update the gguf package"
            ) from error
        if not shape or 0 in shape or shape[-1] % block:
            raise self._bad(f"shape of tensor {name}", list(shape), f"rows that are multiples of {block}", _DAMAGED)
        length = math.prod(shape) // block * size
        if start + length > len(self._buffer):
            raise self._bad(
                f"data of tensor {name}",
                f"bytes {start} to {start + length} of {len(self._buffer)}",
                "bytes inside the file",
                _DAMAGED,
            )
        return _Entry(type_, shape, start, length)

    def _info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        rank = self._scalar("I")
        if rank > 4:
            raise self._bad(f"rank of tensor {name}", rank, "at most 4", _DAMAGED)
        shape = tuple(self._scalar("Q") for _ in range(rank))[::-1]
        return name, self._scalar("I"), shape, self._scalar("Q")

    def _take(self, size: int) -> memoryview:
        if size > len(self._buffer) - self._at:
            raise self._bad(
                "header",
                f"asking for {size} bytes at {self._at} of {len(self._buffer)}",
                "lengths inside the file",
                _DAMAGED,
            )
        piece = self._buffer[self._at : self._at + size]
        self._at += size
        return piece

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        data = bytes(self._take(self._scalar("Q")))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._bad("header", f"a string that is not UTF-8 ({error})", "UTF-8", _DAMAGED) from error

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._bad("type of a metadata value", kind, "0 to 12", _DAMAGED)
        of, count = self._scalar("I"), self._scalar("Q")
        if of in _SCALARS:
            return list(struct.unpack(f"<{count}{_SCALARS[of]}", self._take(count * struct.calcsize(_SCALARS[of]))))
        if of != _STRING:
            raise self._bad("type of an array in the metadata", of, "numbers or strings", _DAMAGED)
        self._room(count * 8)
        return [self._string() for _ in range(count)]

    def _room(self, size: int) -> None:
        """Refuse a count that the rest of the file cannot hold, before looping over it."""
        at = self._at
        self._take(size)
        self._at = at

    def _bad(self, what: str, found: object, wanted: object, fix: str) -> CheckpointError:
        return CheckpointError(found_wanted(f"{what} of {self.path}", found, wanted, fix))
