"""Networks with weights in 4 bits: the graphs, what rounding by the inputs brings, and what is refused."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from networks import VOCAB, values, write_encoder, write_vision
from onnx import TensorProto, helper, numpy_helper
from test_static_quantize import encoder, pictures, text

from farthing.calibration.network_data import samples_of
from farthing.calibration.network_int4 import WeightOptions, quantize_weights
from farthing.calibration.network_int4.biases import find_biases
from farthing.calibration.network_int4.fold import find_folds, fold_factors
from farthing.calibration.network_int4.layers import find_weights
from farthing.calibration.network_int4.moments import NetworkMoments, rows_of
from farthing.calibration.network_int4.rewrite import find_tables, rewrite
from farthing.calibration.network_int4.rounding import Rounder
from farthing.calibration.network_int4.stand_in import open_in_memory, replaced
from farthing.calibration.network_kl import divergence, item_divergences, kind_of
from farthing.calibration.quantize.blocks import round_blocks
from farthing.cli.main import cli
from farthing.errors import FarthingError, RequestError
from farthing.export.graph.opset import BLOCKS, raised
from farthing.export.onnx_import import import_onnx
from farthing.runtime.bundle import open_bundle
from farthing.runtime.network import open_network, verify_network


def write_pointwise(path: Path, *, opset: int = 18, alpha: float = 1.0, middle: int = 96) -> Path:
    """image [N,3,32,32] -> scores [N,10]: a normalisation by hand, convolutions of 1 x 1 (one with stride 2) and 3 x 3, and a Gemm."""
    weights = {
        "stem": values(0, 16, 3, 3, 3) * 3,
        "narrow": values(1, middle, 16, 1, 1) * 3,
        "wide": values(2, 32, middle, 1, 1) * 3,
        "head": values(3, 32, 10) * 4,
        "bias": values(4, 10),
    }
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "narrow"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "wide"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "head", "bias"], ["scores"], alpha=alpha),
    ]
    return _save(nodes, weights, path, opset, [10])


def write_normed(path: Path, opset: int = 14) -> Path:
    """image [N,3,32,32] -> scores [N,10] in an old opset: a normalisation of decomposed parts, whose channels differ much, before two matrices."""
    gain = np.exp(np.random.default_rng(9).standard_normal(32) * 1.2).astype(np.float32)
    weights = {
        "stem": values(0, 32, 3, 4, 4) * 3,
        "gain": gain,
        "shift": values(1, 32),
        "one": values(2, 32, 48),
        "two": values(3, 32, 48),
        "head": values(4, 48, 10) * 4,
        "shape": np.array([0, 32, 64]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["a"], strides=[4, 4]),
        helper.make_node("Reshape", ["a", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["rows", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["gained"]),
        helper.make_node("Add", ["gained", "shift"], ["x"]),
        helper.make_node("MatMul", ["x", "one"], ["p"]),
        helper.make_node("MatMul", ["x", "two"], ["q"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Mul", ["r", "q"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["t"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["t", "head"], ["scores"]),
    ]
    return _save(nodes, weights, path, opset, [10])


def _save(nodes: list[Any], weights: dict[str, np.ndarray], path: Path, opset: int, out: list[int]) -> Path:
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", *out])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


def vision(folder: Path, write: Any = write_pointwise, **options: Any) -> Path:
    return import_onnx(write(folder / "in.onnx", **options), folder / "source").path


def fused(graph: Path, folder: Path) -> collections.Counter[str]:
    """Operators after ONNX Runtime's optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return collections.Counter(
        n.op_type for n in onnx.load(folder / "optimised.onnx", load_external_data=False).graph.node
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_graph_computes_what_its_codes_stand_for(tmp_path: Path, symmetric: bool, alpha: float) -> None:
    """Every form of layer, against the float graph with the dense weights; K is 16, 24 and 32, so blocks of 16 leave a rest."""
    model = raised(onnx.load(str(write_pointwise(tmp_path / "m.onnx", alpha=alpha, middle=24))), BLOCKS)
    weights, left = find_weights(model)
    assert [w.name for w in weights] == ["narrow", "wide", "head"] and left == {"stem": "convolution of 3 x 3"}
    rounded = {
        w.name: (bits, round_blocks(w.matrix(model, tmp_path), bits, 16, symmetric=symmetric))
        for w, bits in zip(weights, (4, 8, 4), strict=True)
    }
    wanted = replaced(model, {w.name: w.stored(rounded[w.name][1].dense()) for w in weights})
    rewrite(model, weights, rounded)
    onnx.checker.check_model(model, full_check=True)
    x = {"image": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, x)[0]
    np.testing.assert_allclose(plain, open_in_memory(wanted, tmp_path).run(None, x)[0], rtol=1e-4, atol=1e-5)


