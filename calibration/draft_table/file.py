"""The file of a draft table, little-endian; runtime/core/speculation/table_file.cc maps it.

===================== ======================================================================================
bytes                 what
===================== ======================================================================================
8                     ``FARTHTRI``
2 x uint32            version, size of the vocabulary
64                    SHA-256 of the bundle's tokenizer.json, hex
2 x uint64            pairs, tokens that were counted
2 x uint32            least count, most successors of a pair (12)
uint64 [pairs]        keys: first token << 32 | second token, rising
100 each [pairs]      int32 ids [12], float32 probabilities [12] (falling, lower ids first among equals), int32 count
64                    SHA-256 of all of it, hex
===================== ======================================================================================
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import RequestError, found_wanted

MAGIC, VERSION, MOST = b"FARTHTRI", 1, 12
HEADER = struct.Struct("<8sII64sQQII")
RECORD = np.dtype([("ids", "<i4", (MOST,)), ("scores", "<f4", (MOST,)), ("count", "<i4")])
DIGEST = 64
_FIX = "build it with `farthing draft-table build`"


@dataclass(frozen=True)
class Table:
    """A draft table in memory: ``keys`` uint64 [pairs], ``successors`` RECORD [pairs]."""

    vocab_size: int
    tokenizer: str
    tokens: int
    min_count: int
    keys: np.ndarray
    successors: np.ndarray

    def find(self, a: int, b: int) -> list[tuple[int, float]]:
        """Successors of the tokens ``a, b`` with their probabilities, best first; empty where the pair is unknown."""
        key = np.uint64(a << 32 | b)
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return []
        found = self.successors[at]
        n = int(found["count"])
        return [(int(i), float(s)) for i, s in zip(found["ids"][:n], found["scores"][:n], strict=True)]


def write(table: Table, path: str | Path) -> int:
    """Write ``table`` to ``path``, in one move at the end; returns the bytes. Raises RequestError where that is impossible."""
    body = HEADER.pack(
        MAGIC,
        VERSION,
        table.vocab_size,
        table.tokenizer.encode(),
        len(table.keys),
        table.tokens,
        table.min_count,
        MOST,
    )
    body += table.keys.astype("<u8").tobytes() + table.successors.astype(RECORD).tobytes()
    body += hashlib.sha256(body).hexdigest().encode()
    target = Path(path)
    try:
        handle, staged = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            os.chmod(staged, 0o644)
            os.replace(staged, target)
        except BaseException:
            os.unlink(staged)
            raise
    except OSError as error:
        raise RequestError(
            found_wanted(str(target), f"not writable ({error})", "a new file", "check folder and space")
        ) from error
    return len(body)


def read(path: str | Path) -> Table:
    """Read and check a table. Raises RequestError for files that are unreadable, truncated, edited, malformed or of another version."""
    what = f"draft table {path}"

    def bad(part: str, found: object, wanted: object) -> RequestError:
        return RequestError(found_wanted(f"{part}{what}", found, wanted, _FIX))

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RequestError(
            found_wanted(what, f"unreadable ({error.strerror})", "a file that can be read", "check the path")
        ) from error
    if data[:8] != MAGIC:
        raise bad("", "some other file", f"one that begins with {MAGIC.decode()}")
    if len(data) < HEADER.size + DIGEST:
        raise bad("", f"{len(data)} bytes", "a whole file")
    _, version, vocab_size, tokenizer, pairs, tokens, min_count, most = HEADER.unpack_from(data)
    if version != VERSION:
        raise bad("version of ", version, VERSION)
    if len(data) != HEADER.size + pairs * (8 + RECORD.itemsize) + DIGEST:
        raise bad("", f"{len(data)} bytes for {pairs} pairs", f"{8 + RECORD.itemsize} bytes a pair")
    if hashlib.sha256(memoryview(data)[:-DIGEST]).hexdigest().encode() != data[-DIGEST:]:
        raise bad("", "changed or damaged: its SHA-256 differs", "as it was written")
    if most != MOST or not tokenizer.isalnum():
        raise bad("header of ", "malformed", f"{MOST} successors and a hash")
    keys = np.frombuffer(data, "<u8", pairs, HEADER.size)
    successors = np.frombuffer(data, RECORD, pairs, HEADER.size + 8 * pairs)
    if not _sound(keys, successors, vocab_size):
        raise bad("content of ", "malformed", "rising pairs of tokens with falling successors")
    return Table(vocab_size, tokenizer.decode(), tokens, min_count, keys, successors)


def _sound(keys: np.ndarray, successors: np.ndarray, vocab_size: int) -> bool:
    ids, scores, count = successors["ids"], successors["scores"], successors["count"]
    used = np.arange(MOST) < count[:, None]
    behind = used[:, 1:]
    falling = (scores[:, 1:] < scores[:, :-1]) | ((scores[:, 1:] == scores[:, :-1]) & (ids[:, 1:] > ids[:, :-1]))
    return bool(
        np.all(keys[1:] > keys[:-1])
        and np.all(keys >> np.uint64(32) < vocab_size)
        and np.all(keys & np.uint64(0xFFFFFFFF) < vocab_size)
        and np.all((count >= 1) & (count <= MOST))
        and np.all(((ids >= 0) & (ids < vocab_size))[used])
        and np.all(((scores > 0) & (scores <= 1))[used])
        and np.all(falling[behind])
    )
