"""The file a sequence is saved to; `runtime/core/state_file.cc` reads and writes the same.

Little-endian: header; int32 tokens [length]; per layer keys [Hkv,length,dh] as the bundle caches them (float32, or int8
codes), then values, or the float32 rows [k-1,D] of a recurrent state; SHA-256 of all of it as 64 hex characters. Version 2, for sequences with images, is the native core's alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from .bundle import Bundle
from .cache_dtype import cache_dtype

_HEADER = struct.Struct("<8sq64sqqqq")
"""Magic, version, graph identity, layers, kv_heads and head_dim (of a state: rows and width), length."""

_MAGIC = b"FARTHSEQ"
_VERSION = 1
_WITH_IMAGES = 2
_DIGEST = 64
_PIECE = 1 << 20


def graph_identity(bundle: Bundle) -> str:
    """Hex SHA-256 over the digests of graph and external data: which model a saved state belongs to."""
    graph = bundle.manifest["graphs"][bundle.step_graph]
    digests = (bundle.manifest["files"][f]["sha256"] for f in [graph["file"], *graph["data"]])
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _geometry(bundle: Bundle) -> list[int]:
    if state := bundle.manifest.get("state"):
        return [state["layers"], state["rows"], state["width"]]
    kv = bundle.manifest["kv"]
    return [kv["layers"], kv["kv_heads"], kv["head_dim"]]


def _part_shapes(bundle: Bundle, length: int) -> list[tuple[int, ...]]:
    layers, first, second = _geometry(bundle)
    return [(first, second)] * layers if "state" in bundle.manifest else [(first, length, second)] * (2 * layers)


def _dtype(bundle: Bundle) -> np.dtype:
    """Of the parts, little-endian."""
    own = np.dtype("float32") if "state" in bundle.manifest else cache_dtype(bundle.manifest["kv"])
    return own.newbyteorder("<")


def save_state(path: Path, bundle: Bundle, tokens: list[int], parts: list[np.ndarray]) -> None:
    """Write ``tokens`` and ``parts`` (keys, values of layer 0, 1, ... [Hkv,length,dh] as they are cached, or float32 states [rows,width]).

    Written beside ``path`` and renamed, so an older file survives a full disk. Raises RequestError.
    """
    n = len(tokens)
    staged = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        with staged.open("wb") as stream:
            digest = hashlib.sha256()
            header = _HEADER.pack(_MAGIC, _VERSION, graph_identity(bundle).encode(), *_geometry(bundle), n)
            for part in (header, np.asarray(tokens, "<i4").tobytes()):
                digest.update(part)
                stream.write(part)
            for array in parts:
                part = np.ascontiguousarray(array, _dtype(bundle)).tobytes()
                digest.update(part)
                stream.write(part)
            stream.write(digest.hexdigest().encode())
        staged.replace(path)
    except OSError as error:
        raise RequestError(
            found_wanted(f"{path}", f"not writable ({error.strerror})", "a place for the state", "choose another path")
        ) from error
    finally:
        staged.unlink(missing_ok=True)


def load_state(path: Path, bundle: Bundle, capacity: int, vocab_size: int) -> tuple[list[int], list[np.ndarray]]:
    """(tokens, parts as `save_state` takes them) of a saved file, after all checks.

    Raises RequestError (no such file, longer than ``capacity``) and BundleError (another model, truncated, edited).
    """
    try:
        with path.open("rb") as stream:
            return _load(path, stream, bundle, capacity, vocab_size)
    except OSError as error:
        raise RequestError(
            found_wanted(f"{path}", f"not readable ({error.strerror})", "a saved state", "check the path")
        ) from error


def _load(
    path: Path, stream: BinaryIO, bundle: Bundle, capacity: int, vocab_size: int
) -> tuple[list[int], list[np.ndarray]]:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _damaged(path, "truncated", "a whole state file")
    magic, version, graph, layers, heads, dim, length = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise BundleError(found_wanted(f"{path}", "no saved state", "a file written by save_state", "check the path"))
    if version == _WITH_IMAGES:
        raise RequestError(
            found_wanted(
                f"{path}", "a sequence with images", "text only in portable mode", "load it with the native core"
            )
        )
    if version != _VERSION:
        raise _damaged(f"version of {path}", version, _VERSION)
    wanted = graph_identity(bundle)
    if graph != wanted.encode() or [layers, heads, dim] != _geometry(bundle):
        raise BundleError(
            found_wanted(
                f"model of {path}",
                graph[:12].decode("ascii", "replace") + "...",
                wanted[:12] + "...",
                "load it into the bundle it was saved from",
            )
        )
    if not 0 <= length <= capacity:
        raise RequestError(
            found_wanted(f"length of {path}", length, f"0 to {capacity}", "open the bundle with a longer context")
        )
    shapes, dtype = _part_shapes(bundle, length), _dtype(bundle)
    body = _HEADER.size + 4 * length + sum(dtype.itemsize * math.prod(shape) for shape in shapes)
    size = path.stat().st_size
    if size != body + _DIGEST:
        raise _damaged(f"size of {path}", f"{size} bytes", f"{body + _DIGEST} bytes")
    _check_digest(path, stream, body)
    stream.seek(_HEADER.size)
    tokens = np.frombuffer(stream.read(4 * length), "<i4").tolist()
    if any(not 0 <= token < vocab_size for token in tokens):
        raise _damaged(f"tokens of {path}", "out of range", f"ids below {vocab_size}")
    sizes = (dtype.itemsize * math.prod(shape) for shape in shapes)
    return tokens, [
        np.frombuffer(stream.read(size), dtype).reshape(shape) for size, shape in zip(sizes, shapes, strict=True)
    ]


def _check_digest(path: Path, stream: BinaryIO, body: int) -> None:
    stream.seek(0)
    digest = hashlib.sha256()
    while body > 0:
        piece = stream.read(min(body, _PIECE))
        if not piece:
            raise _damaged(path, "truncated", "a whole state file")
        digest.update(piece)
        body -= len(piece)
    stored = stream.read(_DIGEST).decode("ascii", "replace")
    if digest.hexdigest() != stored:
        raise _damaged(f"sha256 of {path}", digest.hexdigest(), stored)


def _damaged(what: object, found: object, wanted: object) -> BundleError:
    return BundleError(found_wanted(str(what), found, wanted, "save the state again"))
