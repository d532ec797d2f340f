"""Rows of the parity table for ``farthing::TokenSelect``.

Indices are compared exactly, so every random row is drawn until the greedy choice is clear: the best objective leads the second
by MARGIN or is tied bit for bit. Rounding differs between faces by some 1e-7, so no face may then choose differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..case import Case, floats

MARGIN = 1e-5
_EXACT = "indices are compared exactly, and rounding the features may change which is best"


def _reals(values: list[Any]) -> np.ndarray:
    return np.array(values, np.float32)


def _ints(values: list[Any]) -> np.ndarray:
    return np.array(values, np.int64)


def unit(feats: np.ndarray) -> np.ndarray:
    """Rows of feats [N,D] as unit vectors in float64."""
    wide = feats.astype(np.float64)
    return wide / (np.linalg.norm(wide, axis=1, keepdims=True) + 1e-8)


def clear(scores: np.ndarray, feats: np.ndarray, k: int, mode: str) -> bool:
    """Whether each of the first k choices among scores [N], feats [N,D] leads by MARGIN. One pool."""
    low, high = scores.min(), scores.max()
    value = (scores.astype(np.float64) - low) / (float(high) - float(low) + 1e-6)
    rows, nearest, left = unit(feats), np.full(len(scores), -2.0), np.ones(len(scores), bool)
    for _ in range(k):
        changed = 0.5 * value - 0.5 * nearest if mode == "mmr" else value * (1 - nearest)
        objective = np.where(left, np.where(nearest < -1.5, value, changed), -np.inf)
        best = int(objective.argmax())
        others = np.delete(objective, best)
        if len(others) and objective[best] - others.max() < MARGIN:
            return False
        left[best] = False
        nearest = np.maximum(nearest, rows @ rows[best])
    return True


def random_row(seed: int, tokens: int, width: int, k: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N] and features [N,D] of a clear choice."""
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        scores, feats = floats(rng, tokens), floats(rng, tokens, width)
        if mode == "topk" or clear(scores, feats, k, mode):
            return scores, feats
    raise AssertionError(f"no clear choice for {tokens} x {width}, k {k}, {mode}; lower k or MARGIN")


def _case(name: str, inputs: list[np.ndarray], **attributes: object) -> Case:
    return Case("TokenSelect", name, [*inputs], attributes, half_tolerance=None, half_reason=_EXACT)


def _shapes() -> Iterator[Case]:
    # batch, tokens, width, k: one token, k = N, tails of every vector width, windows of the kernel more than once
    for batch, tokens, width, k in [
        (1, 1, 1, 1),
        (1, 9, 5, 1),
        (2, 12, 33, 12),
        (3, 40, 17, 7),
        (1, 61, 16, 20),
        (1, 150, 100, 60),
        (2, 97, 1030, 25),
    ]:
        for mode in ("topk", "mmr", "sads"):
            rows = [random_row(100 * b + tokens, tokens, width, min(k, tokens - 2), mode) for b in range(batch)]
            scores, feats = (np.stack(part) for part in zip(*rows, strict=True))
            name = f"{mode}-b{batch}n{tokens}d{width}k{k}"
            yield _case(name, [scores, feats], k=k, mode=mode)
            if tokens == 40:
                yield _case(f"{name}-half", [scores, feats.astype(np.float16)], k=k, mode=mode)
                yield _case(f"{name}-by-score", [scores, feats], k=k, mode=mode, order="score")


def _exact(name: str, inputs: list[np.ndarray], **attributes: Any) -> Case:
    """Numbers that float16 holds exactly: a device may then be given it for the scores."""
    return Case("TokenSelect", name, [*inputs], attributes)


def _ties() -> Iterator[Case]:
    # Half-unit features: norms are 2 and similarities multiples of a quarter, exact in every face. Many are equal.
    rng = np.random.default_rng(5)
    feats = rng.choice(_reals([-1, 1]), (1, 30, 4))
    few = rng.integers(0, 3, (1, 30)).astype(np.float32)
    for mode in ("topk", "mmr", "sads"):
        yield _exact(f"{mode}-ties", [few, feats], k=14, mode=mode)
        yield _exact(f"{mode}-constant-scores", [np.full((1, 30), 3, np.float32), feats], k=9, mode=mode)
        yield _exact(f"{mode}-all-zero-features", [few, np.zeros((1, 30, 4), np.float32)], k=9, mode=mode)
        yield _exact(
            f"{mode}-all-equal", [np.zeros((2, 8), np.float32), np.ones((2, 8, 3), np.float32)], k=5, mode=mode
        )
    yield _exact("mmr-importance-alone", [few, feats], k=14, mode="mmr", lam=1.0)
    yield _exact("mmr-diversity-alone", [few, feats], k=14, mode="mmr", lam=0.0)


