"""How much smaller the codes become: 1 - compressed bits / (N ceil(log2 V)), N tokens stored with fixed-length codes.

Huffman: a canonical code over single codes, made from all of them; its table is not counted (``packed`` counts everything, being the file that
`pack_codes` makes). zlib: level 9 over ids as whole bytes (1, 2 or 4 each), row by row, image after image; LZ77 finds what repeats, which Huffman over
single codes cannot.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...runtime.code_storage import pack_codes
from ...runtime.huffman import code_lengths
from ..visual.intervals import Interval
from .grams import Grams
from .resample import Resampler
from .stream import Stream


@dataclass(frozen=True)
class Compression:
    """Savings by 1 - compressed / original. ``fixed_bits``: of a code as it is; ``huffman_bits``: of a code on average.

    ``entropy``: what no code for single codes can beat. ``packed_bytes`` of all images.
    """

    fixed_bits: int
    huffman_bits: float
    huffman: Interval
    entropy: float
    zlib: float
    packed: float
    packed_bytes: int


def fixed_bits(vocab: int) -> int:
    """Bits of an id below ``vocab``."""
    return max(1, math.ceil(math.log2(vocab)))


def compression(
    stream: Stream, codes: Grams, entropy_bits: float, resampler: Resampler, tick: Callable[[], None] | None = None
) -> Compression:
    """``codes``: the 1-grams of ``stream``, whose plug-in entropy is ``entropy_bits``."""
    bits = fixed_bits(stream.vocab)
    lengths = code_lengths(codes.counts()).astype(np.float64)

    def saved(weights: np.ndarray | None) -> np.ndarray:
        counts = codes.counts(weights)
        return np.array([1 - counts @ lengths / counts.sum() / bits])

    (huffman,) = resampler.intervals(saved, tick)
    original = stream.tokens * bits / 8
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    packed = len(pack_codes(stream.codes, stream.vocab))
    return Compression(
        fixed_bits=bits,
        huffman_bits=(1 - huffman.value) * bits,
        huffman=huffman,
        entropy=1 - entropy_bits / bits,
        zlib=1 - len(zlib.compress(stream.codes.astype(kind).tobytes(), 9)) / original,
        packed=1 - packed / original,
        packed_bytes=packed,
    )
