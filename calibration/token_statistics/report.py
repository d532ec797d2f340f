"""All figures of a stream, the same of a text beside it, and whether the sample carries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .compression import Compression, compression
from .entropy import Entropy, entropies, plug_in
from .grams import row_grams
from .hits import CONTEXTS, FOLDS, Hits, hits
from .innovation import LAST, ORDERS, ORDERS_OF_LONGER, Innovation, innovations
from .neighbours import Neighbours, neighbours
from .rank_frequency import RankFit, rank_fits
from .resample import Resampler
from .stream import Stream
from .usage import Usage, kl_to_uniform, usage

Progress = Callable[[str, int, int], None]
LONGEST = 4
MOST_NEWS = 0.01
"""Growth of the used vocabulary, and change of the entropy, over the last fifth of the images from which a sample is too small."""
TOKENS_PER_CODE = 50
"""Tokens for each code of the codebook below which entropies lean on their correction."""
SEEN = 0.5
"""Share of n-grams to come that were seen already, below which entropies of their order tell of the sample and not of the tokenizer."""

DEFINITIONS = {
    "entropy": "bits; plug-in + (K - 1) / (2 N ln 2) (Miller-Madow); conditional h_n = H_n - H_(n-1) over the same n-grams",
    "coverage": "1 - n-grams seen once / n-grams (Good-Turing): share of n-grams to come that were seen already",
    "kl_to_uniform": "bits; n log2 V - H_n",
    "compression": "1 - compressed bits / (tokens * ceil(log2 V))",
    "mutual_information": "bits; H(A) + H(B) - H(A,B), less the same for random pairs; share: over the entropy of a code",
    "hits": "share of codes on held-out images that are among the k likeliest by counts of the other images; an unseen context falls back to a shorter one",
    "rank_frequency": "discrete maximum likelihood over ranks; gain: nats per token over Zipf's law; ks: largest difference of cumulative shares",
    "innovation": "U(t) = K t^beta by the likelihood of first sightings; new_share = U(T) / T; over random orders of the images",
    "intervals": "95 %; bootstrap over whole images, for innovation quantiles over orders",
    "n-grams": "along rows; none crosses the end of a row or image",
}


@dataclass(frozen=True)
class Analysis:
    """Every figure of one stream; see the modules of the fields' types. ``kl_uniform``: "1", "2" -> bits; ``histogram``: tokens by code [V]."""

    name: str
    vocab: int
    grid: tuple[int, int]
    images: int
    tokens: int
    sha256: str
    usage: Usage
    entropy: list[Entropy]
    kl_uniform: dict[str, float]
    compression: Compression
    neighbours: list[Neighbours]
    hits: list[Hits]
    innovation: list[Innovation]
    rank_frequency: list[RankFit]
    entropy_change: float
    warnings: list[str]
    histogram: list[int] = field(repr=False)
    curves: list[list[tuple[int, int]]] = field(repr=False)
    """Of each order: (rank, count) at some ranks, for plots."""

    @property
    def settled(self) -> bool:
        """Whether the entropy has come to rest: then the figures that advice rests on have, too."""
        return self.entropy_change < MOST_NEWS

    @property
    def enough(self) -> bool:
        """Whether the used vocabulary has come to rest as well."""
        return self.settled and self.innovation[0].last_growth < MOST_NEWS

    @property
    def normalised_entropy(self) -> float:
        """H_1 / log2 V."""
        return self.entropy[0].block.value / float(np.log2(self.vocab))

    def neighbour(self, direction: str) -> Neighbours | None:
        """Mutual information in ``direction``; None where the grid has no such neighbours."""
        return next((n for n in self.neighbours if n.direction == direction), None)

    def best_hits(self) -> Hits:
        """The context with the most first guesses right."""
        return max(self.hits, key=lambda h: h.top[1].value)

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data, and what the codes of contexts mean."""
        told = asdict(self)
        told["normalised_entropy"] = self.normalised_entropy
        told["sample_is_enough"], told["settled"] = self.enough, self.settled
        told["contexts"], told["definitions"] = CONTEXTS, DEFINITIONS
        return told


def analyze_tokens(
    stream: Stream, name: str = "images", *, resamples: int = 200, seed: int = 0, progress: Progress | None = None
) -> Analysis:
    """Measure ``stream``. ``resamples`` draws of the images make the intervals; the same seed makes the same report.

    >>> from farthing.calibration.token_statistics import analyze_tokens, stream_of
    >>> codes = np.random.default_rng(0).integers(0, 16, (200, 4, 4))
    >>> report = analyze_tokens(stream_of(codes, 16), resamples=20)
    >>> round(report.normalised_entropy, 2)
    1.0
    """
    grams = row_grams(stream, LONGEST)
    orders = len(grams)
    stages = 2 * orders + 1 + 3  # bootstraps: entropy and ranks by order, Huffman, at most three directions
    total = stages * resamples + ORDERS + (orders - 1) * ORDERS_OF_LONGER + 6 * FOLDS
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(f"measuring {name}", min(done, total), total)

    resampler = Resampler(stream, resamples, seed)
    measured = entropies(grams, resampler, tick)
    single = measured[0]
    change = _entropy_change(stream, seed)
    news = innovations(stream, grams, seed, tick)
    found = Analysis(
        name=name,
        vocab=stream.vocab,
        grid=(int(stream.codes.shape[1]), int(stream.codes.shape[2])),
        images=stream.images,
        tokens=stream.tokens,
        sha256=stream.sha256,
        usage=usage(stream, single.block.value),
        entropy=measured,
        kl_uniform={str(e.n): kl_to_uniform(e.block.value, stream.vocab, e.n) for e in measured[:2]},
        compression=compression(stream, grams[0], single.plug_in, resampler, tick),
        neighbours=neighbours(stream, resampler, seed, tick),
        hits=hits(stream, grams, resampler, seed, tick),
        innovation=news,
        rank_frequency=rank_fits(grams, resampler, tick),
        entropy_change=change,
        warnings=[],
        histogram=np.bincount(stream.codes.ravel(), minlength=stream.vocab).tolist(),
        curves=[_curve(g.counts()) for g in grams],
    )
    found.warnings.extend(_warnings(found))
    if progress:
        progress(f"measuring {name}", total, total)
    return found


def _entropy_change(stream: Stream, seed: int) -> float:
    """Relative change of the plug-in entropy of codes when a last fifth of the images is added: size of it, mean over random fifths."""
    after = plug_in(np.bincount(stream.codes.ravel()))
    most = max(1, round((1 - LAST) * stream.images))
    random = np.random.default_rng(seed)
    before = [
        plug_in(np.bincount(stream.codes[random.permutation(stream.images)[:most]].ravel()))
        for _ in range(ORDERS_OF_LONGER)
    ]
    return float(np.abs(after - np.array(before)).mean() / after) if after > 0 else 0.0


def _warnings(found: Analysis) -> list[str]:
    told = []
    growth = found.innovation[0].last_growth
    if not found.enough:
        told.append(
            f"sample too small: over the last {LAST:.0%} of the images the used codes grew by {growth:.2%} and their entropy changed by "
            f"{found.entropy_change:.2%}, both should be below {MOST_NEWS:.0%}; give more images"
        )
    if found.tokens < TOKENS_PER_CODE * found.vocab:
        told.append(
            f"{found.tokens / found.vocab:.3g} tokens per code of the codebook, fewer than {TOKENS_PER_CODE}: entropies rest on their correction"
        )
    poor = [e.n for e in found.entropy if e.coverage < SEEN]
    if poor:
        told.append(
            f"more than half of the {poor[0]}-grams to come are unseen: entropies from order {poor[0]} on are too low"
        )
    distinct = found.usage.distinct
    if distinct < 0.9 * found.images:
        told.append(f"{found.images - distinct} of {found.images} images repeat others; remove them")
    return told


def _curve(counts: np.ndarray) -> list[tuple[int, int]]:
    falling = np.sort(counts)[::-1]
    at = np.unique(np.geomspace(1, len(falling), 200).astype(np.int64))
    return [(int(r), int(falling[r - 1])) for r in at]
