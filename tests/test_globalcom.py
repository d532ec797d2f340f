"""GlobalCom2: class scores against transformers, scores and quotas in the graph against the reference, and the paper's properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reduction_graphs import LIBRARIES, class_scores, globalcom, layout_feeds, run

from farthing.errors import RequestError
from farthing.export.graph import token_reduction as tr
from farthing.export.graph.writer import GraphWriter, TensorInfo
from farthing.models import token_reduction as reference
from farthing.runtime.anyres import AnyRes, anyres
from farthing.runtime.keep import keep_count

LAYOUTS = [
    ((600, 600), (2, 2), 6),
    ((480, 640), (2, 2), 6),
    ((300, 1000), (1, 3), 6),
    ((1000, 260), (3, 1), 6),
    ((336, 672), (1, 2), 5),
    ((100, 1000), (1, 3), 6),
    ((200, 1000), (2, 2), 8),
    ((600, 700), (2, 3), 7),  # a grid that the tiles do not divide
]
BY_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: "kernels" if path else "bodies")


def graph_picks(folder: Path, layout: AnyRes, scores: np.ndarray, k: int, keep: float, library: Path | None = None):
    rows = np.arange(layout.order.size * 3, dtype=np.float32).reshape(1, -1, 3)
    feeds = {"cls_score": scores.astype(np.float32), "rows": rows, **layout_feeds(layout)}
    kept, quota, score = run(globalcom(folder, layout.grid, k, keep), feeds, library)
    return kept[0].tolist(), quota[0].tolist(), score[0]


@BY_LIBRARY
@pytest.mark.parametrize("keep", (0.1, 0.25, 0.6))
@pytest.mark.parametrize(("original", "tiles", "grid"), LAYOUTS, ids=str)
def test_picks_and_quotas_equal_the_reference(tmp_path: Path, library, original, tiles, grid, keep) -> None:
    layout = anyres(original, tiles, grid)
    scores = np.random.default_rng(grid).normal(0.5, 1.0, (layout.views, grid * grid)).astype(np.float32)
    k = keep_count(layout.candidates, 1 - keep) + layout.newlines
    wanted, quotas = reference.globalcom(scores, original, tiles, keep=keep, k=k)
    kept, quota, _ = graph_picks(tmp_path, layout, scores, k, keep, library)
    assert quota == quotas and sum(quota) == k - layout.newlines
    assert kept == wanted
    assert set(np.flatnonzero(layout.group[0] == -2)) <= set(kept)


@BY_LIBRARY
@pytest.mark.parametrize("kind", ("ties", "constant", "zero", "negative", "huge", "one rich tile"))
def test_odd_scores(tmp_path: Path, library, kind: str) -> None:
    original, tiles, grid, keep = (480, 640), (2, 2), 6, 0.25
    layout = anyres(original, tiles, grid)
    rng = np.random.default_rng(1)
    shape = (layout.views, grid * grid)
    scores = {
        "ties": rng.integers(0, 3, shape) * 1.0,
        "constant": np.full(shape, 2.0),
        "zero": np.zeros(shape),
        "negative": rng.normal(-3, 1, shape),
        "huge": rng.normal(0, 1e15, shape),
        "one rich tile": rng.normal(0, 1, shape) + 1e3 * (np.arange(36) == 0),
    }[kind].astype(np.float32)
    k = keep_count(layout.candidates, 1 - keep) + layout.newlines
    wanted, quotas = reference.globalcom(scores, original, tiles, keep=keep, k=k)
    kept, quota, score = graph_picks(tmp_path, layout, scores, k, keep, library)
    assert quota == quotas and len(set(kept)) == k and np.isfinite(score).all()
    if kind != "ties" and kind != "constant":
        assert kept == wanted
    else:
        # Sums of equal parts differ in their last bit between double and float: the rows must be as good, whichever they are.
        for view in range(layout.views):
            mine, theirs = (sorted(score[[i for i in rows if layout.group[0, i] == view]]) for rows in (kept, wanted))
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@BY_LIBRARY
@pytest.mark.parametrize("kept_rows", (1, 2, 7, "all but one", "all"))
def test_budgets_from_one_row_to_all(tmp_path: Path, library, kept_rows) -> None:
    original, tiles, grid = (300, 1000), (1, 3), 6
    layout = anyres(original, tiles, grid)
    n = {"all but one": layout.candidates - 1, "all": layout.candidates}.get(kept_rows, kept_rows)
    scores = np.random.default_rng(5).normal(0, 1, (layout.views, grid * grid)).astype(np.float32)
    keep, k = n / layout.candidates, n + layout.newlines
    kept, quota, _ = graph_picks(tmp_path, layout, scores, k, keep, library)
    wanted, quotas = reference.globalcom(scores, original, tiles, keep=keep, k=k)
    assert (kept, quota) == (wanted, quotas) and sum(quota) == n
    if kept_rows == "all":
        assert kept == list(range(layout.order.size))


def test_an_image_whose_tiles_are_all_letterbox_keeps_its_thumbnail(tmp_path: Path) -> None:
    layout = anyres((10, 1000), (1, 3), 6)
    assert layout.empty == (1, 2, 3)
    scores = np.random.default_rng(5).normal(0, 1, (4, 36)).astype(np.float32)
    kept, quota, score = graph_picks(tmp_path, layout, scores, 9, 0.25)
    assert quota == [9, 0, 0, 0] and kept == sorted(np.argsort(-scores[0])[:9].tolist()) and np.isfinite(score).all()


def test_the_rates_have_the_ratio_as_mean_and_the_papers_bounds() -> None:
    rng = np.random.default_rng(2)
    for tiles in ((2, 2), (1, 3), (3, 1), (1, 2)):
        n = tiles[0] * tiles[1]
        for spread in (0.01, 1, 100):
            rates = reference.globalcom_rates(rng.normal(0, spread, (24, 24)), tiles, 0.25)
            assert rates.mean() == pytest.approx(0.25, rel=1e-9)
            assert (rates >= 0.25 * (1 - 1 / n) - 1e-9).all() and (rates <= 0.25 * (2 - 1 / n) + 1e-9).all()


def test_a_constant_thumbnail_gives_every_tile_the_same(tmp_path: Path) -> None:
    layout = anyres((600, 600), (2, 2), 6)
    scores = np.random.default_rng(3).normal(0, 1, (5, 36)).astype(np.float32)
    scores[0] = 0.7
    _, quota, _ = graph_picks(tmp_path, layout, scores, 45 + layout.newlines, 0.25)
    assert quota == [9, 9, 9, 9, 9]


def test_what_the_thumbnail_calls_rich_gets_more(tmp_path: Path) -> None:
    layout = anyres((600, 600), (2, 2), 6)
    scores = np.random.default_rng(3).normal(0, 1, (5, 36)).astype(np.float32)
    scores[0, np.flatnonzero(layout.regions()[3])] += 5  # lower left
    _, quota, _ = graph_picks(tmp_path, layout, scores, 45 + layout.newlines, 0.25)
    assert quota[3] == max(quota) > 2 * quota[1] and quota[0] == 9 and sum(quota) == 45


def test_the_authors_rounding_gives_nearly_as_many(tmp_path: Path) -> None:
    """With tiles of one size int() loses a row per tile at most; that is what a fixed number saves."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        scores = rng.normal(0, 0.3, (5, 576))
        layout = anyres((600, 600), (2, 2), 24)
        k = keep_count(layout.candidates, 0.75) + layout.newlines
        rows, theirs = reference.globalcom(scores, (600, 600), (2, 2), keep=0.25, k=None, exact_repo=True)
        _, ours = reference.globalcom(scores, (600, 600), (2, 2), keep=0.25, k=k)
        assert theirs[0] == ours[0] == 144 and sum(ours) == 720 and len(rows) == sum(theirs) + layout.newlines
        assert 0 <= sum(ours) - sum(theirs) <= 4 and max(abs(a - b) for a, b in zip(ours, theirs)) <= 1