def _values() -> Iterator[Case]:
    nan, inf = np.nan, np.inf
    for mode in ("topk", "mmr", "sads"):
        scores, feats = random_row(11, 24, 40, 12, mode)
        for name, odd in [
            ("nan-scores", [nan] * 3),
            ("infinite-scores", [inf, -inf, inf]),
            ("huge-scores", [3.4e38, -3.4e38, 0]),
            ("nan-and-infinite", [nan, inf, -inf]),
        ]:
            mixed = scores.copy()
            mixed[[3, 10, 17]] = odd
            k = 4 if name == "huge-scores" else 9  # all others have importance 0.5 there
            yield _case(f"{mode}-{name}", [mixed[None], feats[None]], k=k, mode=mode)
        yield _case(f"{mode}-only-nan", [np.full((1, 24), nan, np.float32), feats[None]], k=1, mode=mode)
        odd_feats = feats.copy()
        odd_feats[[2, 5]] = 0
        odd_feats[7, 3], odd_feats[9, 0], odd_feats[11] = nan, inf, 3e38
        odd_feats[13] *= 1e-30
        yield _case(f"{mode}-odd-features", [scores[None], odd_feats[None]], k=10, mode=mode)


def _groups() -> Iterator[Case]:
    rng = np.random.default_rng(6)
    for mode in ("topk", "mmr", "sads"):
        scores, feats = random_row(21, 36, 50, 30, mode)
        data = [scores[None], feats[None]]
        group = rng.integers(0, 3, (1, 36))
        group[0, [4, 20]], group[0, [5, 21, 30]] = -2, -1
        yield _case(f"{mode}-groups", [*data, group], k=12, mode=mode)
        # Few enough candidates that those which are none must fill up.
        yield _case(f"{mode}-too-few-candidates", [*data, np.where(group == 1, 1, -1)], k=30, mode=mode)
        yield _case(f"{mode}-all-kept", [*data, np.full_like(group, -2)], k=9, mode=mode)
        yield _case(f"{mode}-no-candidate", [*data, np.full_like(group, -1)], k=9, mode=mode)
        for name, quota, k in [
            ("quota", [4, 3, 2], 11),
            ("quota-too-small", [2, 1, 0], 12),
            ("quota-too-large", [9, 50, 9], 12),
            ("quota-zero", [0, 0, 0], 12),
            ("quota-negative", [-3, 5, 4], 11),
            ("quota-empty-group", [4, 0, 3, 2, 5, 0], 12),
            ("quota-group-beyond", [4, 5], 13),
        ]:
            yield _case(f"{mode}-{name}", [*data, group, _ints([quota])], k=k, mode=mode)
        both = [np.concatenate([a, a[:, ::-1]]) for a in (*data, group)]
        yield _case(f"{mode}-quota-by-row", [*both, _ints([[4, 3, 2], [2, 2, 5]])], k=11, mode=mode, order="score")


def _refused() -> Iterator[Case]:
    rng = np.random.default_rng(7)
    scores, feats, group = floats(rng, 1, 6), floats(rng, 1, 6, 3), np.zeros((1, 6), np.int64)
    good: dict[str, Any] = {"k": 2, "mode": "mmr"}
    attributes: list[tuple[str, dict[str, Any], str]] = [
        ("k-zero", {"k": 0}, "k is 0, expected 1 or more"),
        ("k-negative", {"k": -4}, "k is -4, expected 1 or more"),
        ("mode-unknown", {"mode": "best"}, "mode is 'best', expected"),
        ("order-unknown", {"order": "size"}, "order is 'size', expected"),
        ("lam-above-1", {"lam": 1.5}, "expected 0 to 1"),
        ("lam-nan", {"lam": float("nan")}, "expected 0 to 1"),
        ("epsilon-zero", {"epsilon": 0.0}, "expected above 0"),
    ]
    for name, change, says in attributes:
        yield Case("TokenSelect", name, [scores, feats], {**good, **change}, refuses=says, stage="attributes")
    for name, inputs, says in [
        ("k-above-tokens", [scores[:, :1], feats[:, :1]], "k"),
        ("scores-rank", [scores[0], feats], "scores"),
        ("feats-rank", [scores, feats[0]], "feats"),
        ("feats-tokens", [scores, feats[:, :5]], "feats"),
        ("group-shape", [scores, feats, group[:, :4]], "group"),
        ("quota-rows", [scores, feats, group, _ints([[1], [1]])], "quota"),
    ]:
        yield Case("TokenSelect", name, inputs, good, refuses=says)


def cases() -> Iterator[Case]:
    """All rows."""
    yield from _shapes()
    yield from _ties()
    yield from _values()
    yield from _groups()
    yield from _refused()
