"""A cache of int8: the kernel against its reference, and bundles that keep keys and values so, in every engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from engines import ENGINES, PROMPT, bundle
from hypothesis import given, settings
from hypothesis import strategies as st

import farthing
from farthing.calibration.evaluate import evaluate
from farthing.calibration.quality import Stream, Text, read_text, token_ids
from farthing.calibration.quantize import Options, quantize
from farthing.calibration.quantize.cache import CODES, HEADROOM, find_scales
from farthing.cli.main import cli
from farthing.errors import BundleError, RequestError
from farthing.export import export
from farthing.export.decoder import export_decoder
from farthing.plugins import library_path
from farthing.plugins.cached_attention.visible import pack_rows, tree_sees
from farthing.plugins.case import Case, floats
from farthing.plugins.check.face import compare, wanted
from farthing.plugins.check.onnxruntime_faces import execute
from farthing.plugins.quantized_cached_attention.cases import coded
from farthing.runtime.api import load
from farthing.runtime.bundle import open_bundle
from farthing.runtime.engines import _native, native_parts
from tiny import config, save_safetensors, weights, write_hf

needs_kernels = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")
needs_native = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")
CACHE_ALONE = Options(weights="same", embedding="same", head="same", kv="int8")
NEW = 40


@needs_kernels
@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 2),
    rows=st.integers(1, 70),
    group=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    dim=st.sampled_from([2, 10, 16, 20, 64, 80, 132]),
    past=st.integers(0, 130),
    window=st.sampled_from([0, 5, 66]),
    normed=st.booleans(),
    tree=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_kernel_is_the_reference(
    batch: int,
    rows: int,
    group: int,
    kv_heads: int,
    dim: int,
    past: int,
    window: int,
    normed: bool,
    tree: bool,
    seed: int,
) -> None:
    """Codes are equal, results near; and a row is bit for bit what it is alone, or on the path that it sees."""
    rng = np.random.default_rng(seed)
    heads = group * kv_heads
    angles = rng.uniform(-3, 3, (batch, rows, dim // 2))
    cache = np.zeros((batch, kv_heads, past + rows, dim), np.float32)
    inputs: list[np.ndarray | None] = [
        floats(rng, batch, rows, (heads + 2 * kv_heads) * dim),
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
        cache,
        cache,
        np.full(batch, past, np.int64),
        *([floats(rng, dim), floats(rng, dim)] if normed else [None, None]),
    ]
    parents = [-1, *(int(rng.integers(0, i)) for i in range(1, rows))]
    inputs.append(np.repeat(pack_rows(tree_sees(parents))[None], batch, 0) if tree else None)
    attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": dim**-0.5, "window": 0 if tree else window}
    case = coded(rng, Case("CachedAttention", "property", inputs, {**attributes, "rotary_dim": 0, "epsilon": 1e-6}))
    whole = execute(case, kernels=True, function=False)
    compare(whole, wanted(case), case.tolerance)

    path = np.flatnonzero(tree_sees(parents)[-1]).tolist() if tree else list(range(rows))
    alone = _one_by_one(case, path)
    assert whole["y"][:, path].tobytes() == alone[0].tobytes()
    slots = [past + i for i in path]
    assert whole["present_k"][:, :, slots].tobytes() == alone[1][:, :, past : past + len(path)].tobytes()


def _one_by_one(case: Case, path: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``path`` in passes of one row each: (y of each, keys at the end)."""
    qkv, cos, sin, keys, values, past_len, *rest = case.inputs
    assert qkv is not None and cos is not None and sin is not None and past_len is not None
    found = []
    for step, row in enumerate(path):
        one = slice(row, row + 1)
        inputs = [qkv[:, one], cos[:, one], sin[:, one], keys, values, past_len + step, *rest[:4]]
        made = execute(Case(case.operator, "step", inputs, case.attributes), kernels=True, function=False)
        keys, values = made["present_k"], made["present_v"]
        found.append(made["y"])
    assert keys is not None
    return np.concatenate(found, 1), keys


