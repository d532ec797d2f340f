"""How many codes are used, and how far their use is from uniform.

KL divergence from the stream's distribution to the uniform one over all V codes: log2 V - H_1 bits for single codes; 2 log2 V - H_2 for neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .stream import Stream


@dataclass(frozen=True)
class Usage:
    """``used`` of ``vocab`` codes occur, in ``images`` images of which ``distinct`` differ. ``perplexity`` 2^H_1: codes as many and equally likely.

    ``top``: share of the tokens that the most frequent tenth of the vocabulary has.
    """

    vocab: int
    used: int
    images: int
    distinct: int
    tokens: int
    perplexity: float
    top: float

    @property
    def unused_share(self) -> float:
        """Part of the codebook that does not occur."""
        return 1 - self.used / self.vocab


def usage(stream: Stream, entropy_bits: float) -> Usage:
    """Of ``stream``, whose unigram entropy is known."""
    counts = np.bincount(stream.codes.ravel(), minlength=stream.vocab)
    top = np.sort(counts)[::-1][: max(1, stream.vocab // 10)].sum()
    return Usage(
        vocab=stream.vocab,
        used=int((counts > 0).sum()),
        images=stream.images,
        distinct=len({image.tobytes() for image in stream.codes}),
        tokens=stream.tokens,
        perplexity=min(2**entropy_bits, float(stream.vocab)),  # the correction may overshoot
        top=float(top / stream.tokens),
    )


def kl_to_uniform(bits: float, vocab: int, n: int) -> float:
    """Bits from n-grams of entropy ``bits`` to the uniform distribution over vocab^n."""
    return max(0.0, n * math.log2(vocab) - bits)