def layer(width: int, heads: int) -> tr.LastLayer:
    rng = np.random.default_rng(6)
    shapes = [(width,), (width,), (width, width), (width,), (width, width), (width,)]
    return tr.LastLayer(*((rng.standard_normal(s) / len(s)).astype(np.float32) for s in shapes), heads=heads)


@pytest.mark.parametrize("kind", ("logits", "probs"))
def test_class_scores_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.CLIPVisionConfig(**sizes, image_size=20, patch_size=5, attn_implementation="eager")
    model = transformers.CLIPVisionModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen = {}
    last = model.vision_model if hasattr(model, "vision_model") else model
    last = last.encoder.layers[-1]
    last.self_attn.q_proj.register_forward_hook(lambda _, i, o: seen.update(q=o))
    last.self_attn.k_proj.register_forward_hook(lambda _, i, o: seen.update(k=o))
    with torch.no_grad():
        out = model(torch.randn(2, 3, 20, 20), output_hidden_states=True, output_attentions=True)
    if kind == "probs":
        wanted = out.attentions[-1].mean(1)[:, 0, 1:]
    else:
        q, k = (seen[n].unflatten(-1, (4, 8)).transpose(1, 2) for n in "qk")
        wanted = (q @ k.transpose(2, 3) * 8**-0.5).mean(1)[:, 0, 1:]
    own = tr.LastLayer(
        *(
            t.detach().numpy()
            for t in (
                last.layer_norm1.weight,
                last.layer_norm1.bias,
                last.self_attn.q_proj.weight,
                last.self_attn.q_proj.bias,
                last.self_attn.k_proj.weight,
                last.self_attn.k_proj.bias,
            )
        ),
        heads=4,
        epsilon=config.layer_norm_eps,
    )
    got = run(class_scores(tmp_path, own, 16, kind), {"hidden": out.hidden_states[-2].numpy()})[0]
    np.testing.assert_allclose(got, wanted.numpy(), atol=2e-6 * np.abs(wanted).max().item())


