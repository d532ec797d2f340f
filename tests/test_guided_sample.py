"""GuidedSample beyond its table: the same choice as `runtime.sampling`, properties on random rows, kernel and body beside each other.

Where a number lies within rounding of a boundary (u of a running sum, top_p of a mass), faces may differ and both be right: such rows are left out by
a rule that is stated, and their share is bounded.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.plugins import library_path, operator
from farthing.plugins.case import Case
from farthing.plugins.check.graph import model
from farthing.plugins.guided_sample.cases import inputs
from farthing.runtime.sampling import Sampling, candidates, uniform

NEAR = 2e-6
"""How near a boundary rounding may decide: float32 sums of a row are good to some 3e-7."""
FACES = ["reference", "body"] + (["kernel"] if library_path() else [])
both = pytest.mark.skipif(library_path() is None, reason="libfarthing_ops.so is not built")


@cache
def session(face: str) -> onnxruntime.InferenceSession:
    """All sizes are open, so one session serves all inputs."""
    ones = inputs(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), [1.0], [[0.5]])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if face == "kernel":
        options.register_custom_ops_library(str(library_path()))
    made = model(Case("GuidedSample", "any", ones), dynamic=("B", "M", "V"))
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(face: str, arrays: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, probs)."""
    if face == "reference":
        ids, probs = operator("GuidedSample").reference(*(torch.from_numpy(a) for a in arrays))
        return ids.numpy(), probs.numpy()
    names = [p.name for p in operator("GuidedSample").inputs]
    ids, probs = session(face).run(["ids", "probs"], dict(zip(names, arrays, strict=True)))
    return ids, probs


def numbers(count: int, seed: int = 0) -> np.ndarray:
    """Uniform float32 numbers in [0, 1), as a decode loop makes them."""
    return np.array([np.float32((int(uniform(seed, i) * 2**53) >> 29) * 2.0**-24) for i in range(count)], np.float32)


def logits_of(arrays: list[Any]) -> np.ndarray:
    """Guided logits [B,M,V] in float32, one rounding an operation."""
    cond, uncond, scale = arrays[0], arrays[1], arrays[2][:, None, None]
    return np.where(scale == 1, cond, uncond + scale * (cond - uncond))


def kept_of(row: np.ndarray, temperature: float, top_k: int, top_p: float) -> tuple[np.ndarray, float]:
    """(which ids of a row [V] of float32 logits stay, how far top_p is from a running mass), from the definition."""
    with np.errstate(invalid="ignore"):  # a row of masked ids: all are the best
        away = np.where(row == row.max(), np.float32(0), (row.max() - row) / np.float32(temperature))
    order = np.sort(away)
    stays = away <= (order[top_k - 1] if 0 < top_k < row.size else np.inf)
    distance = 1.0
    if top_p < 1:
        mass = np.exp(-np.sort(away[stays]).astype(np.float64)).cumsum()
        mass /= mass[-1]
        distance = float(np.abs(mass - top_p).min())
        last = np.sort(away[stays])[np.searchsorted(mass, top_p)]
        stays &= away <= last
    return stays & (away <= 87), distance


