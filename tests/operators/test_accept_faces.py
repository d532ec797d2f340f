"""GroupedAccept's faces beyond the parity table: no row near a boundary, ids that body and kernel share, bits that groups of one share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.plugins import cases, library_path, operator
from farthing.plugins.case import Case
from farthing.plugins.check.cuda_harness import CudaHarness
from farthing.plugins.check.graph import model
from farthing.plugins.check.onnxruntime_faces import execute, session
from farthing.plugins.grouped_accept.cases import MARGIN, extras, uniforms, window
from farthing.plugins.grouped_accept.reference import _prefix, reference, residual
from farthing.plugins.grouped_accept.rules import single

needs_kernels = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")
MODES = ("exact", "grouped", "partition", "neighbourhood")


def test_no_row_of_the_table_is_near_a_boundary() -> None:
    for case in cases("GroupedAccept"):
        if case.refuses is not None:
            continue
        inputs = [None if a is None else torch.from_numpy(a) for a in case.inputs] + [None] * (6 - len(case.inputs))
        p, q, draft, numbers, _, table = inputs
        p, q, numbers = p.double(), q.double(), numbers.double()
        how = operator("GroupedAccept").with_defaults(case.attributes)
        accepted, _, chance = reference(p, q, draft, numbers, *inputs[4:], **how)
        judged = slice(0, int(accepted) + 1)
        near = (numbers[:-1] - chance)[judged].abs()
        assert bool(((near > MARGIN) | (chance[judged] == 1) | (chance[judged] == 0)).all()), case.name
        i = int(accepted)
        row = torch.where(p[i] > 0, p[i], 0.0)
        if i < len(draft):
            theirs, x = torch.where(q[i] > 0, q[i], 0.0), int(draft[i])
            taken = []
            if case.attributes["mode"] == "neighbourhood":
                taken = _prefix(row, x, table, single(how["delta"]), how["relative"])
            row = residual(row, theirs, x, case.attributes["mode"], taken, table)
        running = row.cumsum(0) / row.sum()
        if numbers[-1] > 0 and bool(running.isfinite().all()):
            assert float((running - numbers[-1]).abs().min()) > MARGIN / 10, case.name


@needs_kernels
@pytest.mark.parametrize("mode", MODES)
def test_body_and_kernel_draw_the_same_codes(mode: str) -> None:
    """With sums in float32 one draw in 126 would differ at this size: the body sums integers."""
    rng = np.random.default_rng(9)
    given = [*window(rng, 4, 16384), *extras(mode, rng, 16384)]
    case = Case("GroupedAccept", "draws", given, {"mode": mode})
    names = ["p", "q", "draft", "uniforms"] + (["table"] if len(given) == 6 else [])
    feeds = dict(zip(names, [a for a in given if a is not None], strict=True))
    faces = [session(model(case, function=None if not k else False), kernels=k) for k in (False, True)]
    for _ in range(40 if mode == "partition" else 150):
        feeds["uniforms"] = uniforms(rng, 5)
        body, kernel = (face.run(None, feeds) for face in faces)
        assert body[0] == kernel[0] and body[1] == kernel[1]


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 6), codes=st.integers(1, 90), size=st.integers(1, 100))
def test_kernel_equals_the_reference(seed: int, length: int, codes: int, size: int) -> None:
    """Any size, against the sort of the reference; the walk against its own chances."""
    rng = np.random.default_rng(seed)
    given = window(rng, length, codes)
    if seed % 2:  # ties
        given[0], given[1] = (np.round(a * 16) / 16 for a in given[:2])
    got = execute(
        Case("GroupedAccept", "any", given, {"mode": "grouped", "group_size": size}), kernels=True, function=False
    )
    want = reference(*[torch.from_numpy(a) for a in given], mode="grouped", group_size=size)
    np.testing.assert_allclose(got["chance"], want[2].numpy(), rtol=1e-6)
    stands = given[3][:-1] < got["chance"]
    assert got["accepted"][0] == (length if stands.all() else stands.argmin())


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=needs_kernels)])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 5), codes=st.integers(1, 300))
def test_a_group_of_one_is_the_exact_rule_bit_for_bit(kernels: bool, seed: int, length: int, codes: int) -> None:
    given = window(np.random.default_rng(seed), length, codes)
    function = False if kernels else None
    exact = execute(Case("GroupedAccept", "exact", given, {"mode": "exact"}), kernels=kernels, function=function)
    one = {"mode": "grouped", "group_size": 1}
    grouped = execute(Case("GroupedAccept", "one", given, one), kernels=kernels, function=function)
    for name, array in exact.items():
        assert array.tobytes() == grouped[name].tobytes()


@needs_kernels
@pytest.mark.parametrize("mode", MODES)
def test_drafts_do_not_influence_each_other(mode: str) -> None:
    """The chance of a draft is the same bit for bit in a window of its own, and in one that wakes threads."""
    rng = np.random.default_rng(11)
    given = [*window(rng, 9, 16384), *extras(mode, rng, 16384)]
    together = execute(Case("GroupedAccept", "all", given, {"mode": mode}), kernels=True, function=False)["chance"]
    for i in range(9):
        alone = [given[0][i : i + 2], given[1][i : i + 1], given[2][i : i + 1], given[3][i : i + 2], *given[4:]]
        chance = execute(Case("GroupedAccept", "one", alone, {"mode": mode}), kernels=True, function=False)["chance"]
        assert chance.tobytes() == together[i : i + 1].tobytes()


def _wrong(mode: str) -> tuple[Case, Case]:
    """A window with drafts and entries that are no codes, and the same with them clamped."""
    rng = np.random.default_rng(12)
    p, q, _, numbers = window(rng, 4, 30)
    numbers[:-1] *= 0.01
    draft = np.array([-5, 30, 2**40, -(2**40)])
    behind = extras(mode, rng, 30)
    if behind:
        behind[1][::4, 0] = [31, -2, 2**40, -(2**50), 30, 99, -1, 500]
    good = [a if a is None else a.clip(0, 29) for a in behind]
    rows = [[p, q, draft, numbers, *behind], [p, q, draft.clip(0, 29), numbers, *good]]
    wrong, right = (Case("GroupedAccept", "clamped", given, {"mode": mode}) for given in rows)
    return wrong, right


@pytest.mark.parametrize("mode", MODES)
def test_devices_and_bodies_clamp_what_they_cannot_refuse(mode: str) -> None:
    wrong, right = _wrong(mode)
    got, want = execute(wrong, kernels=False), execute(right, kernels=False)
    for name, array in want.items():
        assert array.tobytes() == got[name].tobytes()
    harness = CudaHarness()
    if reason := harness.unavailable():
        pytest.skip(reason)
    shapes = {name: array.shape for name, array in want.items()}
    for name, array in harness._call(wrong, wrong.inputs, shapes, False).items():
        np.testing.assert_allclose(array, want[name], rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(MODES), codes=st.integers(2, 70))
def test_no_number_leads_out_of_bounds(seed: int, mode: str, codes: int) -> None:
    """Rows of NaN, infinities, negative and tiny numbers: every face gives a count, a code and probabilities."""
    rng = np.random.default_rng(seed)
    odd = np.array([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-42, 3e38, 0.25], np.float32)
    p, q = (rng.choice(odd, (rows, codes), p=rng.dirichlet(np.ones(8))) for rows in (4, 3))
    case = Case(
        "GroupedAccept",
        "odd",
        [p, q, rng.integers(0, codes, 3), uniforms(rng, 4), *extras(mode, rng, codes)],
        {"mode": mode, "group_size": 1 + seed % 20},
    )
    results = [execute(case, kernels=False)]
    if library_path() is not None:
        results.append(execute(case, kernels=True, function=False))
    harness = CudaHarness()
    if harness.unavailable() is None:
        results.append(harness._call(case, case.inputs, {n: a.shape for n, a in results[0].items()}, False))
    for got in results:
        assert 0 <= got["accepted"][0] <= 3 and 0 <= got["next"][0] < codes
        assert bool(((got["chance"] >= 0) & (got["chance"] <= 1)).all())
