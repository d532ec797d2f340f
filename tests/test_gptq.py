"""Rounding that knows the inputs: smaller errors of products, and a smaller loss of a trained model on a text it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from engines import bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.calibration.evaluate import evaluate
from farthing.calibration.quality import Text
from farthing.calibration.quantize import Options, quantize
from farthing.calibration.quantize.blocks import round_blocks
from farthing.calibration.quantize.gptq import round_gptq
from farthing.calibration.quantize.moments import InputMoments, calibration_text
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.export import export
from farthing.runtime.bundle import open_bundle

MODEL = Path(__file__).parents[1] / "examples" / "mtp" / "model"


def product_error(matrix: np.ndarray, rounded: np.ndarray, moments: np.ndarray) -> float:
    """Mean square of what products with such inputs are off by."""
    wrong = (matrix - rounded).astype(np.float64)
    return float(np.einsum("nk,kl,nl->", wrong, moments, wrong)) / len(matrix)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    columns=st.integers(20, 130),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
)
def test_products_err_less(seed: int, columns: int, bits: int, block: int, symmetric: bool) -> None:
    """Inputs that depend on each other, as activations do: a few directions have most of their variance."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, 6)) @ rng.standard_normal((6, columns)) + 0.3 * rng.standard_normal((400, columns))
    matrix = rng.standard_normal((24, columns)).astype(np.float32)
    moments = x.T @ x / len(x)
    known = round_gptq(matrix, moments, bits, block, symmetric=symmetric)
    nearest = round_blocks(matrix, bits, block, symmetric=symmetric)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert known.codes.dtype == nearest.codes.dtype and low <= known.codes.min() and known.codes.max() <= high
    assert (known.scales > 0).all() and known.scales.shape == nearest.scales.shape
    assert product_error(matrix, known.dense(), moments) < 0.8 * product_error(matrix, nearest.dense(), moments)


def test_layers_that_never_fire_are_rounded_to_nearest() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 40)).astype(np.float32)
    known, nearest = round_gptq(matrix, np.zeros((40, 40)), 4, 16), round_blocks(matrix, 4, 16)
    assert np.array_equal(known.codes, nearest.codes) and np.array_equal(known.scales, nearest.scales)
    silent = np.eye(40)
    silent[7, 7] = 0  # one input that is always 0
    assert np.isfinite(round_gptq(matrix, silent, 4, 16).dense()).all()
    # Sums in float32 may leave moments that are none: more is added to their diagonal then.
    assert np.isfinite(round_gptq(matrix, np.diag(np.r_[1e-3, np.full(39, -1e-3)]), 4, 16).dense()).all()
    for wrong in (np.eye(39), np.full((40, 40), np.nan)):
        with pytest.raises(ValueError, match=r"moments are .*expected finite \[40,40\]"):
            round_gptq(matrix, wrong, 4, 16)


@pytest.fixture(scope="module")
def lines() -> tuple[Text, Text]:
    """Text of the kind that the small model was trained on: to calibrate, and to measure."""
    import importlib
    import sys

    sys.path.insert(0, str(MODEL.parents[2] / "benchmarks"))
    try:
        templated = importlib.import_module("train_mtp_fixture").templated
    finally:
        sys.path.pop(0)
    return Text("calibration", templated(3000, 501)), Text("held out", templated(3000, 502))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the trained byte model of examples/mtp, whose weights lie on no grid."""
    return export("decoder", MODEL, tmp_path_factory.mktemp("gptq") / "bundle", check=False).path


def test_a_trained_model_loses_less(trained: Path, lines: tuple[Text, Text], tmp_path: Path) -> None:
    """KL to the float model on held-out text, symmetric and with zero points."""
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(lines[0].text, encoding="utf-8")
    for symmetric in (False, True):
        found = {}
        for rounding in ("nearest", "gptq"):
            out = tmp_path / f"{rounding}-{symmetric}"
            how = Options("int4", 32, "float32", "float32", symmetric, rounding)
            quantize(trained, out, how, calibration=calibration if rounding == "gptq" else None, measure=False)
            found[rounding] = evaluate(out, lines[1], against=trained, tokens=1024).kl
        assert found["nearest"] is not None and found["gptq"] is not None
        assert found["gptq"].value < 0.8 * found["nearest"].value, (symmetric, found)
    manifest = open_bundle(tmp_path / "gptq-True").manifest["quantization"]
    assert manifest["rounding"] == "gptq"
    assert manifest["calibration"]["sha256"] == lines[0].sha256 and manifest["calibration"]["tokens"] > 1000


def test_moments_are_those_of_the_inputs(
    trained: Path, lines: tuple[Text, Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collected in one reading or in many, they are the same; the first layer's are those of its normed embeddings."""
    opened = open_bundle(trained)
    one = InputMoments(opened, lines[0], tokens=600)
    names = list(one._widths)
    wanted = {name: one.of(name) for name in names}
    monkeypatch.setattr("farthing.calibration.quantize.moments.LIMIT", 1)
    many = InputMoments(opened, lines[0], tokens=600)
    for name in names:
        assert np.allclose(many.of(name), wanted[name], rtol=1e-5, atol=1e-7)
    from farthing.export.checkpoint import open_checkpoint
    from farthing.models.decoder import Decoder

    model = Decoder(open_checkpoint(MODEL))
    rows = model._get("embed.weight").numpy()[one.ids].astype(np.float64)
    rows /= np.sqrt((rows**2).mean(-1, keepdims=True) + model.config.norm_epsilon)
    rows *= model._get("layers.0.attn_norm.weight").numpy()
    assert np.allclose(wanted[names[0]], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [("short", "tokens, expected at least 512"), ("aaaa " * 3000, "different tokens, expected some of a language")],
)
def test_useless_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        InputMoments(open_bundle(bundle()), Text("given", text))


def test_bad_requests(tmp_path: Path) -> None:
    def refused(**how: Any) -> str:
        options = {"rounding": "nearest", **how.pop("options", {})}
        with pytest.raises(RequestError) as error:
            quantize(bundle(), tmp_path / "q", Options(block=16, **options), measure=False, **how)
        return str(error.value)

    assert "--rounding is 'best'" in refused(options={"rounding": "best"})
    assert "--calibration is given" in refused(calibration=tmp_path / "x.txt")
    assert "not readable" in refused(options={"rounding": "gptq"}, calibration=tmp_path / "x.txt")
    assert not (tmp_path / "q").exists()


def test_command(tmp_path: Path) -> None:
    """With the default text, which is not the one that the loss is measured on."""
    assert calibration_text(None).sha256 != Text("", "").sha256
    out = tmp_path / "q"
    arguments = ["quantize", str(bundle()), "--out", str(out), "--block", "16", "--rounding", "gptq", "--no-measure"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "rounding gptq" in done.output
    assert open_bundle(out).manifest["quantization"]["calibration"]["name"].startswith("Python")
