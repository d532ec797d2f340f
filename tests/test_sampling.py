"""The sampler: its definition point by point, as properties over random logits, and the distribution it draws from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import FarthingError
from farthing.runtime.sampling import Sampling, candidates, choose, uniform

logit = st.floats(-30, 30, width=32)
rows = st.lists(logit, min_size=1, max_size=40).map(lambda values: np.array(values, np.float32))
words = st.integers(0, 2**64 - 1)


@st.composite
def settings_of(draw) -> Sampling:
    return Sampling(
        temperature=draw(st.floats(0.05, 5)),
        top_k=draw(st.integers(0, 50)),
        top_p=draw(st.floats(0.01, 1)),
        min_p=draw(st.floats(0, 1)),
        repetition_penalty=draw(st.sampled_from([1.0, 0.5, 1.3])),
        seed=draw(words),
    )


def slow(logits: np.ndarray, how: Sampling, step: int, seen: set[int]) -> int:
    """The definition, written as loops; nothing shared with the code under test but `uniform`."""
    values = []
    for i, x in enumerate(logits.tolist()):
        if i in seen and how.repetition_penalty != 1:
            x = float(np.float32(x / how.repetition_penalty if x > 0 else x * how.repetition_penalty))
        values.append(x)
    if how.temperature == 0:
        return max(range(len(values)), key=lambda i: (values[i], -i))
    scaled = [x / how.temperature for x in values]
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i], i))
    weights = [(i, float(np.exp(scaled[i] - scaled[order[0]]))) for i in order]
    weights = [(i, w) for i, w in weights if w >= 1e-20]
    if how.top_k:
        weights = weights[: how.top_k]
    if how.top_p < 1:
        total, mass, kept = 0.0, 0.0, []
        for _, w in weights:
            total += w
        for i, w in weights:
            kept.append((i, w))
            mass += w
            if mass >= how.top_p * total:
                break
        weights = kept
    weights = [(i, w) for n, (i, w) in enumerate(weights) if n == 0 or w >= how.min_p]
    total = 0.0
    for _, w in weights:
        total += w
    target, running = uniform(how.seed, step) * total, 0.0
    for i, w in weights:
        running += w
        if running > target:
            return i
    return weights[-1][0]


@given(rows, settings_of(), st.integers(0, 1000), st.data())
@settings(max_examples=300)
def test_equals_the_definition(logits, how, step, data) -> None:
    seen = set(data.draw(st.lists(st.integers(0, logits.size - 1))))
    assert choose(logits, how, step, seen) == slow(logits, how, step, seen)


@given(rows, words, st.floats(1.0, 3.0))
def test_greedy_takes_the_first_of_the_best(logits, seed, penalty) -> None:
    how = Sampling(seed=seed, repetition_penalty=penalty)
    assert choose(logits, how) == int(np.argmax(logits)) == slow(logits, how, 0, set())


def test_ties_go_to_the_lowest_id() -> None:
    logits = np.array([1, 3, 3, 0, 3], np.float32)
    assert choose(logits, Sampling()) == 1
    ids, weights = candidates(logits, Sampling(temperature=1.0, top_k=2))
    assert ids.tolist() == [1, 2] and weights.tolist() == [1.0, 1.0]
    ids, _ = candidates(np.zeros(5, np.float32), Sampling(temperature=1.0, top_p=0.5))
    assert ids.tolist() == [0, 1, 2]  # 2/5 is below one half, 3/5 is not


@given(rows, settings_of())
def test_candidates_are_what_the_options_say(logits, how) -> None:
    ids, weights = candidates(logits, how)
    scaled = logits.astype(np.float64) / how.temperature
    full = np.exp(scaled - scaled.max())
    assert 1 <= ids.size == len(set(ids.tolist()))
    assert weights[0] == 1.0 and (np.diff(weights) <= 0).all()
    np.testing.assert_allclose(weights, full[ids], rtol=1e-12)
    assert how.top_k == 0 or ids.size <= how.top_k
    assert ids.size == 1 or weights[-1] >= how.min_p
    others = np.setdiff1d(np.arange(logits.size), ids)
    assert others.size == 0 or full[others].max() <= weights[-1] * (1 + 1e-12)  # nothing better was left out
    if how.top_k == 0 and how.min_p == 0:
        assert weights.sum() >= how.top_p * full.sum() * (1 - 1e-9)
        assert weights[:-1].sum() <= how.top_p * full.sum() * (1 + 1e-9)


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=1.5, top_k=4),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=2.0, min_p=0.2),
    ],
    ids=str,
)
@pytest.mark.parametrize("by_seed", [False, True])
def test_draws_follow_the_distribution(how, by_seed) -> None:
    """Chi-square at 0.1% over 20,000 draws: by step under one seed, and by seed at one step."""
    logits = np.array([2.0, 1.0, 0.5, 0.3, -0.2, -1.0, 1.7], np.float32)
    n = 20_000
    counts = np.zeros(logits.size)
    for k in range(n):
        drawn = Sampling(how.temperature, how.top_k, how.top_p, how.min_p, seed=k if by_seed else 1234)
        counts[choose(logits, drawn, 3 if by_seed else k)] += 1
    ids, weights = candidates(logits, how)
    expected = n * weights / weights.sum()
    assert counts[ids].sum() == n
    chi2 = float(((counts[ids] - expected) ** 2 / expected).sum())
    limit = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5, 6: 22.5}[ids.size - 1]  # quantiles of chi-square
    assert chi2 < limit


def test_uniform_is_splitmix64() -> None:
    """The published first outputs for seed 0, and evenness."""
    assert [uniform(0, k) for k in range(3)] == [
        (x >> 11) * 2.0**-53 for x in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    ]
    values = np.array([uniform(7, k) for k in range(20_000)])
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01 and abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    assert uniform(2**64 - 1, 2**40) < 1


def test_repetition_penalty() -> None:
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    assert choose(logits, Sampling(repetition_penalty=2.0), seen=[0]) == 1
    assert choose(-logits, Sampling(repetition_penalty=2.0), seen=[2]) == 2  # 1 / 2 is still more than -1.5
    assert choose(np.array([-1.0, -1.5], np.float32), Sampling(repetition_penalty=2.0), seen=[0, 0, 0]) == 1
    assert choose(logits, Sampling(repetition_penalty=2.0)) == 0
    assert logits.tolist() == [2.0, 1.5, -1.0]  # not changed in place


@given(rows, st.integers(0, 39))
def test_nan_is_an_error(logits, at) -> None:
    logits[at % logits.size] = math.nan
    for how in (Sampling(), Sampling(temperature=1.0)):
        with pytest.raises(FarthingError, match="NaN"):
            choose(logits, how)


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.7, top_p=0.9, min_p=0.1)], ids=str)
def test_infinite_logits(how) -> None:
    inf = np.float32(np.inf)
    assert choose(np.array([0, -inf, 1, -inf], np.float32), Sampling(0.01)) == 2
    assert choose(np.array([0, inf, inf], np.float32), how) == 1
    assert choose(np.array([-inf, -inf], np.float32), how) == 0


def test_extreme_settings() -> None:
    logits = np.array([88.0, -88.0, 3e38, -3e38], np.float32)
    assert choose(logits, Sampling(temperature=1e-3)) == 2
    assert choose(logits, Sampling(temperature=1e6, top_p=1e-9)) == 2
    ids, _ = candidates(np.zeros(4, np.float32), Sampling(temperature=1.0, min_p=1.0))
    assert ids.tolist() == [0, 1, 2, 3]
