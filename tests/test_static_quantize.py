"""Static int8 of encoders and vision models: explicit Q/DQ, scales by the method named, held-out measure, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from networks import VOCAB, write_encoder, write_vision
from PIL import Image

from farthing.calibration.evaluate_network import evaluate_network, spearman
from farthing.calibration.static import StaticOptions, quantize_network
from farthing.calibration.static.ranges import BINS, limit
from farthing.cli.main import cli
from farthing.errors import FarthingError, RequestError
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
    plain = quantize_network(source, tmp_path / "p", StaticOptions("max", smooth=False), text=text(tmp_path))
    smooth = quantize_network(source, tmp_path / "s", StaticOptions("max"), text=text(tmp_path))
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
    from farthing.calibration.network_data import samples_of
    from farthing.calibration.static.layers import find_layers
    from farthing.calibration.static.sensitivity import keep

    source = encoder(tmp_path, outlier=40.0)
    options = StaticOptions("max", smooth=False, keep=0.5)
    found = quantize_network(source, tmp_path / "k", options, text=text(tmp_path))
    plain = quantize_network(source, tmp_path / "p", StaticOptions("max", smooth=False), text=text(tmp_path))
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
