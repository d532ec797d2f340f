"""Pruning and pooling as graph pieces: counts, buckets, gathers, the linear scorer, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reduction_graphs import LIBRARIES, run

from farthing.errors import RequestError
from farthing.export.graph import token_reduction as tr
from farthing.export.graph.writer import GraphWriter, TensorInfo


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"),
    [
        (576, 0.75, 144),
        (576, 0.0, 576),
        (5, 0.5, 2),
        (7, 0.5, 4),
        (3, 0.9, 1),
        (576, 0.999, 1),
        (10, 1, 0),
        (0, 0.5, 0),
    ],
)
def test_keep_count_rounds_halves_to_even(tokens: int, ratio: float, kept: int) -> None:
    assert tr.keep_count(tokens, ratio) == kept


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_keep_count_refuses_what_is_no_ratio(ratio: object) -> None:
    with pytest.raises(
        RequestError, match=r"ratio of dropped tokens is .*, expected a number from 0 to 1; 0 keeps all"
    ):
        tr.keep_count(576, ratio)


def test_buckets_never_keep_less_than_asked() -> None:
    buckets = tr.keep_buckets([256, 576, 2880], 0.75)
    assert buckets == (64, 144, 720)
    for tokens in range(1, 2881):
        k = tr.choose_bucket(buckets, tokens, 0.75)
        assert k is None or tr.keep_count(tokens, 0.75) <= k < tokens
        if k is None:
            assert min(b for b in buckets if b >= tr.keep_count(tokens, 0.75)) >= tokens
    with pytest.raises(RequestError, match="tokens to keep is 1000, expected at most 720; export a larger bucket"):
        tr.choose_bucket(buckets, 4000, 0.75)
    with pytest.raises(RequestError, match="tokens kept"):
        tr.keep_buckets([576], 1.0)


def test_buckets_count_rows_that_always_stay() -> None:
    """24 line breaks are kept on top of the ratio, and never the reason to choose a bucket that drops nothing."""
    assert tr.choose_bucket((144, 168, 200), 576, 0.75, always=24) == 168
    assert tr.choose_bucket((144, 168, 200), 576, 0.75, always=25) == 200
    assert tr.choose_bucket((700,), 576, 0.0, always=24) is None
    with pytest.raises(RequestError, match="tokens to keep is 201, expected at most 200"):
        tr.choose_bucket((200,), 576, 0.75, always=57)


def pruning_graph(folder: Path, k: int, **extra: object) -> Path:
    with GraphWriter(folder, "prune") as w:
        w.inputs += [
            TensorInfo("scores", "float32", ("B", "N")),
            TensorInfo("embeds", "float32", ("B", "N", 24)),
            TensorInfo("pos", "int64", (3, "B", "N")),
            TensorInfo("deep", "float32", ("B", "N", 5)),
        ]
        made = tr.add_selection(
            w,
            tr.Selection(k, "mmr"),
            scores="scores",
            embeds="embeds",
            positions="pos",
            position_rows=3,
            planes={"deepstack": "deep"},
            prefix="kept",
            **extra,
        )
        w.outputs += [
            TensorInfo(made["index"], "int64", ("B", k)),
            TensorInfo(made["embeds"], "float32", ("B", k, 24)),
            TensorInfo(made["positions"], "int64", (3, "B", k)),
            TensorInfo(made["deepstack"], "float32", ("B", k, 5)),
        ]
        w.save()
        return w.path


def feeds(batch: int, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "scores": rng.standard_normal((batch, tokens)).astype(np.float32),
        "embeds": rng.standard_normal((batch, tokens, 24)).astype(np.float32),
        "pos": rng.integers(0, 1000, (3, batch, tokens)),
        "deep": rng.standard_normal((batch, tokens, 5)).astype(np.float32),
    }


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: "kernels" if path else "bodies")
def test_gathers_follow_the_index_and_kept_tokens_keep_their_positions(tmp_path: Path, library: Path | None) -> None:
    data = feeds(2, 50)
    index, embeds, positions, deep = run(pruning_graph(tmp_path, 12), data, library)
    assert (np.diff(index) > 0).all()
    for b in range(2):
        np.testing.assert_array_equal(embeds[b], data["embeds"][b, index[b]])
        np.testing.assert_array_equal(positions[:, b], data["pos"][:, b, index[b]])
        np.testing.assert_array_equal(deep[b], data["deep"][b, index[b]])


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: "kernels" if path else "bodies")
def test_ratio_zero_is_the_identity_bit_for_bit(tmp_path: Path, library: Path | None) -> None:
    data = feeds(2, 31)
    index, embeds, positions, deep = run(pruning_graph(tmp_path, tr.keep_count(31, 0.0)), data, library)
    np.testing.assert_array_equal(index, np.tile(np.arange(31), (2, 1)))
    assert embeds.tobytes() == data["embeds"].tobytes()
    assert deep.tobytes() == data["deep"].tobytes()
    np.testing.assert_array_equal(positions, data["pos"])


def test_pruning_refuses_at_export(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="k is 51, expected 1 to 50, the number of tokens"):
        pruning_graph(tmp_path, 51, tokens=50)
    with pytest.raises(ValueError, match="TokenSelect: k is 0, expected 1 or more"):
        pruning_graph(tmp_path, 0)
    with pytest.raises(RequestError, match="group is absent"):
        pruning_graph(tmp_path, 5, quota="scores")


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: "kernels" if path else "bodies")
def test_too_few_tokens_stop_the_graph(tmp_path: Path, library: Path | None) -> None:
    with pytest.raises(Exception, match="k"):
        run(pruning_graph(tmp_path, 20), feeds(1, 19), library)


def test_linear_scorer_is_the_mean_of_raw_attention(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    batch, tokens, width, hidden = 2, 40, 24, 16
    weights = {
        "q_weight": rng.standard_normal((hidden, width)).astype(np.float32),
        "k_weight": rng.standard_normal((hidden, width)).astype(np.float32),
        "q_bias": rng.standard_normal(hidden).astype(np.float32),
        "k_bias": rng.standard_normal(hidden).astype(np.float32),
    }
    with GraphWriter(tmp_path, "score") as w:
        w.inputs.append(TensorInfo("x", "float32", ("B", "N", width)))
        tr.add_linear_scorer(w, "x", "s", **weights)
        w.outputs.append(TensorInfo("s", "float32", ("B", "N")))
        w.save()
        x = rng.standard_normal((batch, tokens, width)).astype(np.float32)
        got = run(w.path, {"x": x})[0]
    wide = {name: value.astype(np.float64) for name, value in weights.items()}
    q = x @ wide["q_weight"].T + wide["q_bias"]
    k = x @ wide["k_weight"].T + wide["k_bias"]
    want = (q @ k.transpose(0, 2, 1) / np.sqrt(hidden)).mean(2)
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
    with pytest.raises(RequestError, match="q_proj.bias"), GraphWriter(tmp_path, "bad") as w:
        tr.add_linear_scorer(w, "x", "s", **{**weights, "q_bias": np.zeros(3, np.float32)})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("grid", "pool"), [((24, 24), p) for p in (1, 2, 4, 8, 24)] + [((6, 9), 3), ((2, 4), 2)])
def test_pooling_is_the_mean_of_squares(tmp_path: Path, grid: tuple[int, int], pool: int, dtype: str) -> None:
    high, wide = grid
    with GraphWriter(tmp_path, "pool") as w:
        w.inputs.append(TensorInfo("x", dtype, ("n", high * wide, 10)))
        tr.add_pooling(w, "x", "y", grid=grid, pool=pool, width=10, dtype=dtype)
        w.outputs.append(TensorInfo("y", dtype, ("n", high * wide // pool**2, 10)))
        w.save()
        x = np.random.default_rng(9).standard_normal((3, high * wide, 10)).astype(dtype)
        got = run(w.path, {"x": x})[0]
    squares = x.astype(np.float64).reshape(3, high // pool, pool, wide // pool, pool, 10)
    want = squares.mean((2, 4)).reshape(3, -1, 10)
    np.testing.assert_allclose(got, want, atol=1e-6 if dtype == "float32" else 1e-3)
    if pool == 1:
        assert got.tobytes() == x.tobytes()


def test_pooling_refuses_what_would_drop_tokens(tmp_path: Path) -> None:
    assert tr.pool_sizes(24) == (576, 144, 64, 36, 16, 9, 4, 1)
    with pytest.raises(RequestError, match="pool is 5, expected one of 1, 2, 3, 4, 6, 8, 12, 24 for a grid of 24 x 24"):
        tr.add_pooling(GraphWriter(tmp_path, "p"), "x", "y", grid=(24, 24), pool=5, width=4)


def test_scales_are_numbers_of_tokens_that_squares_divide_to() -> None:
    assert [tr.scale_pool(24, s) for s in tr.pool_sizes(24)] == [1, 2, 3, 4, 6, 8, 12, 24]
    for scale in (100, 0, -4, 575, 577, 1.5, True, "36"):
        with pytest.raises(RequestError, match="expected one of 576, 144, 64, 36, 16, 9, 4, 1 for a grid of 24 x 24"):
            tr.scale_pool(24, scale)