def test_refusals(tmp_path: Path) -> None:
    good = layer(8, 2)
    for change, says in (
        ({"heads": 3}, "heads is 3, expected a divisor of 8"),
        ({"k_weight": np.zeros((8, 4), np.float32)}, "shape of k_weight is (8, 4), expected (8, 8)"),
        ({"q_bias": np.zeros(4, np.float32)}, "shape of q_bias"),
    ):
        with pytest.raises(RequestError) as error:
            class_scores(tmp_path, tr.LastLayer(**{**vars(good), **change}), 4, "logits")
        assert says in str(error.value)
    with pytest.raises(RequestError, match="kind of class scores is 'softmax', expected logits or probs"):
        class_scores(tmp_path, good, 4, "softmax")
    for keep in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(RequestError, match="part to keep"):
            globalcom(tmp_path, 4, 5, keep)


@pytest.fixture(scope="module")
def quota_session(tmp_path_factory):
    import onnxruntime

    with GraphWriter(tmp_path_factory.mktemp("quota"), "quota") as w:
        w.inputs += [TensorInfo(n, "float32", ("T",)) for n in ("weights", "counts")]
        w.inputs += [TensorInfo("budget", "float32", (1,)), TensorInfo("ids", "int64", ("T",))]
        tr.add_quotas(w, "quota", weights="weights", counts="counts", budget="budget", ids="ids")
        w.outputs.append(TensorInfo("quota", "int64", ("T",)))
        w.save()
        return onnxruntime.InferenceSession(str(w.path), providers=["CPUExecutionProvider"])


def quotas(session, weights, counts, budget: int) -> list[int]:
    feeds = {"weights": np.array(weights, np.float32), "counts": np.array(counts, np.float32)}
    feeds |= {"budget": np.array([budget], np.float32), "ids": np.arange(len(counts))}
    return session.run(None, feeds)[0].tolist()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 576)), min_size=1, max_size=12),
    st.floats(0, 1.2),
    st.booleans(),
)
def test_quotas_add_up_and_stay_within_their_views(quota_session, views, part, equal) -> None:
    counts = [n for _, n in views]
    weights = [0.0 if n == 0 else 1.0 if equal else w / 64 for w, n in views]
    budget = int(part * sum(counts))
    got = quotas(quota_session, weights, counts, budget)
    assert sum(got) == min(budget, sum(counts)) and all(0 <= q <= n for q, n in zip(got, counts))
    wanted = reference.share(weights, counts, min(budget, sum(counts)))
    if equal:
        assert got == wanted
    else:  # a remainder that is a tie in double may be none in float
        assert max(abs(a - b) for a, b in zip(got, wanted)) <= 1


@pytest.mark.parametrize(
    ("weights", "counts", "budget", "wanted"),
    [
        ([1, 1, 1], [10, 10, 10], 10, [4, 3, 3]),  # ties to the first
        ([1, 1, 1], [10, 2, 10], 15, [7, 2, 6]),  # the excess of a small view goes to the others
        ([3, 1], [4, 40], 12, [4, 8]),
        ([1, 2, 4], [5, 5, 50], 14, [2, 4, 8]),
        ([1, 0, 1], [3, 0, 3], 6, [3, 0, 3]),
        ([1, 1], [3, 4], 0, [0, 0]),
        ([1, 1], [3, 4], 9, [3, 4]),
        ([1e-6, 1e6], [100, 100], 120, [20, 100]),
        ([5], [7], 3, [3]),
    ],
)
def test_quotas_by_hand(quota_session, weights, counts, budget, wanted) -> None:
    assert (
        quotas(quota_session, weights, counts, budget)
        == wanted
        == reference.share(weights, counts, min(budget, sum(counts)))
    )
