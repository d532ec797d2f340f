"""Static int8 of encoders and vision models: explicit Q/DQ, scales by the method named, held-out measure, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from networks import VOCAB, values, write_encoder, write_vision
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from farthing.calibration.evaluate_network import evaluate_network, expected_same_top, lead, measured, spearman
from farthing.calibration.network_data import samples_of
from farthing.calibration.static import StaticOptions, quantize_network
from farthing.calibration.static.center import center
from farthing.calibration.static.layers import find_layers
from farthing.calibration.static.moments import Moments, matrices, rows_of
from farthing.calibration.static.observe import observe, observe_model, session_of
from farthing.calibration.static.ranges import BINS, limit
from farthing.calibration.static.rounding import bias_shift, round_by_error
from farthing.calibration.static.search import search
from farthing.calibration.static.sensitivity import keep
from farthing.cli.main import cli
from farthing.errors import FarthingError, RequestError
from farthing.export.graph import no_progress
from farthing.export.lower import lower
from farthing.export.onnx_import import import_onnx
from farthing.runtime.bundle import open_bundle
from farthing.runtime.network import open_network, verify_network

WORDS = [f"word{i}" for i in range(VOCAB - 1)]


def encoder(folder: Path, **changes: Any) -> Path:
    """An imported encoder with a tokenizer of WORDS."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    write_encoder(folder / "in" / "model.onnx", **changes)
    table = {"[UNK]": 0} | {word: i + 1 for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "in" / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return import_onnx(folder / "in", folder / "bundle").path


def text(folder: Path, count: int = 60) -> Path:
    """Sentences of random words."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, rng.integers(4, 9))) + "." for _ in range(count)]
    path = folder / "text.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def pictures(folder: Path, count: int = 6) -> Path:
    """Smooth random pictures, each of its own colour."""
    folder.mkdir()
    for n in range(count):
        rng = np.random.default_rng(n)
        small = (rng.random((5, 6, 3)) * 120 + rng.random(3) * 130).astype(np.uint8)
        Image.fromarray(small).resize((60, 50), Image.Resampling.BICUBIC).save(folder / f"{n}.png")
    return folder


def test_encoder(tmp_path: Path) -> None:
    source = encoder(tmp_path)
    found = quantize_network(source, tmp_path / "q", text=text(tmp_path))
    assert (found.layers, found.quantized, found.silent, found.kept) == (2, 2, [], [])
    assert found.loss.rank_correlation is not None and found.loss.rank_correlation.low > 0.98
    assert found.bytes < 0.5 * found.source_bytes
    bundle = open_bundle(found.path, networks=True)
    model = onnx.load(str(bundle.graph("network")))
    types = [n.op_type for n in model.graph.node]
    assert types.count("QuantizeLinear") == 2 and types.count("DequantizeLinear") == 4
    assert {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8} >= {
        "first.int8.codes",
        "second.int8.codes",
    }
    assert bundle.manifest["method"]["guarantee"] == "lossy"
    assert verify_network(bundle).ok
    # The manifest records what `farthing eval` on the held-out half said; a second opinion on other sentences agrees.
    again = evaluate_network(found.path, source, text=text(tmp_path), limit=40)
    assert again.rank_correlation is not None and again.rank_correlation.value > 0.98
    with pytest.raises(RequestError, match="int8 already"):
        quantize_network(found.path, tmp_path / "qq", text=text(tmp_path))


def test_smoothing_moves_an_outlier_to_the_weights(tmp_path: Path) -> None:
    source = encoder(tmp_path, outlier=40.0)
    alone = {
        "ranges": "max",
        "rounding": "nearest",
        "correct": False,
        "target": 0.0,
    }  # the other means hide half of the outlier's harm
    plain = quantize_network(source, tmp_path / "p", StaticOptions(**alone, smooth=False), text=text(tmp_path))
    smooth = quantize_network(source, tmp_path / "s", StaticOptions(**alone), text=text(tmp_path))
    assert plain.smoothed == 0 and smooth.smoothed >= 1
    assert 1 - smooth.loss.correlation.value < 0.25 * (1 - plain.loss.correlation.value)


@pytest.mark.parametrize("ranges", ["max", "percentile", "entropy", "mse"])
def test_vision(tmp_path: Path, ranges: str) -> None:
    source = import_onnx(write_vision(tmp_path / "v.onnx"), tmp_path / "bundle").path
    found = quantize_network(source, tmp_path / "q", StaticOptions(ranges), images=pictures(tmp_path / "pictures"))
    assert found.quantized == 3 and found.loss.same_top is not None
    assert found.loss.correlation.value > 0.98
    assert open_bundle(found.path, networks=True).manifest["quantization"]["ranges"] == ranges
    against = evaluate_network(source, source, images=tmp_path / "pictures")
    assert against.same_top is not None and against.same_top.value == 1 and against.items == 48


def test_sensitive_layers_stay_in_float(tmp_path: Path) -> None:
    """What is kept is what hurts most by itself, and keeping it helps more than keeping as much of the other."""
    source = encoder(tmp_path, outlier=40.0)
    options = StaticOptions("max", smooth=False, keep=0.5, rounding="nearest", correct=False)
    found = quantize_network(source, tmp_path / "k", options, text=text(tmp_path))
    plain = quantize_network(source, tmp_path / "p", replace(options, keep=0.0, target=0.0), text=text(tmp_path))
    assert found.kept == ["first"] and found.quantized == 1
    assert found.loss.correlation.value > plain.loss.correlation.value
    layers = find_layers(onnx.load(str(open_network(source).bundle.graph("network"))))
    assert keep(layers, {1: 0.0, 4: 1.0}, 0.49) == [] and [x.weight for x in keep(layers, {1: 0.0, 4: 1.0}, 0.5)] == [
        "second"
    ]
    assert samples_of(open_network(source).bundle, text=text(tmp_path)).half(0).count == 30


def test_limits() -> None:
    """One far value among many near ones: max keeps it, the others cut it off; without it nobody cuts much.

    mse: 200000 c^2 / (12 * 127^2) + (60 - c)^2 is least at c = 29.5.
    """
    rng = np.random.default_rng(0)
    near = np.abs(rng.standard_normal(200_000))
    far = np.append(near, 60.0)
    for method, low, high in (("max", 60, 60), ("percentile", 3, 5), ("entropy", 3, 8), ("mse", 28, 31)):
        histogram = np.histogram(far, BINS, (0, 60.0))[0]
        assert low <= limit(histogram, 60.0, method) <= high, method
    flat = np.ones(BINS, np.int64)
    for method in ("percentile", "entropy", "mse"):
        assert limit(flat, 1.0, method) > 0.9, method


def test_spearman() -> None:
    a = np.array([1.0, 2, 3, 4, 5])
    assert spearman(a, a**3) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    # By hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_bad_data(tmp_path: Path) -> None:
    source, vision = encoder(tmp_path), import_onnx(write_vision(tmp_path / "v.onnx"), tmp_path / "vision").path
    out = tmp_path / "q"
    few = text(tmp_path, 3)
    with pytest.raises(RequestError, match="3 different sentences"):
        quantize_network(source, out, text=few)
    few.write_text("the same words again here.\n\n" * 50)
    with pytest.raises(RequestError, match="1 different sentences"):
        quantize_network(source, out, text=few)
    folder = pictures(tmp_path / "one", 1)
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(RequestError, match="one picture, expected different ones"):
        quantize_network(vision, out, images=folder)
    with pytest.raises(RequestError, match="--images is missing"):
        quantize_network(vision, out)
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(RequestError, match="picture bad.png is not readable"):
        quantize_network(vision, out, images=folder)
    with pytest.raises(RequestError, match="ranges is 'best'"):
        quantize_network(source, out, StaticOptions("best"), text=text(tmp_path))
    with pytest.raises(RequestError, match=r"keep is 1\.0"):
        quantize_network(source, out, StaticOptions(keep=1.0), text=text(tmp_path))
    assert not out.exists()


def test_a_layer_that_never_fires_is_named(tmp_path: Path) -> None:
    file = write_encoder(tmp_path / "in" / "model.onnx")
    model = onnx.load(str(file))
    next(t for t in model.graph.initializer if t.name == "bias").raw_data = np.full(128, -1e4, np.float32).tobytes()
    source = encoder(tmp_path)
    onnx.save(model, str(file))
    source = import_onnx(tmp_path / "in", tmp_path / "dead").path
    found = quantize_network(source, tmp_path / "q", text=text(tmp_path))
    assert found.silent == ["second"] and found.quantized == 1


def test_commands(tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(cli, list(arguments))
        if isinstance(result.exception, FarthingError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    source, document = str(encoder(tmp_path)), str(text(tmp_path))
    made = json.loads(run("quantize", source, "--out", str(tmp_path / "q"), "--text", document, "--json").stdout)
    assert made["quantized"] == 2
    shown = run("eval", str(tmp_path / "q"), "--against", source, "--text", document).stdout
    assert "rank correlation" in shown and "60 items of text.txt" in shown
    assert "activations int8" in run("inspect", str(tmp_path / "q")).stdout
    with pytest.raises(RequestError, match="--block for a network"):
        run("quantize", source, "--out", str(tmp_path / "r"), "--block", "64")
    with pytest.raises(RequestError, match="--against is missing"):
        run("eval", source)


def relu6_network(folder: Path, *, pads: int = 0) -> Path:
    """image -> scores by Conv, ReLU6, Conv 3x3 with ``pads``, ReLU, pool, Gemm: every second thing that centring has to pass."""
    weights = {
        "w1": values(0, 16, 3, 3, 3) * 6,
        "b1": values(1, 16),
        "w2": values(2, 12, 16, 3, 3) * 3,
        "w3": values(3, 10, 12) * 4,
        "b3": values(4, 10),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], strides=[2, 2]),
        helper.make_node("Clip", ["c1", "low", "high"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[pads] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], transB=1),
    ]
    held = [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in weights.items()]
    graph = helper.make_graph(
        nodes,
        "relu6",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        held,
    )
    path = folder / f"relu6-{pads}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return import_onnx(path, folder / f"relu6-{pads}").path


@pytest.mark.parametrize(("pads", "moved"), [(0, ["r1", "f"]), (1, ["f"])])
def test_centring_keeps_the_function(tmp_path: Path, pads: int, moved: list[str]) -> None:
    """Padded inputs stay as they are; the others lie on both sides of 0 and the float outputs are the same."""
    network = open_network(relu6_network(tmp_path, pads=pads))
    graph = network.bundle.graph("network")
    samples = samples_of(network.bundle, images=pictures(tmp_path / "pictures"))
    model = onnx.load(str(graph), load_external_data=False)
    before = model.SerializeToString()
    layers = find_layers(model)
    observed = observe(graph, layers, samples, no_progress)
    assert center(model, graph.parent, layers, observed) == moved
    feeds = next(iter(samples))[1]
    wanted = session_of(onnx.ModelProto.FromString(before), graph.parent).run(None, feeds)[0]
    assert np.abs(session_of(model, graph.parent).run(None, feeds)[0] - wanted).max() < 1e-4
    again = observe_model(model, graph.parent, [x for x in layers if x.input in moved], samples, no_progress)
    for name in moved:
        assert again[name].largest == pytest.approx(observed[name].largest / 2, rel=0.05)


def test_rounding_by_error_and_shifts() -> None:
    """On inputs that depend on each other GPTQ leaves less than half of the nearest codes' error, on no output more; the shift removes the mean of
    what is left, on the very rows."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((400, 3)) @ rng.standard_normal((3, 40)) + rng.standard_normal(40)).astype(np.float32)
    weight = rng.standard_normal((1, 20, 40)).astype(np.float32)
    scale = (np.abs(weight).max(2) / 127).astype(np.float32)
    moments = Moments(1, 40)
    said = np.rint(rows * 500) / 500
    for half in (slice(0, 100), slice(100, 400)):
        moments.add(rows[half, None], said[half, None])
    assert np.allclose(moments.covariance[0], np.cov(said.T, bias=True), atol=1e-4)
    assert np.allclose(moments.second[0], said.T @ said / 400, atol=1e-4)
    found = round_by_error(weight, moments.covariance, scale)
    nearest = np.clip(np.rint(weight / scale[:, :, None]), -127, 127)

    def errors(codes: np.ndarray) -> np.ndarray:
        return said @ (codes[0] * scale[0, :, None]).T - rows @ weight[0].T

    assert (errors(found).var(0) < errors(nearest).var(0) * 1.01).all()
    assert errors(found).var(0).mean() < 0.5 * errors(nearest).var(0).mean()
    shift = bias_shift(weight, found * scale[:, :, None], moments.mean, moments.said)
    assert np.abs(errors(found).mean(0)).max() > 1e-3 > 10 * np.abs((errors(found) + shift).mean(0)).max()


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"pads": [1, 0, 1, 2], "strides": [2, 1]}, (9, 8)),
        ({"group": 2, "dilations": [2, 1], "pads": [2, 1, 2, 1]}, (7, 9)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (8, 9)),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (8, 9)),
    ],
)
def test_patches_are_what_a_convolution_sees(attributes: dict[str, Any], size: tuple[int, int]) -> None:
    """Every patch times the weight is the output of ONNX Runtime somewhere: sorted, they are equal."""
    group = attributes.get("group", 1)
    weight, x = values(0, 6, 4 // group, 3, 3), values(1, 1, 4, *size)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    wanted = session_of(model, Path()).run(None, {"x": x})[0]
    (layer,) = find_layers(model)
    matrix = matrices(weight, layer, group)
    rows = rows_of(model, layer, x, matrix.shape, 10**6, np.random.default_rng(0))
    found = np.einsum("ngk,gok->ngo", rows, matrix).reshape(len(rows), -1)
    assert found.shape == (wanted[0, 0].size, 6)
    assert np.allclose(np.sort(found, 0), np.sort(wanted[0].reshape(6, -1).T, 0), atol=1e-5)


def test_search_is_never_worse() -> None:
    """The shortest beginning that reaches the target where values rise; else the best that was tried, and not one worse than no layer kept."""
    layers = list("abcdefgh")
    for enough in range(8):
        found = search(lambda: layers, lambda kept, n=enough: 1.0 if len(kept) >= n else 0.5, 8, 0.9)
        assert found.kept == layers[:enough] and found.value == 1.0, enough
    falling = search(lambda: layers, lambda kept: 0.8 - 0.01 * len(kept), 8, 0.9)
    assert falling.kept == [] and falling.value == 0.8
    only = search(lambda: layers[:1], lambda kept: 1.0 if kept else 0.5, 1, 0.9)
    assert only.kept == [] and only.value == 0.5  # something must be quantised
    asked = search(lambda: pytest.fail("asked"), lambda kept: 1.0, 8, 0.9)
    assert asked.kept == [] and asked.tried == {0: 1.0}


def test_target(tmp_path: Path) -> None:
    """An outlier that rounding to nearest cannot bear: the target keeps its layer, and the manifest says so."""
    source = encoder(tmp_path, outlier=400.0)
    rough = {"ranges": "max", "smooth": False, "rounding": "nearest", "correct": False}
    plain = quantize_network(source, tmp_path / "p", StaticOptions(**rough, target=0.0), text=text(tmp_path))
    assert plain.kept == [] and plain.search == {} and plain.loss.rank_correlation.value < 0.99
    found = quantize_network(source, tmp_path / "t", StaticOptions(**rough), text=text(tmp_path))
    assert found.kept == ["first"] and found.loss.rank_correlation.value > 0.99
    said = open_bundle(found.path, networks=True).manifest["quantization"]
    assert (
        said["search"]["measure"] == "rank_correlation"
        and said["search"]["value"] >= 0.995 > said["search"]["tried"]["0"]
    )
    with pytest.raises(RequestError, match=r"target is 1\.5"):
        StaticOptions(target=1.5).checked()
    with pytest.raises(RequestError, match="rounding is 'awq'"):
        StaticOptions(rounding="awq").checked()


def test_chances_of_the_same_class() -> None:
    """Against draws: outputs with normal errors keep their likeliest class as often as said."""
    rng = np.random.default_rng(0)
    theirs = [np.array([0.3, 0.0] + [-9.0] * 998) for _ in range(3000)]
    mine = [a + 0.2 * rng.standard_normal(1000) for a in theirs]
    counted = np.mean([a.argmax() == 0 for a in mine])
    assert expected_same_top(mine, theirs) == pytest.approx(counted, abs=0.02)
    assert measured("same_top", mine, theirs) <= counted
    assert lead(np.array([0.7, 0.2, 0.1])) == pytest.approx(0.5) and lead(np.log([0.7, 0.2, 0.1])) == pytest.approx(0.5)


def test_an_old_opset_is_raised(tmp_path: Path) -> None:
    """Before opset 18 axes of a ReduceMean are an attribute, which no lowering for TensorRT reads."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["c"]),
            helper.make_node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["m", "v"], ["scores"], transB=1),
        ],
        "old",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(values(0, 16, 3, 3, 3) * 3, "w"), numpy_helper.from_array(values(1, 10, 16), "v")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), str(tmp_path / "old.onnx")
    )
    source = import_onnx(tmp_path / "old.onnx", tmp_path / "bundle").path
    found = quantize_network(source, tmp_path / "q", images=pictures(tmp_path / "pictures"))
    model = onnx.load(str(open_bundle(found.path, networks=True).graph("network")))
    assert model.opset_import[0].version >= 18 and found.loss.correlation.value > 0.98
    lower(model, "10.14")