def test_encoder(tmp_path: Path) -> None:
    source = encoder(tmp_path)
    made = {
        rounding: quantize_weights(
            source, tmp_path / rounding, WeightOptions(rounding=rounding, symmetric=True), text=text(tmp_path)
        )
        for rounding in ("nearest", "gptq")
    }
    found = made["gptq"]
    assert found.widths == {"first": "int4", "second": "int4"} and found.left == {}
    bundle = open_bundle(found.path, networks=True)
    assert fused(bundle.graph("network"), tmp_path)["MatMulNBits"] == 2
    assert verify_network(bundle).ok
    said = bundle.manifest["quantization"]
    assert (said["weights"], said["rounding"], said["calibration"]["items"]) == ("int4", "gptq", 30)
    assert said["loss"]["divergence"]["kind"] == "similarities"
    kl = {name: r.loss.divergence.kl.value for name, r in made.items() if r.loss.divergence is not None}
    assert kl["gptq"] < 0.8 * kl["nearest"]
    with pytest.raises(RequestError, match="int4 already"):
        quantize_weights(found.path, tmp_path / "again", text=text(tmp_path))


def test_tables_become_int8(tmp_path: Path) -> None:
    model = onnx.load(str(write_encoder(tmp_path / "in" / "model.onnx")))
    assert find_tables(model, least=VOCAB * 64) == [("table", [0])]
    table = next(t for t in model.graph.initializer if t.name == "table")
    table.CopyFrom(numpy_helper.from_array(values(0, 1024, 64) * 8, "table"))
    encoder(tmp_path)
    onnx.save(model, str(tmp_path / "in" / "model.onnx"))
    source = import_onnx(tmp_path / "in", tmp_path / "large").path
    small = quantize_weights(source, tmp_path / "q", text=text(tmp_path))
    wide = quantize_weights(source, tmp_path / "w", WeightOptions(embedding="float32"), text=text(tmp_path))
    assert small.bytes < 0.4 * wide.bytes
    graph = onnx.load(open_bundle(small.path, networks=True).graph("network"), load_external_data=False).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    assert kinds["table.codes"] == TensorProto.INT8 and "table" not in kinds
    assert small.loss.rank_correlation is not None and small.loss.rank_correlation.value > 0.9


def test_pointwise_convolutions(tmp_path: Path) -> None:
    """Moments of a convolution are those of its pixels, every second with a stride of 2; rounding by them loses less."""
    x = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    rows = rows_of(x, "Conv", (2, 2))
    assert rows.shape == (8, 3) and np.array_equal(rows[1], x[0, :, 0, 2])
    source, images = vision(tmp_path), pictures(tmp_path / "pictures")
    kl = {}
    for rounding in ("nearest", "gptq"):
        options = WeightOptions(rounding=rounding, symmetric=True, block=16)
        made = quantize_weights(source, tmp_path / rounding, options, images=images)
        assert made.left == {"stem": "convolution of 3 x 3"}
        assert made.loss.divergence is not None and made.loss.divergence.kind == "classes"
        kl[rounding] = made.loss.divergence.kl.value
        assert verify_network(open_bundle(made.path, networks=True)).ok
    assert kl["gptq"] < 0.8 * kl["nearest"]
    other = import_onnx(write_pointwise(tmp_path / "o.onnx", middle=24), tmp_path / "other").path
    odd = quantize_weights(other, tmp_path / "odd", WeightOptions(symmetric=True), images=images, limit=8)
    assert odd.left["wide"] == "24 inputs, no multiple of 16, which TensorRT needs"
    assert {t.name: t.dims[1] for t in _tensors(odd.path) if t.name.endswith("scales")} == {
        "narrow.scales": 1,  # a block of 16
        "head.scales": 10,
    }


def _tensors(path: Path) -> Any:
    graph = open_bundle(path, networks=True).graph("network")
    return onnx.load(graph, load_external_data=False).graph.initializer


