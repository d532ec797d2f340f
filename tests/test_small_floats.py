"""Weights in FP8 and NVFP4: the rounding itself, bundles of it, and who is refused."""

from __future__ import annotations

from pathlib import Path

import engines
import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from farthing.calibration.quantize import Options, quantize
from farthing.calibration.quantize.small_floats import FP4_BLOCK, round_fp8, round_nvfp4
from farthing.errors import BundleError, RequestError
from farthing.export.compile import compile_bundle
from farthing.export.lower import lower
from farthing.runtime.api import load
from farthing.runtime.bundle import open_bundle
from farthing.runtime.verify import verify_vectors

E4M3 = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
MATRICES = arrays(np.float32, (3, 32), elements=st.floats(-1e4, 1e4, width=32))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("small")
    source = engines.bundle("llama")
    return {w: quantize(source, root / w, Options(w, 16), measure=False).path for w in ("fp8", "nvfp4")}


@given(MATRICES)
def test_fp8_takes_the_nearest(matrix: np.ndarray) -> None:
    found = round_fp8(matrix)
    assert found.codes.dtype == ml_dtypes.float8_e4m3fn and (found.scales > 0).all()
    wanted = np.abs(np.abs(matrix)[..., None] - E4M3 * found.scales[:, None, None]).min(-1)
    np.testing.assert_allclose(
        np.abs(found.dense() - matrix), wanted, atol=1e-6 * max(1.0, float(np.abs(matrix).max()))
    )


@given(MATRICES)
def test_nvfp4_takes_the_nearest_on_its_grid(matrix: np.ndarray) -> None:
    found = round_nvfp4(matrix)
    steps = np.repeat(found.scales.astype(np.float32) * found.whole, FP4_BLOCK, axis=1)
    assert np.isfinite(steps).all()
    inside = np.abs(matrix) <= 6 * steps
    wanted = np.abs(np.abs(matrix)[..., None] - E2M1 * steps[..., None]).min(-1)
    error = np.abs(found.dense() - matrix)
    tolerance = 1e-5 * max(1.0, float(np.abs(matrix).max()))
    assert (error[inside] <= wanted[inside] + tolerance).all()
    clipped = ~inside & (steps > 0)  # the largest code is nearest to what lies beyond it
    np.testing.assert_allclose(error[clipped], (np.abs(matrix) - 6 * steps)[clipped], atol=tolerance)


def test_several_scales_lose_less_than_the_plain_one() -> None:
    """By more than a rounding: a block whose largest value becomes 4 has a finer grid under it."""
    matrix = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    found = round_nvfp4(matrix)
    blocks = matrix.reshape(64, -1, FP4_BLOCK)
    plain = np.abs(blocks).max(-1, keepdims=True) / 6
    rounded = (blocks / plain).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * plain
    assert ((found.dense() - matrix) ** 2).sum() < 0.93 * ((rounded - blocks) ** 2).sum()


def test_zeros_stay_zeros() -> None:
    assert not round_fp8(np.zeros((2, 16), np.float32)).dense().any()
    assert not round_nvfp4(np.zeros((2, 16), np.float32)).dense().any()


def test_fp8_bundles_run(bundles: dict[str, Path]) -> None:
    bundle = open_bundle(bundles["fp8"])
    assert all(engine.ok for engine in verify_vectors(bundle)[0])
    model = onnx.load(str(bundle.graph("decoder")))
    kinds = {t.data_type for t in model.graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds and onnx.TensorProto.INT8 in kinds  # the head


def test_nvfp4_graphs_say_what_their_vectors_were_recorded_with(bundles: dict[str, Path]) -> None:
    """ONNX's own evaluation of the nodes in front of a product is the matrix that stood in for them."""
    bundle = open_bundle(bundles["nvfp4"])
    model = onnx.load(str(bundle.graph("decoder")))
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    stem = "layers.0.qkv.weight"
    steps = tensors[stem + ".scales"].astype(np.float32) * tensors[stem + ".whole"]
    codes = tensors[stem + ".codes"].astype(np.float32)
    found = codes * np.repeat(steps, FP4_BLOCK, axis=0)
    source = onnx.load(str(engines.bundle("llama") / "graphs" / "decoder.onnx"))
    matrix = next(onnx.numpy_helper.to_array(t) for t in source.graph.initializer if t.name == stem)
    np.testing.assert_array_equal(found, round_nvfp4(matrix).dense().T)


def test_onnxruntime_is_not_asked_for_what_it_cannot(bundles: dict[str, Path]) -> None:
    for native in (None, False):
        with pytest.raises(RequestError, match=r"weights of .* is nvfp4, .*farthing compile"):
            load(bundles["nvfp4"], native=native)
    with pytest.raises(RequestError, match="nvfp4"):
        verify_vectors(open_bundle(bundles["nvfp4"]))


@pytest.mark.parametrize(("weights", "sm"), [("fp8", 86), ("nvfp4", 89), ("nvfp4", 86)])
def test_devices_without_the_format_are_refused(
    bundles: dict[str, Path], weights: str, sm: int, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=rf"--sm is {sm}, which has no {weights}"):
        compile_bundle(bundles[weights], "tensorrt-rtx", sm=[sm], out=tmp_path)


def test_an_orin_is_refused(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.export.compile.build_engine.device_sm", lambda: 87)
    with pytest.raises(RequestError, match="is 87, which has no fp8, .*Jetson Orin"):
        compile_bundle(bundles["fp8"], "tensorrt")


def test_an_orin_refuses_a_carried_plan(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from farthing.export.compile import build_engine

    compile_bundle(bundles["fp8"], "tensorrt", trt="10.3", plan=tmp_path / "plan", context=64, chunk=32)
    monkeypatch.setattr(build_engine, "device_sm", lambda: 87)
    with pytest.raises(build_engine.Refused, match="capability is 87, expected 89 or later"):
        build_engine.run(tmp_path / "plan", tmp_path / "out")


def test_old_tensorrt_has_no_4_bit_floats(bundles: dict[str, Path]) -> None:
    model = onnx.load(str(open_bundle(bundles["nvfp4"]).graph("decoder")), load_external_data=False)
    with pytest.raises(BundleError, match="4-bit floats, expected another format"):
        lower(model, "10.3")


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--rounding is 'gptq', expected nearest for fp8"):
        quantize(engines.bundle("llama"), tmp_path / "q", Options("fp8", rounding="gptq"))
