"""ZOO-Prune: sensitivities of a projector against its Jacobian and the paper's finite differences, and the whole method on several views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reduction_graphs import LIBRARIES, projector, run, sensitivity, zoo
from torch.nn.functional import gelu, linear

from farthing.errors import RequestError
from farthing.export.graph import token_reduction as tr
from farthing.export.graph.token_reduction.sensitivity import directions
from farthing.export.graph.writer import GraphWriter, TensorInfo
from farthing.models import token_reduction as reference
from farthing.runtime.anyres import anyres


def torch_projector(p: tr.Projector, b2: np.ndarray | None = None, dtype: torch.dtype = torch.float64) -> reference.Map:
    w1, b1, w2 = (torch.from_numpy(a).to(dtype) for a in (p.w1, p.b1, p.w2))
    last = None if b2 is None else torch.from_numpy(b2).to(dtype)
    return lambda v: linear(gelu(linear(v, w1, b1)), w2, last)


def ranks(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation; no ties here."""
    return float(np.corrcoef(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))[0, 1])


def features(seed: int, views: int, tokens: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((views, tokens, width)).astype(np.float32)


def test_exact_is_the_norm_of_the_jacobian(tmp_path: Path) -> None:
    p, b2 = projector(1, 12, 20, 16)
    v = features(2, 2, 9, 12)
    got = run(sensitivity(tmp_path, p), {"features": v})[0]
    f = torch_projector(p, b2)
    wanted = np.stack([reference.sensitivity_exact(f, torch.from_numpy(view).double()).numpy() for view in v])
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_exact_with_units_that_do_nothing(tmp_path: Path) -> None:
    """Then the matrix in the middle is singular and has no Cholesky factor."""
    p, b2 = projector(1, 12, 20, 16)
    w1, w2 = p.w1.copy(), p.w2.copy()
    w1[3], w2[:, 7] = 0, 0
    p, v = tr.Projector(w1, p.b1, w2), features(2, 1, 9, 12)
    got = run(sensitivity(tmp_path, p), {"features": v})[0]
    wanted = reference.sensitivity_exact(torch_projector(p, b2), torch.from_numpy(v[0]).double()).numpy()
    np.testing.assert_allclose(got[0], wanted, rtol=2e-6)


@pytest.mark.parametrize("count", (1, 8, 64))
def test_zo_is_the_papers_finite_difference(tmp_path: Path, count: int) -> None:
    p, b2 = projector(1, 12, 20, 16)
    v = features(2, 2, 9, 12)
    got = run(sensitivity(tmp_path, p, estimator="zo", count=count, seed=5), {"features": v})[0]
    u = torch.from_numpy(directions(count, 12, 5))
    np.testing.assert_allclose(u.norm(dim=1), np.ones(count), rtol=1e-9)
    f = torch_projector(p, b2)
    wanted = np.stack([reference.sensitivity_zo(f, torch.from_numpy(view).double(), u, 0.01).numpy() for view in v])
    np.testing.assert_allclose(got, wanted, rtol=2e-5)


@pytest.mark.parametrize(
    ("bias", "count", "least"), ((-1, 8, 0.95), (-1, 64, 0.993), (0, 8, 0.8), (0, 64, 0.965)), ids=str
)
def test_zo_ranks_tokens_as_exact_does(tmp_path: Path, bias: int, count: int, least: float) -> None:
    """The noise of the estimate is the same, so how well it ranks depends on how much tokens differ: by 12 % of the mean with units that
    are mostly off (correlation .983 with 8 directions, .998 with 64), by 3 % with units that are on half of the time (.887 and .981).
    """
    p, _ = projector(7, 64, 256, 256)
    p = tr.Projector(p.w1, p.b1 + np.float32(bias), p.w2)
    v = features(8, 1, 300, 64) * np.exp(0.5 * features(9, 1, 300, 1))  # of different lengths
    exact = run(sensitivity(tmp_path, p), {"features": v})[0]
    zo = run(sensitivity(tmp_path, p, stem="zo", estimator="zo", count=count), {"features": v})[0]
    assert ranks(zo[0], exact[0]) > least
    assert abs((zo / exact).mean() - 1) < (0.05 if count == 8 else 0.01)


def test_half_precision_cancels_unless_the_step_is_larger() -> None:
    """Why the graph computes the difference in float32: in float16 a step of 0.01 loses digits and adds a bias, one of 0.1 does not."""
    p, b2 = projector(7, 64, 256, 256)
    v = torch.from_numpy(features(8, 1, 300, 64)[0])
    u = torch.from_numpy(directions(64, 64, 0))
    wide = reference.sensitivity_zo(torch_projector(p, b2), v.double(), u, 0.01).numpy()
    half = torch_projector(p, b2, torch.float16)
    small, large = (reference.sensitivity_zo(half, v.half(), u.half(), h).float().numpy() for h in (0.01, 0.1))
    assert ranks(small, wide) < ranks(large, wide) and ranks(large, wide) > 0.99
    assert small.mean() / wide.mean() > 1.02 > large.mean() / wide.mean() > 0.98


def test_low_rank_keeps_the_order_and_full_rank_the_numbers(tmp_path: Path) -> None:
    p, _ = projector(3, 32, 64, 48)
    v = features(4, 1, 80, 32)
    full, same, low = (
        run(sensitivity(tmp_path, p, stem=f"r{r}", estimator="zo", count=16, rank=r), {"features": v})[0]
        for r in (0, 48, 24)
    )
    np.testing.assert_allclose(same, full, rtol=1e-5)
    assert (low < full).all() and ranks(low[0], full[0]) > 0.9


def test_the_same_seed_gives_the_same_graph(tmp_path: Path) -> None:
    p, _ = projector(3, 8, 12, 10)
    made = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        made.append(sensitivity(tmp_path / folder, p, estimator="zo", seed=3).read_bytes())
    other = sensitivity(tmp_path, p, estimator="zo", seed=4).read_bytes()
    assert made[0] == made[1] != other


def test_constants_are_lent_to_graphs_of_other_sizes(tmp_path: Path) -> None:
    p, _ = projector(3, 64, 96, 48)
    v = {"features": features(5, 1, 7, 64)}
    for estimator in ("exact", "zo"):
        with GraphWriter(tmp_path, f"{estimator}-first") as lender:
            lender.inputs.append(TensorInfo("features", "float32", ("T", "N", 64)))
            tr.add_sensitivity(lender, "features", "s", projector=p, estimator=estimator)
            lender.outputs.append(TensorInfo("s", "float32", ("T", "N")))
            lender.save()
        second = sensitivity(tmp_path, p, stem=f"{estimator}-second", estimator=estimator, lender=lender)
        assert not second.with_name(second.name + ".data").exists()
        np.testing.assert_array_equal(run(second, v)[0], run(lender.path, v)[0])


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: "kernels" if path else "bodies")
@pytest.mark.parametrize(
    ("original", "tiles", "grid", "budget"),
    [
        ((600, 600), (2, 2), 5, 40),
        ((600, 600), (2, 2), 5, 41),  # does not divide by the views
        ((250, 1000), (1, 3), 6, 60),  # letterbox: tiles smaller than the thumbnail
        ((100, 1000), (1, 3), 6, 39),  # tiles of 12 rows: k_frame is clamped and the rest goes to the thumbnail
        ((10, 1000), (1, 3), 6, 20),  # nothing but the thumbnail is left
        ((1000, 300), (3, 1), 4, 4),  # one of each view
        ((1000, 300), (3, 1), 4, 1),  # one of all
        ((600, 600), (2, 2), 4, 79),  # all but one
        ((600, 600), (2, 2), 4, 80),  # all
    ],
)
def test_the_whole_method_on_several_views(tmp_path: Path, library: Path | None, original, tiles, grid, budget) -> None:
    p, b2 = projector(11, 16, 24, 20)
    layout = anyres(original, tiles, grid)
    k = min(budget, layout.candidates) + layout.newlines
    data = {"features": features(12, layout.views, grid * grid, 16), "order": layout.order, "group": layout.group}
    kept, rows, s, x = run(zoo(tmp_path, p, b2, grid * grid, k), data, library)
    f = torch_projector(p, b2)
    wanted_s = [reference.sensitivity_exact(f, torch.from_numpy(view).double()).numpy() for view in data["features"]]
    np.testing.assert_allclose(s, wanted_s, rtol=1e-6)
    places = [np.flatnonzero(layout.group[0] == t) for t in range(layout.views)]
    scores = np.append(s.reshape(-1), 0)[layout.order].astype(np.float64)
    views = [(torch.from_numpy(x[0, at].astype(np.float64)), torch.from_numpy(scores[at])) for at in places]
    picks, quotas = reference.zoo_prune(views, k - layout.newlines)
    assert sum(quotas) == k - layout.newlines and all(q <= len(at) for q, at in zip(quotas, places))
    wanted = sorted([*np.flatnonzero(layout.group[0] == -2), *(at[i] for at, own in zip(places, picks) for i in own)])
    np.testing.assert_array_equal(kept[0], wanted)
    np.testing.assert_array_equal(rows[0], x[0, wanted])
    below = [q for q, at in zip(quotas, places) if q < len(at)]
    assert not below or (
        max(quotas) >= max(below) and max(below) - min(below) <= 1
    )  # equal, but for views that have fewer


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"activation": "relu"}, {}, "activation of the projector is 'relu', expected 'gelu'"),
        ({"activation": "gelu_tanh"}, {}, "activation of the projector is 'gelu_tanh'"),
        ({"w2": np.zeros((4, 9), np.float32)}, {}, "expected two linear layers, [H,dv] and [D,H]"),
        ({"w1": np.zeros((12, 8, 3), np.float32)}, {}, "expected two linear layers"),
        ({"b1": np.zeros(3, np.float32)}, {}, "shape of b1 is (3,), expected (12,)"),
        ({}, {"estimator": "exactly"}, "estimator is 'exactly', expected exact or zo"),
        ({}, {"estimator": "zo", "count": 0}, "directions and step is 0 and 0.01"),
        ({}, {"estimator": "zo", "step": 0.0}, "directions and step is 64 and 0.0"),
        ({}, {"estimator": "zo", "rank": 11}, "rank is 11, expected 0 (all) to 10"),
    ],
)
def test_other_projectors_and_settings_are_refused(tmp_path: Path, change: dict, options: dict, says: str) -> None:
    p, _ = projector(3, 8, 12, 10)
    with pytest.raises(RequestError) as error:
        sensitivity(tmp_path, tr.Projector(**{**vars(p), **change}), **options)
    assert says in str(error.value)
