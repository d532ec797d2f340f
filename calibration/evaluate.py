"""How well a bundle models a text, and how far it is from another, with intervals that say how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError, found_wanted
from ..export.graph import Progress, no_progress
from ..runtime.bundle import Bundle, open_bundle
from .quality import TOKENS, Text, measure

BLOCK = 64
"""Neighbouring tokens that are drawn together: their losses depend on each other."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean with the 95 % interval of a bootstrap over blocks of neighbouring tokens."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Evaluation:
    """``perplexity`` and ``bits_per_byte`` of the bundle; of ``against`` as well, if there is one, and between the two ``kl`` in nats per token,
    KL(against || bundle), ``kl_max``, ``same_top`` (share of positions with the same likeliest token) and ``loss``, by how much more nats
    per token the bundle loses. All of ``tokens`` tokens, ``size`` bytes of text."""

    text: str
    sha256: str
    tokens: int
    size: int
    perplexity: Interval
    bits_per_byte: Interval
    against_perplexity: Interval | None = None
    against_bits_per_byte: Interval | None = None
    loss: Interval | None = None
    kl: Interval | None = None
    kl_max: float | None = None
    same_top: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def evaluate(
    bundle: str | Path,
    text: Text,
    *,
    against: str | Path | None = None,
    tokens: int = TOKENS,
    progress: Progress = no_progress,
) -> Evaluation:
    """Read ``tokens`` tokens of ``text`` with ``bundle``, and with ``against``, a bundle of the same tokens. With our kernels where they are
    installed. Raises RequestError (other tokens, no cache, a short text), BundleError."""
    if tokens < 2 * BLOCK:
        raise RequestError(found_wanted("tokens", tokens, f"{2 * BLOCK} or more", "measure on a longer text"))
    own = open_bundle(bundle)
    other = None if against is None else open_bundle(against)
    for one in (own, other):
        if one is not None and "kv" not in one.manifest:
            method = one.manifest["method"]["id"]
            raise RequestError(
                found_wanted(f"method of {one.path}", method, "one with a key/value cache", "choose another bundle")
            )
    if other is not None:
        _same_tokens(own, other)
    graphs = [(b.graph(b.step_graph), b.manifest["kv"]) for b in (other, own) if b is not None]
    found = measure(own, graphs, text, tokens=tokens, progress=progress)
    if found.tokens < 2 * BLOCK:
        raise RequestError(
            found_wanted(f"text {text.name}", f"{found.tokens} tokens", f"at least {2 * BLOCK}", "choose a longer text")
        )
    per_token = found.size / found.nll.shape[1]

    def language(nll: np.ndarray) -> tuple[Interval, Interval]:
        return _interval(nll, math.exp), _interval(nll, lambda mean: mean / math.log(2) / per_token)

    perplexity, bits = language(found.nll[-1])
    made: dict[str, Any] = {}
    if other is not None:
        made["against_perplexity"], made["against_bits_per_byte"] = language(found.nll[0])
        made["loss"] = _interval(found.nll[1] - found.nll[0])
        made["kl"], made["kl_max"] = _interval(found.kl), float(found.kl.max())
        made["same_top"] = _interval(found.same.astype(np.float64))
    return Evaluation(text.name, text.sha256, found.tokens, found.size, perplexity, bits, **made)


def _same_tokens(own: Bundle, other: Bundle) -> None:
    def identity(bundle: Bundle) -> tuple[int, str | None]:
        tokenizer = bundle.manifest["tokenizer"]
        digest = None if tokenizer is None else bundle.manifest["files"][tokenizer["file"]]["sha256"]
        return bundle.manifest["model"]["vocab_size"], digest

    if identity(own) != identity(other):
        raise RequestError(
            found_wanted(
                f"tokens of {other.path}", "others", f"those of {own.path}", "compare bundles of one tokenizer"
            )
        )


def _interval(values: np.ndarray, then: Callable[[float], float] = float) -> Interval:
    """Of ``then`` of the mean. Blocks are drawn with replacement; the last, short one is part of the one before it."""
    count = max(len(values) // BLOCK, 1)
    blocks = np.array_split(values, count)
    sums, sizes = np.array([b.sum() for b in blocks]), np.array([len(b) for b in blocks])
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(then(float(values.mean())), then(float(low)), then(float(high)))
