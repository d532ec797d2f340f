"""Quantised bundles: rounding, the graphs ONNX Runtime makes of them, what they cost, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from farthing.calibration.quality import compare, read_text
from farthing.calibration.quantize import Options, QuantizeResult, quantize
from farthing.calibration.quantize.blocks import pack_nibbles, round_blocks, unpack_nibbles
from farthing.calibration.quantize.rewrite import rewrite_decoder
from farthing.cli.quantize import quantize_command
from farthing.errors import BundleError, RequestError
from farthing.export.decoder import export_decoder
from farthing.runtime.bundle import Bundle, open_bundle

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 80))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One float bundle per family and dtype; K is 48 and 80, so blocks of 32 leave a rest."""
    folder = tmp_path_factory.mktemp("sources")
    made = {}
    for family, dtype in (("llama-bias", "float32"), ("qwen2", "float32"), ("llama-tied", "float16")):
        made[family] = folder / family
        export_decoder(tiny.write_hf(folder / f"{family}-hf", family), made[family], dtype=dtype, check=False)
    return made


def quick(source: Path, out: Path, **options: object) -> QuantizeResult:
    return quantize(source, out, Options(**options), measure=False)  # type: ignore[arg-type]


def optimised(bundle: Bundle, target: Path) -> list[str]:
    """Operators left after ONNX Runtime's optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    onnxruntime.InferenceSession(str(bundle.graph("decoder")), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(target, load_external_data=False).graph.node]


def loss(source: Path, out: Path) -> float:
    bundle, changed = open_bundle(source), open_bundle(out)
    measured = compare(bundle, bundle.graph("decoder"), changed.graph("decoder"), read_text(), tokens=200)
    return float(measured["kl"])


# Rounding


@given(SHAPES, st.booleans(), st.integers(0, 2**32))
def test_nibbles_round_trip(shape: tuple[int, int], signed: bool, seed: int) -> None:
    low, high, dtype = (-8, 8, np.int8) if signed else (0, 16, np.uint8)
    codes = np.random.default_rng(seed).integers(low, high, shape).astype(dtype)
    packed = pack_nibbles(codes)
    assert packed.dtype == np.uint8 and packed.size == (codes.size + 1) // 2
    assert np.array_equal(unpack_nibbles(packed, shape, signed=signed), codes)


@given(st.integers(1, 30), st.integers(1, 50), st.booleans())
@settings(max_examples=30)
def test_nibbles_are_packed_as_onnx_packs_them(rows: int, columns: int, signed: bool) -> None:
    codes = (np.arange(rows * columns).reshape(rows, columns) % 16).astype(np.uint8)
    kind, codes = (onnx.TensorProto.INT4, (codes - 8).astype(np.int8)) if signed else (onnx.TensorProto.UINT4, codes)
    proto = onnx.TensorProto(data_type=kind, dims=codes.shape, raw_data=pack_nibbles(codes).tobytes())
    assert np.array_equal(onnx.numpy_helper.to_array(proto).astype(codes.dtype), codes)


@given(SHAPES, st.sampled_from([4, 8]), st.sampled_from([16, 32, 64]), st.booleans(), st.integers(0, 2**32))
def test_rounding_keeps_its_promise_in_every_block(
    shape: tuple[int, int], bits: int, block: int, symmetric: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_t(3, shape) * 10.0 ** rng.integers(-4, 4)).astype(np.float32)
    blocks = round_blocks(matrix, bits, block, symmetric=symmetric)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert blocks.codes.shape == shape and blocks.scales.shape == (shape[0], -(-shape[1] // block))
    assert blocks.codes.min() >= low and blocks.codes.max() <= high
    assert (blocks.scales > 0).all() and np.isfinite(blocks.scales).all()
    assert (blocks.zeros is None) == symmetric and (symmetric or blocks.zeros.max() <= high)  # type: ignore[union-attr]
    for i in range(0, shape[1], block):
        part, dense = matrix[:, i : i + block].astype(np.float64), blocks.dense()[:, i : i + block]
        error = np.square(dense - part).sum(1)
        if symmetric:
            step = np.abs(part).max(1, keepdims=True) / high
            plain = np.rint(part / np.where(step > 0, step, 1)) * step
            allowed = np.square(plain - part).sum(1)
        else:  # a step for each value: half of it to the nearest code, half for the zero point, which is rounded itself
            step = (np.maximum(part.max(1), 0) - np.minimum(part.min(1), 0)) / high
            allowed = part.shape[1] * step**2
        # Candidates are compared by float32 sums near <w,w>, each rounded by 2^-24 of it: two that lie closer are equally good to the search.
        assert (error <= allowed * 1.001 + 2**-23 * np.square(part).sum(1)).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_on_a_grid_come_back(bits: int, symmetric: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (-3, 2**bits - 4)
    codes = np.random.default_rng(1).integers(low, high + 1, (8, 64))
    codes[:, ::32], codes[:, 1::32] = low, high
    matrix = codes.astype(np.float32) * np.float32(0.0625)
    assert np.abs(round_blocks(matrix, bits, 32, symmetric=symmetric).dense() - matrix).max() < 1e-5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_and_huge_and_tiny_values(symmetric: bool) -> None:
    matrix = np.zeros((4, 64), np.float32)
    matrix[1, 3], matrix[2, :], matrix[3, 5] = 1e-42, 1e30, -3e4
    dense = round_blocks(matrix, 4, 32, symmetric=symmetric).dense()
    assert np.isfinite(dense).all() and not dense[0].any()
    np.testing.assert_allclose(dense[1:], matrix[1:], rtol=0.08, atol=1e-38)


# Graphs


@pytest.mark.parametrize("family", ["llama-bias", "qwen2", "llama-tied"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True},
        {"weights": "int8"},
        {"weights": "int8", "symmetric": False},
        {"head": "int4", "block": 16},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "default",
)
def test_every_pair_is_fused(sources: dict[str, Path], family: str, options: dict[str, object], tmp_path: Path) -> None:
    result = quick(sources[family], tmp_path / "out", **options)
    bundle = open_bundle(result.path)
    ops = optimised(bundle, tmp_path / "optimised.onnx")
    assert result.quantized == 3 * 4 + 1 and result.kept == 0
    assert ops.count("MatMulNBits") == result.quantized and "DequantizeLinear" not in ops
    model = onnx.load(bundle.graph("decoder"), load_external_data=False)
    assert "Linear" not in [f.name for f in model.functions], "a body that nothing calls"
    assert len({n.name for n in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize("embedding", ["float32", "float16", "int8", "same"])
@pytest.mark.parametrize("head", ["float32", "float16", "int8"])
@pytest.mark.parametrize("family", ["llama-bias", "llama-tied"])
def test_embedding_and_head_are_chosen_separately(
    sources: dict[str, Path], family: str, embedding: str, head: str, tmp_path: Path
) -> None:
    result = quick(sources[family], tmp_path / "out", weights="int8", embedding=embedding, head=head)
    said = open_bundle(result.path).manifest
    assert said["quantization"]["head"] == head and said["method"]["guarantee"] == "lossy"
    wanted = {"same": "float16" if family == "llama-tied" else "float32"}.get(embedding, embedding)
    assert said["quantization"]["embedding"] == wanted
    assert result.kept == (head != "int8")
    assert loss(sources[family], result.path) < 0.02
    graph = onnx.load(open_bundle(result.path).graph("decoder"), load_external_data=False).graph
    tables = [t.name for t in graph.initializer if 300 in t.dims and 48 in t.dims]
    assert len(tables) == (1 if wanted == head and family == "llama-tied" and head != "int8" else 2)


def test_int8_loses_less_than_int4(sources: dict[str, Path], tmp_path: Path) -> None:
    int8 = loss(sources["qwen2"], quick(sources["qwen2"], tmp_path / "8", weights="int8").path)
    int4 = loss(sources["qwen2"], quick(sources["qwen2"], tmp_path / "4", head="int4").path)
    assert 0 < int8 < int4 < 10
    assert loss(sources["qwen2"], sources["qwen2"]) == 0


def test_external_data_is_page_aligned(sources: dict[str, Path], tmp_path: Path) -> None:
    bundle = open_bundle(quick(sources["llama-bias"], tmp_path / "out").path)
    at = 0
    for tensor in onnx.load(bundle.graph("decoder"), load_external_data=False).graph.initializer:
        where = {e.key: e.value for e in tensor.external_data}
        if where:
            assert int(where["offset"]) % 4096 == 0 and int(where["offset"]) >= at
            at = int(where["offset"]) + int(where["length"])
    assert at == bundle.file(bundle.manifest["graphs"]["decoder"]["data"][0]).stat().st_size


def test_same_input_same_bytes(sources: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        quantize(sources["qwen2"], tmp_path / name)
    files = [
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "ab"
    ]
    assert files[0] == files[1]
    manifest = open_bundle(tmp_path / "a").manifest
    measured = manifest["quantization"]["loss"]
    assert measured["kl"] >= 0 and measured["text"]["tokens"] == 2048 and len(measured["text"]["sha256"]) == 64
    assert manifest["tokenizer"] == open_bundle(sources["qwen2"]).manifest["tokenizer"]


# Refusals


def nothing_left(folder: Path, before: set[str]) -> bool:
    return {p.name for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    "options, words",
    [
        ({"weights": "int3"}, "--weights is 'int3', expected one of int4, int8"),
        ({"embedding": "int4"}, "--embedding is 'int4'"),
        ({"head": "int2"}, "--head is 'int2'"),
        ({"block": 24}, "--block is 24, expected a power of two from 16"),
        ({"block": 8}, "--block is 8"),
        ({"block": 0}, "--block is 0"),
        ({"block": -32}, "--block is -32"),
        ({"block": 512}, "--block is 512"),
    ],
)
def test_unknown_options_are_refused(
    sources: dict[str, Path], options: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=words):
        quick(sources["qwen2"], tmp_path / "out", **options)
    assert nothing_left(tmp_path, set())


def test_quantised_twice_and_existing_target(sources: dict[str, Path], tmp_path: Path) -> None:
    once = quick(sources["qwen2"], tmp_path / "once").path
    with pytest.raises(RequestError, match="int4 already, expected float32 or float16"):
        quick(once, tmp_path / "twice")
    with pytest.raises(RequestError, match="an existing bundle, expected a new or empty folder"):
        quick(sources["qwen2"], once)
    with pytest.raises(BundleError, match="not a folder"):
        quick(tmp_path / "nowhere", tmp_path / "out")
    assert nothing_left(tmp_path, {"once"})
    with pytest.raises(BundleError, match="quantised already"):
        rewrite_decoder(open_bundle(once).graph("decoder"), tmp_path, Options())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(sources: dict[str, Path], value: float, tmp_path: Path) -> None:
    graphs = tmp_path / "graphs"
    shutil.copytree(sources["qwen2"] / "graphs", graphs)
    data = np.memmap(graphs / "decoder.onnx.data", "<f4", "r+")
    data[48 * 2 + 5] = value  # embed.weight is the first tensor; its row 2, column 5
    data.flush()
    (tmp_path / "out").mkdir()
    with pytest.raises(
        BundleError, match=r"tensor embed.weight of .* is (nan|inf) at \[2, 5\], expected finite numbers"
    ):
        rewrite_decoder(graphs / "decoder.onnx", tmp_path / "out", Options())


def test_values_float16_cannot_hold(sources: dict[str, Path], tmp_path: Path) -> None:
    graphs = tmp_path / "graphs"
    shutil.copytree(sources["qwen2"] / "graphs", graphs)
    data = np.memmap(graphs / "decoder.onnx.data", "<f4", "r+")
    data[0] = -1e6
    data.flush()
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match="expected at most 65504"):
        rewrite_decoder(graphs / "decoder.onnx", tmp_path / "out", Options())


def test_truncated_external_data(sources: dict[str, Path], tmp_path: Path) -> None:
    graphs = tmp_path / "graphs"
    shutil.copytree(sources["qwen2"] / "graphs", graphs)
    with (graphs / "decoder.onnx.data").open("r+b") as stream:
        stream.truncate(5000)
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match="external data of tensor"):
        rewrite_decoder(graphs / "decoder.onnx", tmp_path / "out", Options())


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("empty", "is empty"), ("binary", "not UTF-8"), ("missing", "not readable")):
        with pytest.raises(RequestError, match=words):
            read_text(tmp_path / name)
    assert "/" not in read_text().name and len(read_text().text) > 8000


def test_failure_while_measuring_leaves_nothing(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(RequestError, match="1 tokens, expected at least 2"):
        quantize(sources["qwen2"], tmp_path / "out", text=tmp_path / "short.txt")
    assert nothing_left(tmp_path, {"short.txt"})


# The command


def test_command(sources: dict[str, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    (tmp_path / "text").write_text("The farthing was the smallest coin of the realm.\n" * 4)
    common = [str(sources["qwen2"]), "--text", str(tmp_path / "text"), "--out"]
    shown = run(quantize_command, [*common, str(tmp_path / "a")], catch_exceptions=False)
    assert shown.exit_code == 0 and "KL(source || quantised)" in shown.output and "perplexity" in shown.output
    said = run(quantize_command, [*common, str(tmp_path / "b"), "--json", "--symmetric"], catch_exceptions=False)
    result = json.loads(said.stdout)
    assert result["loss"]["text"]["name"] == "text" and result["bytes"] < result["source_bytes"]
    assert open_bundle(tmp_path / "b").manifest["quantization"]["symmetric"] is True
    said = run(quantize_command, [str(sources["qwen2"]), "--out", str(tmp_path / "c"), "--no-measure", "--json"])
    assert json.loads(said.stdout)["loss"] is None