def test_factors_fold_into_a_normalisation(tmp_path: Path) -> None:
    """In an old opset, too; the float function stays, and rounding behind the factors loses less."""
    source, images = vision(tmp_path, write_normed), pictures(tmp_path / "pictures")
    bundle = open_network(source).bundle
    graph = bundle.graph("network")
    model = raised(onnx.load(str(graph), load_external_data=False), BLOCKS)
    assert model.opset_import[0].version == 21
    weights, _ = find_weights(model)
    (fold,) = find_folds(model, weights)
    assert [w.name for w in fold.weights] == ["one", "two"] and set(fold.vectors) == {"gain", "shift"}
    samples = samples_of(bundle, images=images, limit=48)
    moments = NetworkMoments(model, graph.parent, weights, samples)
    feeds = next(iter(samples))[1]
    before = open_in_memory(model, graph.parent).run(None, feeds)[0]
    factors = fold_factors(model, graph.parent, weights, moments, WeightOptions(rounding="awq", symmetric=True))
    assert set(factors) == {"one", "two"} and np.ptp(factors["one"]) > 0.1
    np.testing.assert_allclose(open_in_memory(model, graph.parent).run(None, feeds)[0], before, rtol=1e-4, atol=1e-5)
    errors = {}
    for rounding in ("nearest", "awq"):
        made = quantize_weights(
            source, tmp_path / rounding, WeightOptions(rounding=rounding, symmetric=True), images=images
        )
        assert made.scaled == (2 if rounding == "awq" else 0) and made.loss.divergence is not None
        errors[rounding] = made.loss.divergence.relative_error
    assert errors["awq"] < errors["nearest"]


def test_divergences() -> None:
    """Against values by hand."""
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    by_hand = 0.5 * np.log(2) - 0.25 * np.log(2)
    for a, b in ((p, q), (np.log(p) + 7, np.log(q) - 1)):  # probabilities, and scores
        assert item_divergences("classes", [a], [b])[0] == pytest.approx(by_hand)
    assert item_divergences("places", [np.log(p)[None]], [np.log(q)[None]])[0] == pytest.approx(by_hand)
    pixels = [np.array([[0.5, 1.0]])], [np.array([[0.25, 1.0]])]
    assert item_divergences("pixels", *pixels)[0] == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(2 / 3)))
    rng = np.random.default_rng(0)
    texts = [rng.standard_normal(8) for _ in range(5)]
    assert divergence("similarities", texts, [3 * t for t in texts]).kl.value < 1e-12  # cosines know no length
    assert divergence("similarities", texts, texts[::-1]).kl.value > 1
    assert kind_of([p[:, None]], text=False) == "pixels" and kind_of([p[:, None] - 1], text=False) == "places"
    assert kind_of([p], text=False) == "classes" and kind_of([p], text=True) == "similarities"
    with pytest.raises(ValueError, match="kind is 'other'"):
        item_divergences("other", [p], [q])


