"""Widths within a number of bytes, and AWQ's factors: the knapsack, the search on a trained decoder, the function kept in float."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from engines import bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from test_gptq import MODEL, lines

from farthing.calibration.budget import Item, choose, search
from farthing.calibration.budget.sizes import product_error, stored
from farthing.calibration.evaluate import evaluate
from farthing.calibration.quality import Stream
from farthing.calibration.quantize import Options, quantize
from farthing.calibration.quantize.awq import awq_factors, scaled_moments
from farthing.calibration.quantize.blocks import round_blocks
from farthing.calibration.quantize.folding import ScaledTensors, find_factors
from farthing.calibration.quantize.moments import InputMoments
from farthing.calibration.quantize.prepare import prepare
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.export import export
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.verify import verify_vectors

__all__ = ["lines"]

OPTION = st.tuples(st.integers(0, 60), st.floats(0, 10))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(OPTION, min_size=1, max_size=3), min_size=1, max_size=5), st.integers(0, 250))
def test_the_knapsack_is_solved(rows: list[list[tuple[int, float]]], limit: int) -> None:
    """Against every combination there is; small sizes are not rounded, so the answer is the best."""
    costs = [{str(k): cost for k, (cost, _) in enumerate(row)} for row in rows]
    losses = [{str(k): loss for k, (_, loss) in enumerate(row)} for row in rows]
    best = np.inf
    for combination in itertools.product(*(list(c) for c in costs)):
        if sum(c[k] for c, k in zip(costs, combination, strict=True)) <= limit:
            best = min(best, sum(loss[k] for loss, k in zip(losses, combination, strict=True)))
    picked = choose(costs, losses, limit)
    assert (picked is None) == (best == np.inf)
    if picked is not None:
        assert sum(c[k] for c, k in zip(costs, picked, strict=True)) <= limit
        assert sum(loss[k] for loss, k in zip(losses, picked, strict=True)) == pytest.approx(best)
        coarse = choose(costs, losses, limit, units=7)  # rounded up: feasible still
        assert coarse is not None and sum(c[k] for c, k in zip(costs, coarse, strict=True)) <= limit


def test_a_wrong_prediction_does_no_harm() -> None:
    """Predictions that say the opposite of the truth lose to the uniform choice, by measurement."""
    costs = {"int4": 10, "int8": 20, "float16": 40}
    items = [
        Item(name, costs, {"divergence": {"int4": gain, "int8": 0.5 * gain, "float16": 0.0}})
        for name, gain in (("a", 1.0), ("b", 5.0))
    ]
    uniforms = {width: {"a": width, "b": width} for width in costs}
    true = {"int4": 3.0, "int8": 0.1, "float16": 0.0}
    found = search(items, 55, 0, uniforms, lambda widths: sum(true[w] for w in widths.values()))
    assert found.best.name == "uniform int8" and found.best_uniform == found.best
    assert [c.name for c in found.candidates] == ["uniform int4", "uniform int8", "search by divergence"]
    assert found.candidates[2].widths == {"a": "int4", "b": "float16"} and found.candidates[2].kl == 3.0
    for budget, words in ((19, "expected at least 0.00 MB"), (80, "nothing to do")):
        with pytest.raises(RequestError, match=words):
            search(items, budget, 0, uniforms, lambda _: 0.0)


def test_sizes() -> None:
    assert stored(100) == 228 and stored(5000) == 8192 + 128
    wrong = np.array([[1.0, -2.0]]), np.zeros((1, 2)), np.array([[2.0, 0.5], [0.5, 1.0]])
    assert product_error(*wrong) == pytest.approx(2 - 2 + 4)


def test_factors_bring_large_inputs_onto_a_finer_grid() -> None:
    """One input a hundred times as large as the others: its weights get a factor above 1, and products err less."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((32, 64)).astype(np.float32)
    size = np.ones(64)
    size[7] = 100
    x = rng.standard_normal((500, 64)) * size
    moments = x.T @ x / len(x)

    def rounding(m: np.ndarray, _: np.ndarray) -> np.ndarray:
        return round_blocks(m, 4, 32).dense()

    factors = awq_factors([matrix], moments, rounding)
    assert (
        factors is not None
        and factors[7] == factors.max()
        and np.log2(factors * 2**20).mean() == pytest.approx(20, abs=0.1)
    )
    turned = scaled_moments(moments, factors)
    scaled = product_error(matrix * factors, rounding(matrix * factors, turned), turned)
    assert scaled < 0.5 * product_error(matrix, rounding(matrix, moments), moments)
    assert awq_factors([matrix], np.zeros((64, 64)), rounding) is None
    groups = np.arange(64) // 4
    shared = awq_factors([matrix], moments, rounding, groups)
    assert shared is not None and np.array_equal(shared[4:8], np.repeat(shared[4], 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained byte model of examples/mtp."""
    return export("decoder", MODEL, tmp_path_factory.mktemp("budget") / "bundle", check=False).path


def with_factors(source: Bundle, options: Options, moments: InputMoments) -> tuple[Any, Any]:
    """Log-probabilities of the source's graph, and of the same with the factors in its float weights."""
    path = source.graph("decoder")
    factors = find_factors(path, source.manifest, options, moments)
    assert factors.gains and factors.rows
    model = onnx.load(str(path))
    tensors = ScaledTensors(path, onnx.load(str(path), load_external_data=False), factors)
    changed = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = np.array(tensors.array(tensor.name))
            changed += not np.array_equal(array, numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    kv, ids = source.manifest["kv"], moments.ids[:60]
    assert changed >= 4 * kv["layers"] and len(factors.columns) == 4 * kv["layers"]
    return Stream(path, kv).feed(ids), Stream(model.SerializeToString(), kv).feed(ids)


@pytest.mark.parametrize("family", ["mtp", "llama", "qwen2", "qwen3"])
def test_factors_keep_the_function(trained: Path, lines: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the factors are; with shared key/value heads, biases and normed heads, too."""

    def drawn(_: Any, moments: np.ndarray, __: Any, groups: np.ndarray | None = None) -> np.ndarray:
        factors = np.exp2(np.random.default_rng(0).uniform(-1, 1, len(moments))).astype(np.float32)
        return factors if groups is None else factors[groups]

    monkeypatch.setattr("farthing.calibration.quantize.folding.awq_factors", drawn)
    source = open_bundle(trained if family == "mtp" else bundle(family))
    moments = InputMoments(source, lines[0], tokens=512)
    before, after = with_factors(source, Options(symmetric=True, block=16), moments)
    np.testing.assert_allclose(after, before, atol=2e-4)


def test_a_budget_of_a_trained_decoder(trained: Path, lines: Any, tmp_path: Path) -> None:
    """No worse than the best uniform choice that fits, the bytes kept, and on held-out text far better than all at 4 bits."""
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(lines[0].text[:1500], encoding="utf-8")

    def made(out: str, **options: Any) -> Any:
        how = Options(rounding="gptq", **options)
        return quantize(trained, tmp_path / out, how, calibration=calibration, measure=False)

    small, large = made("4").bytes, made("8", weights="int8").bytes
    found = made("b", budget=(small + large) // 2, kv="int8")  # whose scales count, too
    assert found.bytes <= (small + large) // 2
    tried = found.search["candidates"]
    uniform = [c["kl"] for c in tried if c["name"].startswith("uniform")]
    assert len(uniform) >= 2 and found.search["kl"] <= min(uniform)
    held = [evaluate(tmp_path / n, lines[1], against=trained, tokens=512).kl for n in ("4", "b")]
    assert held[0] is not None and held[1] is not None and held[1].value < 0.7 * held[0].value
    said = open_bundle(found.path).manifest["quantization"]
    assert set(said["layers"].values()) >= {"int4", "int8"} and said["weights"] == "int4"
    assert set(said["budget"]["sensitivity"]) == set(said["layers"]) and said["calibration"]["tokens"] > 1000
    assert all(r.ok for r in verify_vectors(open_bundle(found.path))[0])


def test_awq_in_a_bundle(trained: Path, lines: Any, tmp_path: Path) -> None:
    """Written, run, and no farther from the source than a tenth of a nat."""
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(lines[0].text[:1500], encoding="utf-8")
    for rounding in ("awq", "awq+gptq"):
        out = tmp_path / rounding
        quantize(trained, out, Options(symmetric=True, rounding=rounding), calibration=calibration, measure=False)
        assert evaluate(out, lines[1], against=trained, tokens=512).kl.value < 0.1
        assert open_bundle(out).manifest["quantization"]["rounding"] == rounding


def test_what_is_refused(trained: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for arguments, words in (
        (("--budget", "0.01"), "--budget is 0.01 MB, expected at least"),
        (("--budget", "90"), "nothing to do"),
        (("--budget", "0.5", "--head", "int8"), "--head is 'int8', expected absent with --budget"),
        (("--budget", "0.5", "--weights", "fp8"), "--weights is 'fp8', expected absent with --budget"),
        (("--budget", "nan"), "--budget is nan"),
    ):
        result = CliRunner().invoke(cli, ["quantize", str(trained), "--out", out, "--no-measure", *arguments])
        assert isinstance(result.exception, RequestError) and words in str(result.exception), str(result.exception)
    with pytest.raises(RequestError, match="--budget is 5, expected absent for fp8"):
        quantize(trained, out, Options(weights="fp8", budget=5))
    assert not Path(out).exists()
    source = open_bundle(trained)
    source.manifest["vision"] = {}
    with pytest.raises(RequestError, match="vision-language bundle"):
        prepare(source, Options(rounding="awq").checked("float32"), object())  # type: ignore[arg-type]
