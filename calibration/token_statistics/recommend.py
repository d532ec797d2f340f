"""What the figures say about how to decode: as the model is, and what would be worth training.

The thresholds are ours. They stand between streams that were measured (docs/analyze-codes.md): codes of a trained tokenizer, the same codes shuffled,
uniform noise, and text. Other tokenizers may lie elsewhere, so every verdict says the figure and the threshold; the last word has a measurement of the
method itself.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .report import Analysis

METHODS = ("plain", "gsd", "lantern", "nar", "token-shuffle")

FEW_HITS = 0.35
"""Share of first guesses right below which n-gram drafts are not worth verifying: even endless drafts give 1 / (1 - 0.35) = 1.54 codes a pass, and a
pass over several rows costs more than one over one. Measured with 256 symbols: 17.5 and 30.9 % for codes of VQs, 43 % for those of a binary
autoencoder, 37 % for text."""
FLAT = 0.85
"""H_1 / log2 V above which codes are so evenly used that many stand for each other, which relaxed acceptance lives on. Measured: 0.96 and 0.98 for codes of VQs,
0.60 for those of a binary autoencoder, 0.59 for bytes of text; byte-level BPE evens text out to 0.87 and more, so this decides only with the hits."""
NEIGHBOURLY = 0.1
"""Mutual information over the entropy of a code, in both directions, from which neighbours say enough to be merged or predicted from both sides.
Measured: 21 to 34 % for image codes, 1 % once they are shuffled within the image, 6 % for text a row on."""
UNUSED = 0.2
"""Part of the codebook that never occurs, from which cutting rows off codebook and head is worth a step of its own."""


@dataclass(frozen=True)
class Advice:
    """Whether ``method`` is ``worth`` trying, and why, in words with figure and threshold."""

    method: str
    worth: bool
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """``now``: plain or gsd, for a model as it is. ``to_train``: methods that need training and are worth it. ``advice`` on each of METHODS."""

    now: str
    to_train: list[str]
    advice: list[Advice]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data, with the thresholds."""
        return {
            **asdict(self),
            "thresholds": {"few_hits": FEW_HITS, "flat": FLAT, "neighbourly": NEIGHBOURLY, "unused": UNUSED},
        }


def recommend(found: Analysis, top_k: int = 0) -> Recommendation:
    """By the figures ``found``. ``top_k``: of the sampler that is used, 0 = off; it is warned about where it cuts variety."""
    relaxed = _relaxed(found)
    merged = _merged(found)
    advice = [*relaxed, *merged]
    if not found.settled:
        advice = [Advice(a.method, False, f"sample too small to say; {a.reason}") for a in advice]
    gsd = next(a for a in advice if a.method == "gsd")
    plain = Advice(
        "plain",
        not gsd.worth,
        "nothing that works without training promises a gain"
        if not gsd.worth
        else "exact, and what the others are measured against",
    )
    return Recommendation(
        now="gsd" if gsd.worth else "plain",
        to_train=[a.method for a in advice if a.worth and a.method != "gsd"],
        advice=[plain, *advice],
        notes=_notes(found, top_k),
    )


def _relaxed(found: Analysis) -> list[Advice]:
    """GSD and LANTERN: where drafts by counting fail and codes are interchangeable."""
    best, flat = found.best_hits(), found.normalised_entropy
    rate = best.top[1].value
    few, even = rate < FEW_HITS, flat > FLAT
    counted = f"n-gram drafts come true {rate:.1%} of the time ({'below' if few else 'not below'} {FEW_HITS:.0%})"
    spread = f"H_1/log2 V is {flat:.3f} ({'above' if even else 'not above'} {FLAT})"
    if few and even:
        because = f"{counted}, and {spread}: many codes stand for each other, so accepting alike ones pays"
    elif even:
        because = f"{counted}: a table of n-grams, which is exact, comes first; {spread}"
    else:
        because = f"{spread}: a few codes have most of the mass, so relaxed acceptance would favour them; {counted}"
    return [
        Advice("gsd", few and even, f"{because}; works on the model as it is (lossy, bounded)"),
        Advice("lantern", few and even, f"{because}; needs a trained drafter (lossy)"),
    ]


def _merged(found: Analysis) -> list[Advice]:
    """NAR and Token-Shuffle: where neighbours know much about each other in both directions."""
    x, y, diagonal = (found.neighbour(d) for d in ("x", "y", "diagonal"))
    if x is None or y is None or diagonal is None:
        because = "the grid has one row or one column: no neighbours in two directions"
        return [Advice("nar", False, because), Advice("token-shuffle", False, because)]
    least = min(x.share.value, y.share.value)
    near = least >= NEIGHBOURLY
    shares = f"neighbours share {x.share.value:.1%} (right) and {y.share.value:.1%} (below) of a code's entropy"
    both = f"{shares}, {'at least' if near else 'not both'} {NEIGHBOURLY:.0%}"
    aside = diagonal.share.value <= least
    passes = 2 * max(found.grid) - 1
    along = (
        f"codes of a diagonal, which NAR draws side by side, share {diagonal.share.value:.1%}, "
        f"{'no more' if aside else 'more'} than neighbours do"
    )
    together = f"a 2x2 window is drawn at once, without the {x.bits.value + y.bits.value:.2f} bits that its codes know of each other"
    return [
        Advice(
            "nar",
            near and aside,
            f"{both}; {along}; about {passes} passes for {math.prod(found.grid)} codes; needs training",
        ),
        Advice(
            "token-shuffle",
            near and not any(side % 2 for side in found.grid),
            f"{both}; {together}; a quarter of the passes; needs training",
        ),
    ]


def _notes(found: Analysis, top_k: int) -> list[str]:
    told = []
    unused, perplexity = found.usage.unused_share, found.usage.perplexity
    if unused > UNUSED:
        told.append(
            f"{unused:.1%} of the codebook never occurs (above {UNUSED:.0%}): cut its rows off codebook and head"
        )
    if 0 < top_k < perplexity:
        told.append(
            f"top-k {top_k} is below the perplexity of single codes, {perplexity:.0f}: images will be less varied than the data"
        )
    elif top_k == 0:
        told.append(f"a top-k below {math.ceil(perplexity)}, the perplexity of single codes, would cost variety")
    return told
