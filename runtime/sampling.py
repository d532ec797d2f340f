"""From logits to a token id. `runtime/core/sampler.cc` is the same procedure, so equal seeds give equal tokens.

Order: repetition penalty, temperature, top-k, top-p, min-p, draw. All of it in float64 from float32 logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import FarthingError

_NEGLIGIBLE = 1e-20
"""Weights below this share of the largest are left out: all of a vocabulary of 10^6 of them weigh less than 10^-14."""

_WORD = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen. The defaults are greedy decoding; see `farthing.runtime.options` for the ranges."""

    temperature: float = 0.0
    """0 = greedy."""
    top_k: int = 0
    """Keep the k most likely; 0 = off."""
    top_p: float = 1.0
    """Keep the smallest set of most likely ids with this share of the probability; 1 = off (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Keep ids with at least this share of the most likely one's probability; 0 = off (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Divides positive logits of ids seen in prompt or answer, multiplies negative ones; 1 = off (Keskar et al. 2019)."""
    seed: int = 0
    """0 to 2^64 - 1."""


def uniform(seed: int, step: int) -> float:
    """Number in [0, 1) for draw ``step`` under ``seed``: SplitMix64 (Steele et al. 2014) as a counter, so without state."""
    x = (seed + (step + 1) * 0x9E3779B97F4A7C15) & _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    x ^= x >> 31
    return (x >> 11) * 2.0**-53


def choose(logits: np.ndarray, how: Sampling, step: int = 0, seen: Iterable[int] = ()) -> int:
    """The id chosen from ``logits`` float32 [V] as number ``step`` (from 0) of a generation.

    ``seen`` are the ids of prompt and answer so far; only a repetition penalty reads them. Ties go to the lowest id.
    Raises FarthingError when a logit is NaN.
    """
    if how.repetition_penalty != 1.0:
        logits = _penalised(logits, how.repetition_penalty, seen)
    top = int(np.argmax(logits))  # the first of equals, or the first NaN
    if math.isnan(logits[top]):
        raise FarthingError("a logit is NaN, expected numbers; run `farthing verify` on the bundle")
    if how.temperature == 0.0 or math.isinf(logits[top]):
        return top
    ids, weights = candidates(logits, how)
    running = np.cumsum(weights)  # one after the other, like the loop in C++; np.sum adds in another order
    position = int(np.searchsorted(running, uniform(how.seed, step) * running[-1], side="right"))
    return int(ids[min(position, ids.size - 1)])


def candidates(logits: np.ndarray, how: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64 [n], weights float64 [n]) that a draw is made from, most likely first; the largest weight is 1.

    ``how.temperature`` must be above 0 and ``logits`` [V] free of NaN.
    """
    scaled = logits.astype(np.float64) / how.temperature
    peak = scaled.max()
    ids = np.flatnonzero(scaled >= peak + math.log(_NEGLIGIBLE))
    ids = ids[np.argsort(-scaled[ids], kind="stable")]  # stable: equals stay in the order of their ids
    if how.top_k > 0:
        ids = ids[: how.top_k]
    weights = np.exp(scaled[ids] - peak)
    if how.top_p < 1.0:
        running = np.cumsum(weights)
        kept = max(1, int(np.searchsorted(running, how.top_p * running[-1], side="left")) + 1)
        ids, weights = ids[:kept], weights[:kept]
    if how.min_p > 0.0:
        kept = max(1, int(np.count_nonzero(weights >= how.min_p)))
        ids, weights = ids[:kept], weights[:kept]
    return ids, weights


def _penalised(logits: np.ndarray, penalty: float, seen: Iterable[int]) -> np.ndarray:
    ids = np.fromiter(set(seen), np.int64)
    old = logits[ids].astype(np.float64)
    result = logits.copy()
    result[ids] = np.where(old > 0, old / penalty, old * penalty).astype(np.float32)
    return result
