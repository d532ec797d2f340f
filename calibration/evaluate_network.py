"""How near a network is to another one: rank correlation of embedding similarities, agreement of the likeliest class, with intervals."""

from __future__ import annotations

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


@dataclass(frozen=True)
class NetworkEvaluation:
    """Over ``items`` of ``data``. ``rank_correlation``: Spearman's, of the similarities of all pairs of texts (encoders). ``same_top``: share with
    the same likeliest class; ``correlation``: Pearson's of the outputs themselves, mean over items; ``divergence``: KL in nats from the other, as
    `farthing.calibration.network_kl` says for each kind of output."""

    data: str
    sha256: str
    items: int
    correlation: Interval
    rank_correlation: Interval | None = None
    same_top: Interval | None = None
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
    found: list[list[np.ndarray]] = [[], []]
    groups = []
    for done, (group, feeds) in enumerate(samples):
        for network, results in zip((own, other), found, strict=True):
            results.append(_result(network.run(feeds), feeds))
        groups.append(group)
        progress("measuring", done + 1, samples.count)
    mine, theirs = found
    if not all(np.isfinite(a).all() for a in mine):
        raise RequestError(
            found_wanted(f"outputs of {own.bundle.path}", "not finite", "numbers", "quantise it with other --ranges")
        )
    is_text = "image" not in own.bundle.manifest["model"]
    far = divergence(kind_of(theirs, text=is_text), theirs, mine, groups)
    each = np.array([_pearson(a.reshape(-1), b.reshape(-1)) for a, b in zip(mine, theirs, strict=True)])
    made: dict[str, Any] = {"correlation": _by_group(each, groups), "divergence": far}
    if is_text:
        made["rank_correlation"] = _similarities(np.stack(mine), np.stack(theirs))
    elif mine[0].ndim == 1 and mine[0].size > 1:
        same = np.array([a.argmax() == b.argmax() for a, b in zip(mine, theirs, strict=True)], np.float64)
        made["same_top"] = _by_group(same, groups)
    return NetworkEvaluation(samples.name, samples.sha256, samples.count, **made)


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


def _similarities(mine: np.ndarray, theirs: np.ndarray) -> Interval:
    """[N,D] each. The bootstrap draws texts, since the pairs of one text depend on each other; a text is no pair with itself."""
    unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-30) for v in (mine, theirs)]
    a, b = (u @ u.T for u in unit)
    upper = np.triu_indices(len(a), 1)
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