def some_text(folder: Path) -> Path:
    """A file of some 1000 tokens: the default text has 8000, which is seconds of every test."""
    path = folder / "some.txt"
    path.write_text(read_text().text[:1200], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def coded_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its cache in int8 and its weights as they are."""
    folder = tmp_path_factory.mktemp("kv")
    return quantize(bundle(), folder / "bundle", CACHE_ALONE, calibration=some_text(folder), measure=False).path


def test_what_was_written(coded_bundle: Path) -> None:
    """A quarter of the bytes; weights, graphs but for the attention, and tensor names stay."""
    opened, source = open_bundle(coded_bundle), open_bundle(bundle())
    manifest = opened.manifest
    assert manifest["kv"] == {**source.manifest["kv"], "dtype": "int8"}
    assert 4 * opened.kv_bytes(100) == source.kv_bytes(100) > 0
    about = manifest["quantization"]["kv"]
    assert about["dtype"] == "int8" and about["calibration"]["tokens"] > 600
    assert about["calibration"]["name"] == "some.txt" and len(about["calibration"]["sha256"]) == 64
    assert manifest["quantization"]["weights"] == manifest["quantization"]["head"] == "float32"
    graph = onnx.load(str(opened.graph("decoder")), load_external_data=False)
    kinds = [n.op_type for n in graph.graph.node]
    assert kinds.count("QuantizedCachedAttention") == manifest["kv"]["layers"] and "CachedAttention" not in kinds
    body = next(f for f in graph.functions if f.name == "QuantizedCachedAttention")
    assert {"QuantizeLinear", "DequantizeLinear", "TensorScatter"} <= {n.op_type for n in body.node}
    caches = [v for v in graph.graph.input if v.name.startswith("past_k") or v.name.startswith("past_v")]
    assert len(caches) == 2 * manifest["kv"]["layers"]
    assert all(v.type.tensor_type.elem_type == onnx.TensorProto.INT8 for v in caches)


def test_scales_leave_room(coded_bundle: Path) -> None:
    """No number of the calibration text gets a code above 127 - 8, and every layer has one that gets that."""
    ids = " ".join(str(i * i) for i in range(900))
    scales = find_scales(open_bundle(bundle()), Text("squares", ids), tokens=1024)
    kv = open_bundle(bundle()).manifest["kv"]
    assert len(scales.keys) == len(scales.values) == kv["layers"]
    assert all(s.shape == (kv["kv_heads"], kv["head_dim"]) and (s > 0).all() for s in (*scales.keys, *scales.values))
    stream = Stream(open_bundle(bundle()).graph("decoder"), kv)
    stream.reset()
    text, _ = token_ids(open_bundle(bundle()), scales.text, 128)  # the first of its windows
    for first in (0, 64):
        stream.feed(text[first : first + 64])
    steps = [
        np.abs(cache[0, :, :128]).max(1) / scale
        for cache, scale in zip(
            stream.cache, [s for pair in zip(scales.keys, scales.values) for s in pair], strict=True
        )
    ]
    assert max(float(s.max()) for s in steps) <= (CODES - HEADROOM) * 1.00001
    assert min(float(s.max()) for s in steps) > 0.9 * (CODES - HEADROOM)


def test_scales_hold_far_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow turns of a key's features are not seen at the first positions: scales found there alone clip keys at the last ones.

    As in trained models, some features of all keys are large: here by the bias of their projection.
    """
    tensors = weights(config("qwen2"))
    tensors |= {name: 100 * tensor for name, tensor in tensors.items() if name.endswith("k_proj.bias")}
    save_safetensors(write_hf(tmp_path / "hf", "qwen2") / "model.safetensors", tensors)
    opened = open_bundle(export_decoder(tmp_path / "hf", tmp_path / "bundle", check=False).path)
    longest, text = opened.manifest["model"]["max_positions"], read_text()
    spread = find_scales(opened, text, tokens=1024)
    stream = Stream(opened.graph("decoder"), opened.manifest["kv"])
    ids, _ = token_ids(opened, text, 128)
    stream.reset(longest - len(ids))
    for first in (0, 64):
        stream.feed(ids[first : first + 64])
    monkeypatch.setitem(opened.manifest["model"], "max_positions", 128)
    beginning = find_scales(opened, text, tokens=1024)

    def clipped(keys: Sequence[np.ndarray]) -> float:
        pairs = zip(stream.cache[0::2], keys, strict=True)
        return float(np.mean([np.abs(cache[0, :, : len(ids)] / scale[:, None]) > CODES for cache, scale in pairs]))

    assert clipped(spread.keys) < 1e-3 and clipped(beginning.keys) > 0.01


def greedy(model: farthing.Runtime, prompt: list[int] = PROMPT, **how: Any) -> list[int]:
    return model.generate(prompt_ids=prompt, max_new_tokens=NEW, greedy=True, stop_ids=[], **how).ids


@needs_native
def test_every_engine_says_the_same(coded_bundle: Path) -> None:
    """Portable and native, in pieces of any size, with drafts, several texts at once."""
    with load(coded_bundle, native=False, threads=1) as portable:
        ids = greedy(portable)
        others = greedy(portable, [7, 7, 7, 7, 9])
    with load(coded_bundle, native=True, threads=1, draft="none") as native:
        assert greedy(native) == ids
        assert (
            native.generate_all([PROMPT, [7, 7, 7, 7, 9]], max_new_tokens=NEW, greedy=True, stop_ids=[])[1].ids
            == others
        )
        for draft in ("lookup", "aded"):
            native.speculate(draft, always=True)
            assert greedy(native, [7, 7, 7, 7, 9]) == others
        assert greedy(native, [*PROMPT, 3], reuse_prefix=True) == greedy(native, [*PROMPT, 3])


@needs_native
def test_trees_of_drafts_are_moved_together(tmp_path: Path) -> None:
    """Accepted rows of a tree move to their slots: with int8 a slot has a quarter of the bytes."""
    checkpoint = write_hf(tmp_path / "checkpoint", "qwen3")
    source = export("decoder", checkpoint, tmp_path / "float", trees=True, check=False).path
    made = quantize(source, tmp_path / "int8", CACHE_ALONE, calibration=some_text(tmp_path), measure=False).path
    prompt = [5, 6, 7, 5, 6, 8, 5, 6, 7, 5, 6]
    with load(made, threads=1, draft="none") as model:
        ids = greedy(model, prompt)
        model.speculate("auto", always=True)
        assert greedy(model, prompt) == ids


@pytest.mark.parametrize("native", ENGINES)
def test_state_round_trip(coded_bundle: Path, native: bool, tmp_path: Path) -> None:
    """A saved state has a byte for each number of the cache, is taken by the other engine, and refused by the float bundle."""
    state, count = tmp_path / "state", len(PROMPT)
    with load(coded_bundle, native=native, threads=1, context=64) as model:
        model.prefill(PROMPT)
        wanted_logits = model.logits()
        model.save_state(state)
    kv = open_bundle(coded_bundle).manifest["kv"]
    numbers = 2 * kv["layers"] * kv["kv_heads"] * kv["head_dim"] * count
    assert state.stat().st_size == 112 + 4 * count + numbers + 64
    for other in (False, True) if native_parts().missing is None else (False,):
        with load(coded_bundle, native=other, threads=1, context=32) as model:
            model.load_state(state)
            model.rewind(count - 1)
            model.prefill(PROMPT[-1:])
            np.testing.assert_allclose(model.logits(), wanted_logits, atol=2e-4)
        with load(bundle(), native=other, threads=1) as floats_only:
            with pytest.raises(BundleError, match="model of .*load it into the bundle it was saved from"):
                floats_only.load_state(state)
            floats_only.prefill(PROMPT)
            floats_only.save_state(tmp_path / "floats")
        refused = pytest.raises(BundleError, match="model of .*load it into the bundle it was saved from")
        with load(coded_bundle, native=other, threads=1) as model, refused:
            model.load_state(tmp_path / "floats")


def test_loss_is_measured_with_everything_quantised(tmp_path: Path) -> None:
    """Weights and cache; `farthing eval` finds what was recorded, and the recorded answers verify."""
    text = tmp_path / "text"
    text.write_text(read_text().text[:900], encoding="utf-8")
    made = quantize(bundle(), tmp_path / "all", Options("int8", kv="int8"), text=text, calibration=some_text(tmp_path))
    assert made.loss is not None and 0 < made.loss["kl"] < 0.01
    assert made.cache_bytes * 4 == made.source_cache_bytes
    found = evaluate(made.path, read_text(text), against=bundle(), tokens=2048)
    assert found.kl is not None and abs(found.kl.value - made.loss["kl"]) < 1e-3 * made.loss["kl"] + 1e-9
    assert CliRunner().invoke(cli, ["verify", str(made.path)]).exit_code == 0
    shown = CliRunner().invoke(cli, ["inspect", str(made.path)])
    assert "int8" in shown.output and f"{made.cache_bytes:,} bytes a token" in shown.output


def test_command(tmp_path: Path) -> None:
    """--weights same keeps head and embedding, too, unless they are named."""
    run = CliRunner().invoke
    common = ["quantize", str(bundle()), "--weights", "same", "--kv", "int8", "--no-measure"]
    common += ["--calibration", str(some_text(tmp_path)), "--out"]
    done = run(cli, [*common, str(tmp_path / "a")], catch_exceptions=False)
    assert done.exit_code == 0 and "cache, bytes/token" in done.output
    assert open_bundle(tmp_path / "a").manifest["quantization"]["embedding"] == "float32"
    done = run(cli, [*common, str(tmp_path / "b"), "--head", "int8", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["options"]["head"] == "int8"
    assert open_bundle(tmp_path / "b").manifest["quantization"]["block"] == 32


def test_what_is_refused(coded_bundle: Path, tmp_path: Path) -> None:
    def refused(source: Path = coded_bundle, error: type[Exception] = RequestError, **how: Any) -> str:
        options = Options(**{"weights": "same", "head": "same", "embedding": "same", "kv": "int8", **how})
        with pytest.raises(error) as caught:
            quantize(source, tmp_path / "out", options, measure=False)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "int8 already, expected float32" in refused()
    assert "--kv is 'fp8', expected one of float32, int8" in refused(bundle(), kv="fp8")
    assert "what is to change is nothing" in refused(bundle(), kv="float32")
    assert "--rounding is given, expected absent with --weights same" in refused(bundle(), rounding="gptq")
    import gam_models

    assert "expected decoder" in refused(gam_models.bundle())
    with pytest.raises(RequestError, match="--calibration is given, expected absent without"):
        quantize(bundle(), tmp_path / "out", Options(), calibration=tmp_path / "x", measure=False)


@pytest.mark.parametrize(("place", "to"), [("kv", "float32"), ("graph", "float32"), ("kv", "int4")])
def test_manifests_that_say_another_dtype(coded_bundle: Path, place: str, to: str, tmp_path: Path) -> None:
    """Bytes are copied by what the manifest says: it is checked before anything runs."""
    shutil.copytree(coded_bundle, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_text())
    if place == "kv":
        manifest["kv"]["dtype"] = to
    else:
        next(t for t in manifest["graphs"]["decoder"]["inputs"] if t["name"] == "past_v.1")["dtype"] = to
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="dtype"):
        open_bundle(tmp_path / "b")
    if place == "kv" and native_parts().missing is None:
        with pytest.raises(BundleError, match="dtype"):
            _native(native_parts(), tmp_path / "b", 1, 16, False)
