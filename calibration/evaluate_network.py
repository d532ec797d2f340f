"""How near a network is to another one: rank correlation of embedding similarities, agreement of the likeliest class, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError, found_wanted
from ..export.graph import Progress, no_progress
from ..runtime.network import Network, open_network
from ..runtime.network_tensors import ATTENTION_MASK, SENTENCE_EMBEDDING
from .evaluate import RESAMPLES, Interval
from .network_data import Samples, samples_of
from .network_kl import Divergence, divergence, kind_of

CLEAR = 0.1
"""Of probability, by which a likeliest class leads clearly: below, a texture has two names."""


@dataclass(frozen=True)
class NetworkEvaluation:
    """Over ``items`` of ``data``. ``rank_correlation``: Spearman's, of the similarities of all pairs of texts (encoders). ``same_top``: share with
    the same likeliest class; ``same_top_clear``: of the ``clear_items`` where that class leads the other network's second by CLEAR;
    ``correlation``: Pearson's of the outputs themselves, mean over items; ``divergence``: KL in nats from the other, as
    `farthing.calibration.network_kl` says for each kind of output."""

    data: str
    sha256: str
    items: int
    correlation: Interval
    rank_correlation: Interval | None = None
    same_top: Interval | None = None
    same_top_clear: Interval | None = None
    clear_items: int = 0
    divergence: Divergence | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def evaluate_network(
    bundle: str | Path,
    against: str | Path,
    *,
    text: str | Path | None = None,
    images: str | Path | None = None,
    limit: int = 128,
    progress: Progress = no_progress,
) -> NetworkEvaluation:
    """Run ``bundle`` and ``against`` on the same texts or pictures. Raises RequestError (other inputs or outputs, too little data), BundleError."""
    own, other = open_network(bundle), open_network(against)
    for side in ("inputs", "outputs"):
        mine, theirs = (
            [(t["name"], t["dtype"]) for t in n.bundle.manifest["graphs"]["network"][side]] for n in (own, other)
        )
        if mine != theirs:
            raise RequestError(
                found_wanted(f"{side} of {other.bundle.path}", theirs, mine, "compare bundles of one model")
            )
    return compare_networks(own, other, samples_of(own.bundle, text=text, images=images, limit=limit), progress)


def compare_networks(
    own: Network, other: Network, samples: Samples, progress: Progress = no_progress
) -> NetworkEvaluation:
    """The same of opened networks."""
    mine, theirs = outcomes(own, samples, progress), outcomes(other, samples)
    if not all(np.isfinite(a).all() for a in mine):
        raise RequestError(
            found_wanted(f"outputs of {own.bundle.path}", "not finite", "numbers", "quantise it with other --ranges")
        )
    groups = [number for number, _ in samples.items]
    each = np.array([_pearson(a.reshape(-1), b.reshape(-1)) for a, b in zip(mine, theirs, strict=True)])
    made: dict[str, Any] = {"correlation": _by_group(each, groups)}
    is_text = "image" not in own.bundle.manifest["model"]
    made["divergence"] = divergence(kind_of(theirs, text=is_text), theirs, mine, groups)
    kind = measure_of(own, theirs)
    if kind == "rank_correlation":
        made[kind] = _similarities(np.stack(mine), np.stack(theirs))
    elif kind == "same_top":
        same = np.array([a.argmax() == b.argmax() for a, b in zip(mine, theirs, strict=True)], np.float64)
        made[kind] = _by_group(same, groups)
        clear = np.array([lead(b) >= CLEAR for b in theirs])
        if clear.any():
            made["same_top_clear"] = _by_group(same[clear], [g for g, c in zip(groups, clear, strict=True) if c])
            made["clear_items"] = int(clear.sum())
    return NetworkEvaluation(samples.name, samples.sha256, samples.count, **made)


def outcomes(network: Network, samples: Samples, progress: Progress = no_progress) -> list[np.ndarray]:
    """What counts of each item: the sentence's vector, the logits, the map."""
    found = []
    for done, (_, feeds) in enumerate(samples):
        found.append(_result(network.run(feeds), feeds))
        progress("measuring", done + 1, samples.count)
    return found


