"""TensorRT-RTX builds an engine for every graph of every bundle we export, on a machine without a GPU.

Compiled to a file, that is; nothing here runs on a GPU.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import engines
import onnx
import pytest
from mtp_models import random_adapter
from networks import write_vision
from onnx import TensorProto, helper
from rtx import needs_rtx, rtx, write_plan
from test_decoder_reference import smollm2
from test_judge import a_judge
from test_network_int4 import write_normed, write_pointwise
from test_static_quantize import encoder, pictures, text
from vlm_models import write_llava
from vlora_models import write_vlora

from farthing.calibration.network_int4 import WeightOptions, quantize_weights
from farthing.calibration.quality import read_text
from farthing.calibration.quantize import Options, quantize
from farthing.calibration.static import StaticOptions, quantize_network
from farthing.errors import BundleError
from farthing.export import export
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.ftp_head import save_head
from farthing.export.checkpoint.judge_file import save_judge
from farthing.export.checkpoint.mtp_adapter import save_adapter
from farthing.export.compile import compile_bundle
from farthing.export.compile.process import build_in_subprocess
from farthing.export.decoder import export_decoder
from farthing.export.onnx_import import import_onnx
from farthing.models.ftp import FtpConfig, FtpHead
from farthing.runtime.bundle.compiled import open_compiled
from tiny import write_hf

__all__ = ["rtx"]
pytestmark = [needs_rtx, pytest.mark.usefixtures("rtx")]
SMALL = {"context": 64, "chunk": 32}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """(family, storage) -> a bundle; int4 and int8 in blocks of 16, since the tiny sizes are multiples of no more."""
    root = tmp_path_factory.mktemp("rtx")

    def made(family: str, storage: str) -> Path:
        source, out = engines.bundle(family), root / f"{family}-{storage}"
        if storage == "float32":
            return source
        if not out.exists() and storage == "float16":
            export_decoder(engines.folder() / f"{family}.hf", out, dtype="float16", check=False)
        elif not out.exists():
            embedding = "float16" if storage == "int4" else "int8"
            quantize(source, out, Options(storage, 16, embedding, "int8", True), measure=False)
        return out

    return made


@pytest.mark.parametrize("storage", ("float32", "float16", "int4", "int8"))
@pytest.mark.parametrize("family", ("llama", "qwen2", "qwen3"))
def test_every_graph_of_every_bundle_builds(bundle, tmp_path, family, storage):
    path = bundle(family, storage)
    sm = [86, 89, 120] if storage in ("float32", "int4") else [89]  # one engine for all of them; each costs CI a second
    result = compile_bundle(path, "tensorrt-rtx", sm=sm, out=tmp_path, **SMALL)
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(result.graphs) == set(manifest["graphs"])
    compiled = open_compiled(result.path)
    for name in result.graphs:
        assert compiled.file(name).read_bytes()[1:4] == b"trt"  # the magic of TensorRT's engine files
    assert compiled.index["key"]["sm"] == sm
    assert [p["name"] for p in compiled.index["graphs"]["decoder"]["profiles"]] == ["decode", "prefill"]
    assert not [w for w in compiled.index["warnings"] if "Int64 binding" not in w]


@pytest.mark.parametrize(
    ("storage", "sm", "trt"), (("fp8", [89, 120], None), ("fp8", [89], "10.3"), ("nvfp4", [120], None))
)
def test_small_floats_build_where_the_device_has_them(bundle, tmp_path, storage, sm, trt):
    made = compile_bundle(bundle("llama", storage), "tensorrt-rtx", sm=sm, trt=trt, out=tmp_path, **SMALL)
    assert made.graphs["decoder"]["bytes"] > 100_000


@pytest.mark.parametrize("trt", (None, "10.3"))
def test_a_cache_of_int8_builds(bundle, tmp_path, trt):
    """Its TensorScatter becomes ScatterND, which TensorRT has in int8; so past and present are two buffers."""
    text = tmp_path / "text"  # a short one: what the scales are does not matter here
    text.write_text(read_text().text[:1200], encoding="utf-8")
    how = Options("int8", 16, symmetric=True, kv="int8")
    made = quantize(bundle("qwen3", "float32"), tmp_path / "b", how, calibration=text, measure=False)
    result = compile_bundle(made.path, "tensorrt-rtx", sm=[89], trt=trt, out=tmp_path / "out", **SMALL)
    compiled = open_compiled(result.path)
    assert compiled.file("decoder").read_bytes()[1:4] == b"trt"
    assert compiled.index["graphs"]["decoder"]["in_place"] is False
    assert not [w for w in compiled.index["warnings"] if "Int64 binding" not in w]


@pytest.mark.parametrize(("family", "storage"), (("qwen3", "float32"), ("llama", "int4")))
def test_graphs_for_jetpack_6_build_as_well(bundle, tmp_path, family, storage):
    result = compile_bundle(bundle(family, storage), "tensorrt-rtx", sm=[89], trt="10.3", out=tmp_path, **SMALL)
    assert result.graphs["decoder"]["bytes"] > 100_000


@pytest.mark.parametrize("trt", (None, "10.3"))
@pytest.mark.parametrize("method", ("trees", "mtp", "ftp", "judge"))
def test_every_graph_that_guesses_ahead_builds(tmp_path_factory, method, trt):
    folder = tmp_path_factory.mktemp(method)
    checkpoint = write_hf(folder / "checkpoint", "qwen3")
    base, adapter = open_checkpoint(checkpoint), folder / "adapter.safetensors"
    if method == "trees":
        export("decoder", checkpoint, folder / "bundle", trees=True, check=False)
    elif method == "judge":
        save_judge(adapter, a_judge(), base)
        export("judge", checkpoint, folder / "bundle", judge=adapter, check=False)
    else:
        if method == "mtp":
            save_adapter(adapter, random_adapter(base, masks=2), base)
        else:
            sizes = FtpConfig(base.config.hidden_size, memory=2, horizon=3, intermediate_size=32)
            save_head(adapter, FtpHead(sizes), base)
        export(method, checkpoint, folder / "bundle", adapter=adapter, check=False)
    made = compile_bundle(folder / "bundle", "tensorrt-rtx", sm=[89], trt=trt, out=folder / "out", tree=[4], **SMALL)
    assert set(made.graphs) == set(json.loads((folder / "bundle" / "manifest.json").read_text())["graphs"])
    assert not [w for w in open_compiled(made.path).index["warnings"] if "nused" in w]


@pytest.mark.parametrize("trt", (None, "10.3"))
@pytest.mark.parametrize("kind", ("encoder", "vision", "int8 encoder", "int8 vision"))
def test_networks_build(tmp_path, kind, trt):
    """What `farthing import` takes in, as it is and in int8."""
    path = (
        encoder(tmp_path) if "encoder" in kind else import_onnx(write_vision(tmp_path / "n.onnx"), tmp_path / "b").path
    )
    if "int8" in kind:
        data = {"text": text(tmp_path)} if "encoder" in kind else {"images": pictures(tmp_path / "pictures")}
        path = quantize_network(path, tmp_path / "int8", StaticOptions(), **data).path
    made = compile_bundle(path, "tensorrt-rtx", sm=[89], trt=trt, out=tmp_path / "out", batch=2, chunk=32)
    entry = open_compiled(made.path).index["graphs"]["network"]
    assert [p["name"] for p in entry["profiles"]] == ["run"]
    assert not [w for w in open_compiled(made.path).index["warnings"] if "nused" in w]


@pytest.mark.parametrize(("kind", "trt"), (("encoder", None), ("pointwise", None), ("normed", "10.3")))
def test_networks_with_int4_weights_build(tmp_path, kind, trt):
    """Matrices and convolutions of 1 x 1; the last from an old opset, behind factors of AWQ."""
    if kind == "encoder":
        path, data = encoder(tmp_path), {"text": text(tmp_path)}
    else:
        write = write_pointwise if kind == "pointwise" else write_normed
        path = import_onnx(write(tmp_path / "n.onnx"), tmp_path / "b").path
        data = {"images": pictures(tmp_path / "pictures")}
    options = WeightOptions(symmetric=True, rounding="awq" if kind == "normed" else "nearest")
    path = quantize_weights(path, tmp_path / "int4", options, limit=8, **data).path
    made = compile_bundle(path, "tensorrt-rtx", sm=[120], trt=trt, out=tmp_path / "out", batch=2, chunk=32)
    assert not [w for w in open_compiled(made.path).index["warnings"] if "nused" in w]


INSIDE = {"ratios": (0.5,), "importance": "norm", "prune_layer": 1}


@pytest.mark.parametrize(
    ("method", "family", "options", "trt"),
    (
        ("idpruner", "llava", INSIDE, None),
        ("idpruner", "llava", INSIDE, "10.3"),
        ("zoo-prune", "llava", {"ratios": (0.5,), "estimator": "zo"}, None),
        ("globalcom2", "llava_next", {"ratios": (0.9,)}, None),
        ("matryoshka", "llava_next", {"scales": (1,)}, None),
        ("ima-skip", "llava", {"plan": "0:ffn,1:block"}, None),
    ),
)
@pytest.mark.filterwarnings("ignore:.*matryoshka_vis_token_scale")
def test_every_graph_of_images_builds(tmp_path, method, family, options, trt):
    """Towers, projectors with their reductions, visual passes and decoders."""
    bundle = export(method, write_llava(tmp_path / "model", family), tmp_path / "bundle", check=False, **options).path
    made = compile_bundle(bundle, "tensorrt-rtx", sm=[89], trt=trt, context=128, chunk=32)
    assert {"vision", "project", "visual_step", "decoder"} < set(made.graphs)


def test_images_that_become_weights_build(tmp_path):
    """Tower, generator, and the decoder that takes what it makes."""
    bundle = export("vlora", write_vlora(tmp_path / "model"), tmp_path / "bundle", check=False).path
    made = compile_bundle(bundle, "tensorrt-rtx", sm=[89], context=64, chunk=32)
    assert set(made.graphs) == {"vision", "perceive", "decoder"}


def test_tree_profiles_build(bundle, tmp_path):
    result = compile_bundle(bundle("llama", "float32"), "tensorrt-rtx", sm=[89], tree=[4, 8], out=tmp_path, **SMALL)
    profiles = open_compiled(result.path).index["graphs"]["decoder"]["profiles"]
    assert [p["name"] for p in profiles] == ["decode", "prefill", "tree4", "tree8"]
    assert profiles[3]["shapes"]["input_ids"] == [[1, 5], [1, 8], [1, 8]]


def test_engines_are_kept_and_damaged_ones_built_again(bundle, tmp_path):
    path = bundle("llama", "float32")
    first = compile_bundle(path, "tensorrt-rtx", sm=[89], out=tmp_path, **SMALL)
    again = compile_bundle(path, "tensorrt-rtx", sm=[89], out=tmp_path, **SMALL)
    assert (first.cached, again.cached) == (False, True) and again.path == first.path
    other = compile_bundle(path, "tensorrt-rtx", sm=[89], out=tmp_path, context=65, chunk=32)
    assert other.path != first.path and not other.cached
    engine = first.path / "decoder.engine"
    data = bytearray(engine.read_bytes())
    data[1000] ^= 1
    engine.write_bytes(data)
    with pytest.raises(BundleError, match=r"sha256 of .*decoder\.engine is .*compile again"):
        open_compiled(first.path)
    mended = compile_bundle(path, "tensorrt-rtx", sm=[89], out=tmp_path, **SMALL)
    assert not mended.cached
    open_compiled(mended.path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing half made is left


def test_an_input_that_the_parser_drops_is_an_error(tmp_path):
    """TensorRT-RTX parses Attention's lengths and ignores them, with a warning: the engine would attend to garbage."""
    half, whole = TensorProto.FLOAT16, TensorProto.INT64
    values = [helper.make_tensor_value_info(n, half, [1, 2, 8, 64]) for n in "qkv"]
    values.append(helper.make_tensor_value_info("lengths", whole, [1]))
    node = helper.make_node("Attention", ["q", "k", "v", "", "", "", "lengths"], ["y"])
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", half, [1, 2, 8, 64])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(BundleError, match=r"(?i)unused input.*expected every input to be used"):
        build_in_subprocess(
            os.environ["FARTHING_RTX_PYTHON"] or sys.executable,
            write_plan(tmp_path, "g", [], in_place=True),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_a_refused_graph_names_its_node(tmp_path):
    """NonZero is one of the operators that TensorRT-RTX says it supports and then refuses."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "n"])
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"], name="the_node")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(BundleError, match=r"graph g is refused by the (parser|builder) \(.*expected"):
        build_in_subprocess(
            os.environ["FARTHING_RTX_PYTHON"] or sys.executable,
            write_plan(tmp_path, "g", [], in_place=True),
            tmp_path / "out",
        )


@pytest.mark.slow
def test_smollm2_builds(tmp_path):
    export_decoder(smollm2(), tmp_path / "b", check=False)
    result = compile_bundle(tmp_path / "b", "tensorrt-rtx", sm=[89], out=tmp_path / "out", context=2048)
    assert result.graphs["decoder"]["bytes"] > 400e6


@pytest.mark.parametrize("trt", (None, "10.3"))
def test_gated_associative_memory_builds(tmp_path, trt):
    gam_models = pytest.importorskip("gam_models")
    result = compile_bundle(gam_models.bundle(), "tensorrt-rtx", sm=[89], trt=trt, out=tmp_path, **SMALL)
    assert len(result.graphs) == 1
    (name,) = result.graphs
    assert open_compiled(result.path).file(name).read_bytes()[1:4] == b"trt"