def test_budget(tmp_path: Path) -> None:
    """Measured, no choice is worse than a uniform one of no more bytes; widths are in the manifest, and the bytes are kept."""
    source, images = vision(tmp_path), pictures(tmp_path / "pictures")
    options = {"block": 16, "symmetric": True}
    sizes = {}
    for weights in ("int4", "int8"):
        sizes[weights] = quantize_weights(
            source, tmp_path / weights, WeightOptions(weights=weights, **options), images=images
        ).bytes
    whole = open_bundle(source, networks=True).weight_bytes
    middle = (sizes["int4"] + sizes["int8"]) // 2
    for number, budget in enumerate((middle, sizes["int8"] + 3000, (sizes["int8"] + whole) // 2)):
        out = tmp_path / f"b{number}"
        made = quantize_weights(source, out, WeightOptions(budget=budget, **options), images=images)
        assert made.bytes <= budget and made.search is not None
        tried = made.search["candidates"]
        uniform = [c["kl"] for c in tried if c["name"].startswith("uniform")]
        assert uniform and made.search["kl"] <= min(uniform)
        said = open_bundle(out, networks=True).manifest["quantization"]
        assert said["layers"] == made.widths and set(said["budget"]["sensitivity"]) == set(made.widths)
        assert verify_network(open_bundle(out, networks=True)).ok
    with pytest.raises(RequestError, match=r"--budget is 0.00 MB, expected at least"):
        quantize_weights(source, tmp_path / "no", WeightOptions(budget=1000), images=images)
    with pytest.raises(RequestError, match="nothing to do"):
        quantize_weights(source, tmp_path / "no", WeightOptions(budget=2 * whole), images=images)
    assert not (tmp_path / "no").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    source, document = encoder(tmp_path), text(tmp_path)
    for options, words in (
        (WeightOptions(weights="int2"), "--weights for a network is 'int2'"),
        (WeightOptions(rounding="best"), "--rounding for a network is 'best'"),
        (WeightOptions(embedding="float16"), "--embedding for a network is 'float16'"),
        (WeightOptions(block=48), "--block is 48"),
    ):
        with pytest.raises(RequestError, match=words):
            quantize_weights(source, tmp_path / "q", options, text=document)
    sound = onnx.load(str(tmp_path / "in" / "model.onnx"))
    first = next(t for t in sound.graph.initializer if t.name == "first")
    first.CopyFrom(numpy_helper.from_array(np.zeros((64, 128), np.float32), "first"))
    onnx.save(sound, str(tmp_path / "in" / "model.onnx"))
    silent = import_onnx(tmp_path / "in", tmp_path / "silent").path  # the second matrix sees a constant
    assert quantize_weights(silent, tmp_path / "s", text=document).widths["first"] == "int4"
    convolutions = import_onnx(write_vision(tmp_path / "v.onnx"), tmp_path / "v").path
    made = quantize_weights(convolutions, tmp_path / "c", images=pictures(tmp_path / "pictures"))
    assert made.left == {"w1": "convolution of 3 x 3", "w2": "depthwise convolution"}


def test_commands(tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(cli, list(arguments))
        if isinstance(result.exception, FarthingError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    source, document, out = str(encoder(tmp_path)), str(text(tmp_path)), str(tmp_path / "q")
    shown = run("quantize", source, "--out", out, "--weights", "int4", "--text", document)
    assert "matrices int4 2, blocks of 32, rounding gptq" in shown and "KL of similarities" in shown
    assert "KL of similarities" in run("eval", out, "--against", source, "--text", document)
    size = json.loads((Path(out) / "manifest.json").read_text())["quantization"]
    assert size["weights"] == "int4"
    megabytes = str(1.3 * open_bundle(out, networks=True).weight_bytes / 1e6)
    found = run("quantize", source, "--out", str(tmp_path / "b"), "--budget", megabytes, "--text", document)
    assert "taken: " in found and "uniform int4" in found
    assert "matrices (within " in run("inspect", str(tmp_path / "b"))
    for arguments, words in (
        (("--weights", "int4", "--head", "int4"), "--head for int4 weights of a network"),
        (("--budget", "1", "--weights", "int4"), "--weights is 'int4', expected absent with --budget"),
        (("--budget", "-1"), "--budget is"),
    ):
        with pytest.raises(RequestError, match=words):
            run("quantize", source, "--out", str(tmp_path / "r"), "--text", document, *arguments)


def test_a_bias_makes_up_for_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a ReLU, with no bias in the source: the mean output on the calibration data is the float one's, and products err less than by
    the second moments alone."""
    source, images = vision(tmp_path), pictures(tmp_path / "pictures")
    bundle = open_network(source).bundle
    folder = bundle.graph("network").parent
    model = raised(onnx.load(str(bundle.graph("network")), load_external_data=False), BLOCKS)
    weights, _ = find_weights(model)
    biases = find_biases(model, weights)
    assert set(biases) == {"narrow", "wide", "head"} and biases["head"] == "bias"
    samples = samples_of(bundle, images=images, limit=32)
    moments = NetworkMoments(model, folder, weights, samples)
    options = WeightOptions(symmetric=True)
    rounder = Rounder(model, folder, options, moments, None, biases)
    wide = weights[1]
    matrix, dense, mean = rounder.matrix(wide), rounder.blocks(wide, 4).dense(), moments.mean(wide)
    bias = rounder.bias(wide, 4)["wide.bias"]
    np.testing.assert_allclose(dense @ mean + bias, matrix @ mean, atol=1e-4)
    assert np.abs((dense - matrix) @ mean).max() > 1e-3
    plain = Rounder(model, folder, options, moments)
    for weight in weights:
        assert rounder.error(weight, 4) < plain.error(weight, 4)
    # Collected one by one, and after the model was changed, they are the same.
    monkeypatch.setattr("farthing.calibration.network_int4.moments.LIMIT", 1)
    single = NetworkMoments(model, folder, weights, samples)
    next(t for t in model.graph.initializer if t.name == "narrow").raw_data = bytes(4 * 96 * 16)
    for weight in weights:
        np.testing.assert_allclose(single.of(weight), moments.of(weight), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(single.mean(weight), moments.mean(weight), rtol=1e-5, atol=1e-6)
