"""Image codes in few bytes: canonical Huffman over a histogram, without loss. To send codes, or to keep them on a device.

Little-endian:

================== =====================================================================================
bytes              what
================== =====================================================================================
8                  ``FARTHCOD``
7 x uint32         version, vocabulary V, images N, height H, width W, images of a block, bytes of the table
uint64             bytes of the bits
table              lengths of the codewords uint8 [V], deflated
uint32 [blocks]    bits of each block of images; blocks follow each other without a gap
bits               codes of the images, row by row, highest bit of a byte first
32                 SHA-256 of all of it
================== =====================================================================================
"""

from __future__ import annotations

import hashlib
import struct
import zlib

import numpy as np

from ..errors import RequestError, found_wanted
from .huffman import MOST_SYMBOLS, Canonical, code_lengths

MAGIC, VERSION = b"FARTHCOD", 1
HEADER = struct.Struct("<8s7IQ")
DIGEST = 32
BLOCKS = 1024
"""Blocks are decoded side by side, and cost 4 bytes each: enough for numpy to be busy, next to nothing in the file."""
_FIX = "pack the codes again"


def pack_codes(codes: np.ndarray, vocab: int, counts: np.ndarray | None = None) -> bytes:
    """A file's bytes of ``codes`` int [N,H,W], 0 to ``vocab`` - 1. `unpack_codes` gives them back.

    ``counts`` int [vocab]: the histogram that decides the codewords, such as a report's, so that small packs share one code; it must count every
    code that occurs. None: that of ``codes``. Raises RequestError.
    """
    codes = np.asarray(codes)
    if codes.ndim != 3 or codes.dtype.kind not in "iu" or not codes.size:
        found = f"{codes.dtype} {list(codes.shape)}"
        raise RequestError(found_wanted("codes to pack", found, "integers [N,H,W], at least one", "reshape them"))
    if not 1 <= vocab <= MOST_SYMBOLS:
        raise RequestError(found_wanted("vocabulary", vocab, f"1 to {MOST_SYMBOLS}", "correct it"))
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= vocab:
        found = f"{low} to {high}"
        raise RequestError(found_wanted("codes to pack", found, f"0 to {vocab - 1}", "check the vocabulary"))
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    lengths = code_lengths(_histogram(flat, vocab, counts))
    payload, sizes = Canonical(lengths).encode(flat.ravel())
    block = -(-len(flat) // BLOCKS)
    bits = np.add.reduceat(sizes.reshape(flat.shape).sum(1), np.arange(0, len(flat), block))
    if bits.max() >= 1 << 32 or max(codes.shape) >= 1 << 32:
        found = f"{list(codes.shape)}"
        raise RequestError(found_wanted("codes to pack", found, "blocks below 2^32 bits", "pack them in parts"))
    table = zlib.compress(lengths.tobytes(), 9)
    body = HEADER.pack(MAGIC, VERSION, vocab, *codes.shape, block, len(table), len(payload))
    body += table + bits.astype("<u4").tobytes() + payload
    return body + hashlib.sha256(body).digest()


def _histogram(flat: np.ndarray, vocab: int, counts: np.ndarray | None) -> np.ndarray:
    own = np.bincount(flat.ravel(), minlength=vocab)
    if counts is None:
        return own
    counts = np.asarray(counts)
    if counts.shape != (vocab,) or counts.dtype.kind not in "iu" or counts.min() < 0 or counts.max() >= 1 << 48:
        found = f"{counts.dtype} {list(counts.shape)}"
        wanted = f"integers [{vocab}] from 0 to 2^48"
        raise RequestError(found_wanted("histogram", found, wanted, "take that of a report"))
    missing = np.flatnonzero((own > 0) & (counts == 0))
    if len(missing):
        raise RequestError(
            found_wanted(
                f"histogram of code {missing[0]}", 0, "above 0, since the code occurs", "add one to every count"
            )
        )
    return counts.astype(np.int64)


def unpack_codes(data: bytes) -> tuple[np.ndarray, int]:
    """Codes int64 [N,H,W] and their vocabulary, of the bytes that `pack_codes` made.

    Every claim of the file is checked before memory is taken for it. Raises RequestError for anything that is not whole.
    """
    if len(data) < HEADER.size + DIGEST or data[: len(MAGIC)] != MAGIC:
        raise _bad("no packed codes", "a file that begins with FARTHCOD")
    _, version, vocab, images, height, width, block, table_bytes, payload_bytes = HEADER.unpack_from(data)
    if version != VERSION:
        raise _bad(f"of version {version}", f"version {VERSION}", "update farthing")
    if hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
        raise _bad("damaged (SHA-256)", "as it was written")
    if not 1 <= vocab <= MOST_SYMBOLS or min(images, height, width, block) < 1:
        raise _bad("of impossible sizes", "at least one code")
    blocks = -(-images // block)
    if len(data) != HEADER.size + table_bytes + 4 * blocks + payload_bytes + DIGEST:
        raise _bad(f"{len(data)} bytes long", "as long as its header says")
    # Every code takes a bit at least, so that a short file cannot ask for much memory.
    if images * height * width > 8 * payload_bytes:
        raise _bad(f"{images} x {height} x {width} codes in {payload_bytes} bytes", "a bit for each code at least")
    at = HEADER.size
    code = _code(data[at : at + table_bytes], vocab)
    at += table_bytes
    bits = np.frombuffer(data, "<u4", blocks, at).astype(np.int64)
    payload = data[at + 4 * blocks : -DIGEST]
    if -(-int(bits.sum()) // 8) != payload_bytes:
        raise _bad(f"{bits.sum()} bits in {payload_bytes} bytes", "as many as its blocks have")
    return _decode(code, payload, bits, images, height, width, block), vocab


def _code(table: bytes, vocab: int) -> Canonical:
    inflate = zlib.decompressobj()
    try:
        lengths = inflate.decompress(table, vocab + 1)
        if len(lengths) != vocab or not inflate.eof or inflate.unused_data:
            raise ValueError(f"{vocab} lengths")
        return Canonical(np.frombuffer(lengths, np.uint8))
    except (zlib.error, ValueError) as error:
        raise _bad("with a damaged table of codewords", str(error)) from error


def _decode(
    code: Canonical, payload: bytes, bits: np.ndarray, images: int, height: int, width: int, block: int
) -> np.ndarray:
    ends = np.cumsum(bits)
    size = height * width
    whole = images // block  # blocks that are full; the last may be shorter
    try:
        codes, stops = code.decode(payload, (ends - bits)[:whole], block * size)
        rest, stop = code.decode(payload, (ends - bits)[whole:], (images - whole * block) * size)
    except ValueError as error:
        raise _bad("damaged", str(error)) from error
    if not np.array_equal(np.concatenate([stops, stop]), ends):
        raise _bad("damaged", "blocks that end where the next begins")
    return np.concatenate([codes.ravel(), rest.ravel()]).reshape(images, height, width)


def _bad(found: str, wanted: str, fix: str = _FIX) -> RequestError:
    return RequestError(found_wanted("packed codes", found, wanted, fix))
