"""The file a sequence is saved to; `runtime/core/state_file.cc` reads and writes the same.

Little-endian: header; int32 tokens [length]; per layer float32 keys [Hkv,length,dh], then values; SHA-256 of all of it as 64
hex characters.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from .bundle import Bundle
from .tensors import DECODER

_HEADER = struct.Struct("<8sq64sqqqq")  # magic, version, graph identity, layers, kv_heads, head_dim, length
_MAGIC = b"FARTHSEQ"
_VERSION = 1
_DIGEST = 64
_PIECE = 1 << 20


def graph_identity(bundle: Bundle) -> str:
    """Hex SHA-256 over the digests of graph and external data: which model a saved state belongs to."""
    graph = bundle.manifest["graphs"][DECODER]
    digests = (bundle.manifest["files"][f]["sha256"] for f in [graph["file"], *graph["data"]])
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def save_state(path: Path, bundle: Bundle, tokens: list[int], caches: list[np.ndarray]) -> None:
    """Write ``tokens`` and the first len(tokens) slots of ``caches`` (keys, values of layer 0, 1, ...; float32 [Hkv,C,dh]).

    Written beside ``path`` and renamed, so an older file survives a full disk. Raises RequestError.
    """
    kv, n = bundle.manifest["kv"], len(tokens)
    staged = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        with staged.open("wb") as stream:
            digest = hashlib.sha256()
            header = _HEADER.pack(
                _MAGIC, _VERSION, graph_identity(bundle).encode(), kv["layers"], kv["kv_heads"], kv["head_dim"], n
            )
            for part in (header, np.asarray(tokens, "<i4").tobytes()):
                digest.update(part)
                stream.write(part)
            for cache in caches:
                part = np.ascontiguousarray(cache[:, :n], "<f4").tobytes()
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
    """(tokens, caches float32 [Hkv,length,dh]) of a saved file, after all checks.

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
    kv = bundle.manifest["kv"]
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _damaged(path, "truncated", "a whole state file")
    magic, version, graph, layers, heads, dim, length = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise BundleError(found_wanted(f"{path}", "no saved state", "a file written by save_state", "check the path"))
    if version != _VERSION:
        raise _damaged(f"version of {path}", version, _VERSION)
    wanted = graph_identity(bundle)
    if graph != wanted.encode() or [layers, heads, dim] != [kv["layers"], kv["kv_heads"], kv["head_dim"]]:
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
    cache_bytes = heads * length * dim * 4
    body = _HEADER.size + 4 * length + 2 * layers * cache_bytes
    size = path.stat().st_size
    if size != body + _DIGEST:
        raise _damaged(f"size of {path}", f"{size} bytes", f"{body + _DIGEST} bytes")
    _check_digest(path, stream, body)
    stream.seek(_HEADER.size)
    tokens = np.frombuffer(stream.read(4 * length), "<i4").tolist()
    if any(not 0 <= token < vocab_size for token in tokens):
        raise _damaged(f"tokens of {path}", "out of range", f"ids below {vocab_size}")
    shape = (heads, length, dim)
    caches = [np.frombuffer(stream.read(cache_bytes), "<f4").reshape(shape) for _ in range(2 * layers)]
    return tokens, caches


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
