"""When an answer is right: equal to a given one once both are normalised."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[.,:](?=\d)")
"""Decimal points, thousands and times of day stay."""


def normalised(text: str) -> str:
    """Compatibility forms folded (NFKC), lower case, without punctuation and English articles, one space between words.

    As the VQA challenges compare, less their tables of number words and contractions. Text that is nothing but such marks stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = {m.start() for m in _BETWEEN_DIGITS.finditer(folded)}
    marks = "".join(c if i in kept or unicodedata.category(c)[0] not in "PS" else " " for i, c in enumerate(folded))
    words = " ".join(_ARTICLES.sub(" ", marks).split())
    return words or " ".join(folded.split())


def is_right(answer: str, wanted: Sequence[str]) -> bool:
    """Whether ``answer`` is one of ``wanted``, both normalised."""
    return normalised(answer) in {normalised(w) for w in wanted}
