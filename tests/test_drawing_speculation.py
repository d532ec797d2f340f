"""Speculative drawing: what exact acceptance draws is the model's distribution, what the others move is what is reported."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import drawn_models as tiny
import numpy as np
import pytest
import torch

from farthing.errors import RequestError
from farthing.export.graph.drawing import Acceptance
from farthing.plugins import library_path, operator
from farthing.runtime.drawing import Drawer, Guidance
from farthing.runtime.drawing.drafters import Jacobi
from farthing.runtime.drawing.native import core_module
from farthing.runtime.drawing.result import Speculation
from farthing.runtime.drawing.speculate import Account
from farthing.runtime.drawing.uniforms import Stream, uniforms

RUNS = 2000
HOW: dict[str, Any] = {"guidance": Guidance(1.5, schedule="linear"), "top_k": 8}


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of ``counts`` [V] under probabilities ``expected`` [V]; values that cannot occur must not."""
    assert not counts[expected == 0].any()
    kept = expected > 0
    wanted = expected[kept] * counts.sum()
    statistic = ((counts[kept] - wanted) ** 2 / wanted).sum()
    half = torch.tensor([(kept.sum() - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@functools.cache
def marginals(label: int) -> np.ndarray:
    """float64 [4,V]: the distribution of each code of an image of four, by all sequences of codes before it, in PyTorch."""
    model, sample, v = tiny.model("small"), operator("GuidedSample").reference, tiny.CODES
    chances = np.ones(1)
    made = np.zeros((4, v))
    for i in range(4):
        before = np.array(list(itertools.product(range(v), repeat=i)), np.int64).reshape(v**i, i)
        with torch.no_grad():
            c, u = (model(torch.from_numpy(np.insert(before, 0, v + k, axis=1)))[:, -1:] for k in (label, tiny.CLASSES))
        scale = torch.full((len(before),), HOW["guidance"].at(i, 4))
        rest = (torch.ones(1), torch.tensor([HOW["top_k"]]), torch.ones(1))
        probs = sample(c, u, scale, torch.zeros(len(before), 1), *rest)[1][:, 0].double().numpy()
        probs /= probs.sum(-1, keepdims=True)
        made[i] = chances @ probs
        chances = (chances[:, None] * probs).ravel()
    return made


def counted(path: Path, mode: str, **how: Any) -> tuple[np.ndarray, Speculation | None]:
    """int64 [4,V]: how often each code was drawn in RUNS images of class 1; by the loops in C++ where they are, being faster."""
    drawn = Drawer(path, threads=1).draw([1] * RUNS, seed=77, decode=mode, **HOW, **how)
    return np.stack([np.bincount(codes, minlength=tiny.CODES) for codes in drawn.codes.T]), drawn.speculation


@functools.cache
def small() -> Path:
    return tiny.jacobi("small", "small-jacobi", Acceptance("exact"), Acceptance("grouped", group_size=9))


@pytest.mark.parametrize(("source", "mode"), [("jacobi", "plain"), ("jacobi", "exact"), ("eagle", "exact")])
def test_exact_acceptance_keeps_the_distribution(source: str, mode: str) -> None:
    path = small() if source == "jacobi" else tiny.eagle("small")
    counts, how = counted(path, mode)
    p_values = [chi_square(c, e) for c, e in zip(counts, marginals(1), strict=True)]
    assert min(p_values) > 0.002, p_values  # four tests; the seed is fixed
    if how is not None:
        assert sum(how.passes) < 4 * RUNS and how.accepted > RUNS / 4 and how.total_variation == 0


def test_grouped_acceptance_does_not_and_says_so() -> None:
    counts, how = counted(small(), "grouped")
    p_values = [chi_square(c, e) for c, e in zip(counts, marginals(1), strict=True)]
    assert p_values[0] > 0.002 and min(p_values[1:]) < 1e-6, p_values
    assert how is not None and how.total_variation > 0.02
    # The estimate is given what a draft was drawn from; over all that it may be, a code is off by less.
    moved = [0.5 * np.abs(c / RUNS - e).sum() for c, e in zip(counts, marginals(1), strict=True)]
    assert 0.04 < max(moved) < how.total_variation


def test_groups_of_one_are_exact() -> None:
    alone = tiny.jacobi("llamagen", "groups-of-one", Acceptance("grouped", group_size=1), Acceptance("exact"))
    drawer = tiny.opened(alone)
    found, wanted = (drawer.draw([0, 1, 2, 0], seed=5, decode=mode) for mode in ("grouped", "exact"))
    assert np.array_equal(found.codes, wanted.codes) and found.passes == wanted.passes
    other = tiny.opened(tiny.all_modes()).draw([0, 1, 2, 0], seed=5, decode="grouped")
    assert not np.array_equal(other.codes, wanted.codes)


@pytest.mark.parametrize("source", ["jacobi", "eagle"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_greedy_drafts_change_nothing(source: str, scale: float) -> None:
    drawer = tiny.opened(tiny.all_modes() if source == "jacobi" else tiny.eagle("llamagen"))
    how = {"temperature": 0.0, "guidance": Guidance(scale, schedule="half_linear")}
    plain = drawer.draw([0, 1, 2], decode="plain", **how)
    for mode in ("exact", "neighbourhood"):
        fast = drawer.draw([0, 1, 2], decode=mode, **how)
        assert np.array_equal(fast.codes, plain.codes), mode
        assert fast.speculation is not None and fast.speculation.total_variation == 0
        assert fast.passes <= plain.passes * 3  # passes of plain decoding are of all three images at once


@pytest.mark.parametrize("source", ["jacobi", "eagle"])
def test_accounts(source: str) -> None:
    drawer = tiny.opened(tiny.all_modes() if source == "jacobi" else tiny.eagle("llamagen"))
    for mode in drawer.can.accept:
        for length in (2, 3, 16):
            option = {"draft_window" if source == "jacobi" else "draft_length": length}
            drawn = drawer.draw([0, 1], seed=3, decode=mode, **option)
            how = drawn.speculation
            assert how is not None and drawn.decode == mode
            assert sum(how.passes) == drawn.passes and len(how.passes) == 2
            rounds = drawn.passes - 2  # without the conditions
            # A round commits its accepted drafts and one code more, which the last may have no room for.
            assert 2 * 15 <= how.accepted + rounds <= 2 * 16
            assert how.accepted <= how.judged <= how.accepted + rounds
            assert 0 <= how.total_variation <= 1 and 0 < how.mean_chance <= 1


@pytest.mark.skipif(library_path() is None, reason="libfarthing_ops.so is not built")
@pytest.mark.parametrize("source", ["jacobi", "eagle"])
def test_kernels_and_bodies_give_equal_codes(source: str) -> None:
    path = tiny.all_modes() if source == "jacobi" else tiny.eagle("llamagen")
    kernels, bodies = tiny.opened(path), tiny.opened(path, native=False)
    for mode in kernels.can.modes:
        how = {"seed": 8, "decode": mode, "guidance": Guidance(2.0, schedule="log")}
        assert np.array_equal(kernels.draw([0, 1], **how).codes, bodies.draw([0, 1], **how).codes), mode


@pytest.mark.skipif(core_module() is None, reason="the native core is not built")
@pytest.mark.parametrize("source", ["jacobi", "eagle", "small"])
def test_both_loops_draw_the_same(source: str) -> None:
    """Many images of every mode, among them modes that no recipe exports with these drafts."""
    path = {"jacobi": tiny.all_modes, "eagle": lambda: tiny.eagle("llamagen"), "small": small}[source]()
    native, python = Drawer(path, threads=1), tiny.opened(path, threads=1)
    assert (native.loops, python.loops) == ("native", "python")
    for mode in python.can.modes:
        how = {"seed": 2**64 - 20, "decode": mode, "guidance": Guidance(2.0, schedule="cosine"), "top_p": 0.95}
        a, b = (drawer.draw([0, 1, 2] * 8, **how) for drawer in (native, python))
        assert np.array_equal(a.codes, b.codes) and np.array_equal(a.pixels, b.pixels), mode
        assert a.passes == b.passes and (mode == "plain") == (a.speculation is None)
        if a.speculation and b.speculation:
            assert (a.speculation.accepted, a.speculation.passes) == (b.speculation.accepted, b.speculation.passes)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    drawer = tiny.opened(tiny.all_modes())
    for mode in drawer.can.accept:
        together = drawer.draw([1, 2], seed=2**64 - 1, decode=mode).codes
        alone = [drawer.draw([c], seed=s, decode=mode).codes[0] for c, s in ((1, 2**64 - 1), (2, 0))]
        assert np.array_equal(together, np.stack(alone))


def test_a_window_by_hand() -> None:
    """The numbers of a Jacobi round: new places first, then the refused window's places again."""
    stream, drafter = Stream(21), Jacobi(10)
    drafter.begin({}, 0)
    draft, q = drafter.propose(4, 1, stream)
    assert draft.tolist() == [int(u * 10) for u in uniforms(21, 0, 4)] and q.sum(-1).tolist() == [1] * 4
    p = np.random.default_rng(2).dirichlet(np.ones(10), 5).astype(np.float32)
    drafter.hear({}, p, 1, [draft[0], 7], stream)
    assert stream.taken == 6
    again, q = drafter.propose(4, 3, stream)
    running = np.cumsum(p[2:4], axis=1, dtype=np.float64)
    for k, u in enumerate(uniforms(21, 4, 2)):
        assert again[k] == (running[k] > u * running[k, -1]).argmax() and np.array_equal(q[k], p[2 + k])
    assert again[2:].tolist() == [int(u * 10) for u in uniforms(21, 6, 2)]
    drafter.hear({}, p, 4, [1, 2, 3, 4, 5], stream)
    assert stream.taken == 8


@pytest.mark.parametrize("mode", ["grouped", "neighbourhood"])
def test_the_estimate_is_the_total_variation(mode: str) -> None:
    """Against all drafts and both outcomes: the distribution of the next code, computed, for drafts drawn from q or certain."""
    random = np.random.default_rng(3)
    v = 9
    accept = operator("GroupedAccept").reference
    p, q = random.dirichlet(np.full(v, 0.4), 2).astype(np.float32)
    extra: dict[str, Any] = {
        "mode": "grouped",
        "group_size": 3,
        "prob_tol": 0.15,
        "dist_tol": 0.5,
        "delta": 0.3,
        "relative": 0,
    }
    table = None
    if mode == "neighbourhood":  # its estimate holds for certain guesses
        p = np.array([0.1, 0.05, 0.15, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1], np.float32)
        q = np.eye(v, dtype=np.float32)[2]
        table = torch.tensor([[c for c in range(v) if c != x][:3] for x in range(v)])
        extra["mode"] = mode
    target = torch.from_numpy(np.stack([p, p]))
    made, account = np.zeros(v), Account()
    draws = np.cumsum(np.full(4000, 1 / 4000)) - 1 / 8000
    for x in np.flatnonzero(q):
        given = target, torch.from_numpy(q[None]), torch.tensor([x])
        chance = accept(*given, torch.zeros(2), None, table, **extra)[2].numpy()
        if chance[0] < 1:  # the residual, by many draws of its number
            refused = [
                int(accept(*given, torch.tensor([chance[0], u]), None, table, **extra)[1][0]) for u in draws[::20]
            ]
            made += q[x] * (1 - chance[0]) * np.bincount(refused, minlength=v) / len(refused)
        made[x] += q[x] * chance[0]
        for _ in range(round(10000 * q[x])):
            account.add(target.numpy(), q[None], np.array([x]), 1, chance)
    wanted = 0.5 * np.abs(made - p).sum()
    assert wanted > 0.02
    assert abs(Speculation.of(account, mode).total_variation - wanted) < 0.006


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decode": "vague"}, "decode is 'vague', expected one of plain, exact, grouped, partition, neighbourhood"),
        (
            {"decode": "grouped", "temperature": 0.0},
            "decode at temperature 0 is 'grouped', expected plain, exact, neigh",
        ),
        ({"decode": "partition", "temperature": 0.0}, "decode at temperature 0 is 'partition'"),
        ({"draft_window": 1}, "draft_window is 1, expected 2 to 16"),
        ({"draft_window": 17}, "draft_window is 17, expected 2 to 16"),
        (
            {"draft_length": 3},
            r"draft_length is 3, expected none: the drafts of this bundle \(jacobi\) have a draft_window",
        ),
        ({"prefix": np.zeros((1, 2), np.int64)}, "prefix is given with raster order and decode exact"),
    ],
)
def test_bad_requests(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        tiny.opened(tiny.all_modes()).draw([0], **options)


def test_bad_requests_of_a_drafter() -> None:
    drawer = tiny.opened(tiny.eagle("llamagen"))
    for options, words in (
        (
            {"draft_window": 4},
            r"draft_window is 4, expected none: the drafts of this bundle \(eagle\) have a draft_length",
        ),
        ({"draft_length": 0}, "draft_length is 0, expected 1 to 16"),
        ({"decode": "grouped"}, "decode is 'grouped', expected one of plain, "),
    ):
        with pytest.raises(RequestError, match=words):
            drawer.draw([0], **options)


def test_the_default_is_the_bundles() -> None:
    assert tiny.opened(tiny.all_modes()).draw([0]).decode == "exact"
    assert tiny.opened(tiny.bundle("llamagen")).draw([0]).decode == "plain"