@st.composite
def problems(draw: st.DrawFn) -> list[Any]:
    """The seven inputs: random rows, rows of few different numbers, rows with masked ids."""
    batch, rows = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    size = draw(st.sampled_from([1, 2, 3, 16, 63, 64, 65, 200, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cond, uncond = (rng.standard_normal((batch, rows, size)).astype(np.float32) for _ in range(2))
    if draw(st.booleans()):
        cond, uncond = np.round(cond), np.round(uncond)
    if draw(st.booleans()):
        masked = rng.random((batch, rows, size)) < 0.3
        cond = np.where(masked, -np.inf, cond).astype(np.float32)
        uncond = np.where(masked, np.float32(0), uncond)
    scale = rng.choice([0.5, 1.0, 2.0, 7.5], batch)
    return inputs(
        cond,
        uncond,
        scale,
        rng.integers(0, 1 << 24, (batch, rows)) * 2.0**-24,
        draw(st.sampled_from([0.3, 1.0, 2.5])),
        draw(st.sampled_from([0, 1, 2, size // 2, size - 1, size, size + 5])),
        draw(st.sampled_from([1e-9, 0.3, 0.8, 0.97, 1.0])),
    )


@pytest.mark.parametrize("face", FACES)
@settings(max_examples=60, deadline=None)
@given(problems())
def test_what_is_kept(face: str, arrays: list[Any]) -> None:
    ids, probs = run(face, arrays)
    with np.errstate(invalid="ignore"):
        logits = logits_of(arrays).astype(np.float32)
    np.testing.assert_allclose(probs.sum(-1, dtype=np.float64), 1, atol=1e-5)
    assert (np.take_along_axis(probs, ids[..., None], -1) > 0).all()
    for place in np.ndindex(ids.shape):
        row = logits[place]
        if np.isneginf(row).all():
            continue  # all ids share the draw
        stays, distance = kept_of(row, *(a[0].item() for a in arrays[4:]))
        if distance > NEAR:
            assert ((probs[place] > 0) == stays).all()
        wide = np.exp((row.astype(np.float64) - row.max()) / float(arrays[4][0]))
        own = probs[place] > 0
        np.testing.assert_allclose(probs[place], np.where(own, wide, 0) / wide[own].sum(), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("face", FACES)
@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(0, 2**32))
def test_ids_rise_with_u_and_obey_the_running_sum(face: str, arrays: list[Any], seed: int) -> None:
    rows = 64
    cond, uncond = (np.repeat(a[:1, :1], rows, axis=1) for a in arrays[:2])
    u = np.sort(np.random.default_rng(seed).integers(0, 1 << 24, (1, rows)), axis=1) * 2.0**-24
    u[0, 0], u[0, -1] = 0, 1 - 2.0**-24
    ids, probs = run(face, [cond, uncond, arrays[2][:1], u.astype(np.float32), *arrays[4:]])
    assert (np.diff(ids[0]) >= 0).all()
    running = probs[0, 0].astype(np.float64).cumsum()
    for number, chosen in zip(u[0] * running[-1], ids[0], strict=True):
        assert running[chosen] > number - NEAR
        assert chosen == 0 or running[chosen - 1] <= number + NEAR


@both
@settings(max_examples=150, deadline=None)
@given(problems())
def test_kernel_and_body_draw_the_same(arrays: list[Any]) -> None:
    (one, probs), (other, others) = (run(face, arrays) for face in ("kernel", "body"))
    logits = logits_of(arrays)
    for place in np.ndindex(one.shape):
        if kept_of(logits[place], *(a[0].item() for a in arrays[4:]))[1] <= NEAR:
            continue
        assert ((probs[place] > 0) == (others[place] > 0)).all()
        running = probs[place].astype(np.float64).cumsum()
        if np.abs(running - float(arrays[3][place]) * running[-1]).min() > NEAR:
            assert one[place] == other[place]


@both
def test_kernel_and_body_draw_the_same_of_16384() -> None:
    rng = np.random.default_rng(5)
    u = rng.integers(0, 1 << 24, (4, 8)) * 2.0**-24
    cond, uncond = (rng.standard_normal((4, 8, 16384)) * 2 for _ in range(2))
    for top_k, top_p in ((0, 1.0), (2000, 1.0), (0, 0.9), (1000, 0.95)):
        arrays = inputs(cond, uncond, [1.0, 1.75, 4.0, 7.5], u, 1.0, top_k, top_p)
        (one, probs), (other, _) = (run(face, arrays) for face in ("kernel", "body"))
        running = probs.astype(np.float64).cumsum(-1)
        distance = np.abs(running - (arrays[3] * running[..., -1])[..., None]).min(-1)
        differ = one != other
        assert not (differ & (distance > NEAR)).any()
        assert differ.sum() <= 2  # of 32: boundaries of flat rows are 6e-5 apart


@pytest.mark.parametrize("face", FACES)
def test_keeps_what_the_runtime_keeps(face: str) -> None:
    rng = np.random.default_rng(11)
    compared = 0
    for size, temperature, top_k, top_p in (
        (50, 1.0, 0, 1.0),
        (257, 0.7, 20, 1.0),
        (257, 1.0, 0, 0.8),
        (1000, 1.4, 300, 0.95),
    ):
        rows = rng.standard_normal((1, 20, size)).astype(np.float32) * 2
        assert all(len(set(row.tolist())) == size for row in rows[0])  # no ties: candidates cuts them by rank
        _, probs = run(face, inputs(rows, rows, [1.0], np.full((1, 20), 0.5), temperature, top_k, top_p))
        how = Sampling(temperature=float(np.float32(temperature)), top_k=top_k, top_p=float(np.float32(top_p)))
        for row, own in zip(rows[0], probs[0], strict=True):
            if kept_of(row, temperature, top_k, float(np.float32(top_p)))[1] <= NEAR:
                continue
            ids, weights = candidates(row, how)
            assert set(np.flatnonzero(own)) == set(ids.tolist())
            np.testing.assert_allclose(own[ids], weights / weights.sum(), rtol=1e-5)
            compared += 1
    assert compared >= 70


def chi_square(ids: np.ndarray, expected: np.ndarray) -> float:
    """(statistic - degrees of freedom) / its standard deviation; infinite where an impossible id was drawn."""
    counts = np.bincount(ids.ravel(), minlength=expected.size)
    if counts[expected == 0].any():
        return float("inf")
    possible = expected > 0
    wanted = expected[possible] * ids.size
    freedom = possible.sum() - 1
    return float((((counts[possible] - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("face", FACES)
def test_draws_follow_the_runtimes_distribution(face: str) -> None:
    count = 20_000
    row = np.random.default_rng(3).standard_normal(30).astype(np.float32)
    arrays = inputs(np.tile(row, (1, count, 1)), np.zeros((1, count, 30)), [1.0], numbers(count)[None], 0.8, 12, 0.9)
    ids, _ = run(face, arrays)
    expected = np.zeros(30)
    kept, weights = candidates(
        row, Sampling(temperature=float(np.float32(0.8)), top_k=12, top_p=float(np.float32(0.9)))
    )
    expected[kept] = weights / weights.sum()
    assert chi_square(ids, expected) < 4
    # The measure sees what is wrong: a hundredth moved from one id to another.
    wrong = expected.copy()
    wrong[kept[0]], wrong[kept[-1]] = wrong[kept[0]] - 0.01, wrong[kept[-1]] + 0.01
    assert chi_square(ids, wrong) > 4


@pytest.mark.parametrize("face", FACES)
def test_temperature_0_is_argmax_and_scale_1_is_cond(face: str) -> None:
    rng = np.random.default_rng(4)
    cond, uncond = rng.integers(-3, 4, (2, 6, 40)), rng.standard_normal((2, 6, 40)) * 1e30
    u = rng.random((2, 6))
    ids, probs = run(face, inputs(cond, uncond, [1.0, 1.0], u, 0.0, 3, 0.5))
    assert (ids == cond.argmax(-1)).all()
    assert (probs == (np.arange(40) == ids[..., None])).all()
    plain = run(face, inputs(cond, cond, [1.0, 1.0], u))
    beside = run(face, inputs(cond, uncond, [1.0, 1.0], u))
    assert (plain[0] == beside[0]).all()
    assert (plain[1] == beside[1]).all()


@both
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(6)
    arrays = inputs(*rng.standard_normal((2, 3, 4, 500)), [2.0, 1.0, 3.0], rng.random((3, 4)), 0.9, 100, 0.9)
    ids, probs = run("kernel", arrays)
    for b, m in np.ndindex(3, 4):
        alone = [a[b : b + 1, m : m + 1] for a in arrays[:2]]
        one, own = run("kernel", [*alone, arrays[2][b : b + 1], arrays[3][b : b + 1, m : m + 1], *arrays[4:]])
        assert one[0, 0] == ids[b, m]
        assert own[0, 0].tobytes() == probs[b, m].tobytes()


@both
def test_the_kernel_is_several_times_faster_than_its_body() -> None:
    rng = np.random.default_rng(7)
    arrays = inputs(*rng.standard_normal((2, 1, 8, 16384)), [4.0], rng.random((1, 8)), 1.0, 2000, 0.95)
    best = {}
    for face in ("body", "kernel"):
        run(face, arrays)
        spent = []
        for _ in range(5):
            start = time.process_time()
            run(face, arrays)
            spent.append(time.process_time() - start)
        best[face] = min(spent)
    assert best["body"] > 5 * best["kernel"]  # measured: 34 times