def measure_of(network: Network, results: Sequence[np.ndarray]) -> str:
    """Which field of `NetworkEvaluation` judges this kind of network: the field's name."""
    if "image" not in network.bundle.manifest["model"]:
        return "rank_correlation"
    return "same_top" if results[0].ndim == 1 and results[0].size > 1 else "correlation"


def measured(kind: str, mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The value of field ``kind`` without its interval; -1 if ``mine`` is not finite. Of ``same_top`` no more than `expected_same_top`."""
    if not all(np.isfinite(a).all() for a in mine):
        return -1.0
    if kind == "same_top":
        counted = float(np.mean([a.argmax() == b.argmax() for a, b in zip(mine, theirs, strict=True)]))
        return min(counted, expected_same_top(mine, theirs))
    if kind == "correlation":
        return float(np.mean([_pearson(a.reshape(-1), b.reshape(-1)) for a, b in zip(mine, theirs, strict=True)]))
    a, b, upper = _pairs(np.stack(mine), np.stack(theirs))
    return spearman(a[upper], b[upper])


def expected_same_top(mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The share of items whose likeliest class would stay if the errors of an item's outputs were independent and normal: P(e < lead),
    e the difference of two of them. Two hundred views say by counting only that one or two changed; this says how near the others were."""
    chances = []
    for a, b in zip(mine, theirs, strict=True):
        spread = max(float((a.astype(np.float64) - b).std()), 1e-30)
        second, first = np.sort(b.astype(np.float64))[-2:]
        chances.append(0.5 + 0.5 * math.erf(float(first - second) / (2 * spread)))
    return float(np.mean(chances))


def lead(outputs: np.ndarray) -> float:
    """By how much the likeliest class leads the second, of probabilities: ``outputs`` [classes] themselves if they are some, else their softmax."""
    values = outputs.astype(np.float64)
    if not (values.min() >= 0 and abs(values.sum() - 1) < 1e-3):
        values = np.exp(values - values.max())
        values /= values.sum()
    second, first = np.sort(values)[-2:]
    return float(first - second)


def _result(outputs: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What counts of one item: the sentence's vector, or the mean of its tokens' where there is none; else the first output."""
    if SENTENCE_EMBEDDING in outputs:
        return outputs[SENTENCE_EMBEDDING][0]
    first = next(iter(outputs.values()))
    if first.ndim == 3 and ATTENTION_MASK in feeds:
        return np.asarray(first[0].mean(0))
    return np.asarray(first[0])


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else float(np.array_equal(a, b))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two vectors; equal values share the mean of their ranks."""
    return _pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[place])


def _pairs(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Cosines [N,N] of both, and the places of every pair once."""
    unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-30) for v in (mine, theirs)]
    return unit[0] @ unit[0].T, unit[1] @ unit[1].T, np.triu_indices(len(mine), 1)


def _similarities(mine: np.ndarray, theirs: np.ndarray) -> Interval:
    """[N,D] each. The bootstrap draws texts, since the pairs of one text depend on each other; a text is no pair with itself."""
    a, b, upper = _pairs(mine, theirs)
    random, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES // 4):
        chosen = random.integers(0, len(a), len(a))
        rows, columns = chosen[upper[0]], chosen[upper[1]]
        differ = rows != columns
        drawn.append(spearman(a[rows[differ], columns[differ]], b[rows[differ], columns[differ]]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(spearman(a[upper], b[upper]), float(low), float(high))


def _by_group(values: np.ndarray, groups: list[int]) -> Interval:
    """Mean, with a bootstrap over groups: views of one picture depend on each other."""
    numbers = np.unique(groups)
    sums = np.array([values[np.equal(groups, n)].sum() for n in numbers])
    sizes = np.array([np.equal(groups, n).sum() for n in numbers])
    drawn = np.random.default_rng(0).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
