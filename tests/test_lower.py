"""Graphs for older TensorRT: the same numbers, in operators that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import engines
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from farthing.calibration.quantize import Options, quantize
from farthing.errors import BundleError, RequestError
from farthing.export.lower import generation, lower, pin
from farthing.export.lower.generations import MODERN
from farthing.export.lower.merge import merge_equal
from farthing.plugins import cases, operator, operators
from farthing.plugins.check.face import compare, wanted
from farthing.plugins.check.graph import model as one_node
from farthing.runtime.bundle import open_bundle

FAMILIES = ("llama", "llama-bias", "mistral", "qwen2", "qwen3")
CAPACITY = 40


def graph_of(bundle: Path) -> onnx.ModelProto:
    return onnx.load(str(bundle / "graphs" / "decoder.onnx"))


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float arithmetic: the definition
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def caches(run: onnxruntime.InferenceSession, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {i.name: i.shape for i in run.get_inputs() if i.name.startswith(("past_k.", "past_v."))}
    return {n: rng.standard_normal((batch, s[1], CAPACITY, s[3])).astype(np.float32) for n, s in shapes.items()}


def greedy(run: onnxruntime.InferenceSession, prompt: list[int], count: int) -> list[int]:
    """Ids by a loop over the raw graph; the cache goes from output to input."""
    state = {n: np.zeros_like(a) for n, a in caches(run, 1, np.random.default_rng(0)).items()}
    names = [o.name for o in run.get_outputs()]
    ids, rows, past = [], list(prompt), 0
    while len(ids) < count:
        feed = {
            "input_ids": np.array([rows], np.int64),
            "positions": np.arange(past, past + len(rows), dtype=np.int64)[None],
            "past_len": np.array([past], np.int64),
            "logit_rows": np.array([[len(rows) - 1]], np.int64),
        }
        found = dict(zip(names, run.run(None, {**feed, **state}), strict=True))
        state = {n: found[n.replace("past_", "present_")] for n in state}
        past += len(rows)
        rows = [int(found["logits"][0, 0].argmax())]
        ids += rows
    return ids


@pytest.mark.parametrize("family", FAMILIES)
def test_lowered_graph_has_the_numbers_of_the_bodies(family):
    model = graph_of(engines.bundle(family))
    lowered = lower(model, "10.3")
    used = {n.op_type for n in lowered.graph.node}
    assert not used & {*MODERN, "CastLike"} and not lowered.functions
    assert max(o.version for o in lowered.opset_import) <= 20 and lowered.ir_version <= 10
    ours, theirs = session(model), session(lowered)
    rng = np.random.default_rng(1)
    for rows, past in ((5, [0, 3]), (1, [7, 39]), (8, [32, 2])):
        feed = {
            "input_ids": rng.integers(0, 300, (2, rows)),
            "positions": np.array(past)[:, None] + np.arange(rows),
            "past_len": np.array(past, np.int64),
            "logit_rows": np.tile(np.arange(rows, dtype=np.int64), (2, 1)),
            **caches(ours, 2, rng),
        }
        for a, b in zip(ours.run(None, feed), theirs.run(None, feed), strict=True):
            np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("family", ("llama", "qwen3"))
def test_lowered_graph_decodes_the_recorded_ids(family):
    bundle = engines.bundle(family)
    cases = json.loads((bundle / "vectors" / "decoder.json").read_text())["cases"]
    for version in ("10.3", "10.16"):
        run = session(lower(graph_of(bundle), version))
        for case in cases[:2]:
            wanted = case["greedy_ids"][: CAPACITY - len(case["prompt_ids"])]
            assert greedy(run, case["prompt_ids"], len(wanted)) == wanted


def test_quantised_graph_lowers_to_the_same_ids(tmp_path):
    out = quantize(
        engines.bundle("llama"), tmp_path / "q", Options("int4", 16, "int8", "int8", True), measure=False
    ).path
    model = graph_of(out)
    lowered = lower(model, "10.3")
    assert max(o.version for o in lowered.opset_import) == 21  # blocks of DequantizeLinear
    assert greedy(session(model), engines.PROMPT, 16) == greedy(session(lowered), engines.PROMPT, 16)
    int8 = {t.name for t in lowered.graph.initializer if t.data_type in (TensorProto.INT8, TensorProto.INT4)}
    readers = {n.op_type for n in lowered.graph.node if int8 & set(n.input)}
    assert readers == {"DequantizeLinear"}  # TensorRT refuses an int8 constant anywhere else


@pytest.mark.parametrize(("symmetric", "block", "words"), ((False, 16, "--symmetric"), (True, 32, "--block")))
def test_quantisation_that_tensorrt_refuses_is_refused_with_the_node_and_the_remedy(tmp_path, symmetric, block, words):
    options = Options("int4", block, "float16", "int8", symmetric)  # 80 inputs are no multiple of 32
    out = quantize(engines.bundle("llama"), tmp_path / "q", options, measure=False).path
    with pytest.raises(BundleError, match=rf"DequantizeLinear node .*expected.*{words}"):
        lower(graph_of(out), "11.4")


def test_what_layers_share_is_computed_once():
    model = pin(graph_of(engines.bundle("llama")), {"B": 1, "C": CAPACITY})
    lowered = lower(model, "10.3")
    count = {
        op: sum(n.op_type == op for n in lowered.graph.node) for op in ("ScatterND", "Tile", "LessOrEqual", "Expand")
    }
    assert count == {"ScatterND": 6, "Tile": 1, "LessOrEqual": 1, "Expand": 3}  # 3 layers; one mask, one set of indices


@pytest.mark.parametrize(("version", "attribute"), (("10.3", True), ("10.13", False), ("11.4", False)))
def test_plugin_nodes_stay_and_lose_their_body(version, attribute):
    model = graph_of(engines.bundle("llama"))
    lowered = lower(model, version, plugins=["SwiGLU", "CachedAttention"])
    nodes = [n for n in lowered.graph.node if n.domain == "farthing"]
    assert {n.op_type for n in nodes} == {"SwiGLU", "CachedAttention"} and len(nodes) == 6
    assert not lowered.functions  # the parser must not get to choose between body and plugin
    assert all(("plugin_namespace" in {a.name for a in n.attribute}) == attribute for n in nodes)
    assert {o.domain for o in lowered.opset_import} == {"", "farthing"}


def test_unknown_versions_and_operators_are_refused():
    for version in ("8.6", "ten", "", "10.x"):
        with pytest.raises(RequestError, match=r"TensorRT version is .*expected 10\.0 or later"):
            generation(version)
    with pytest.raises(RequestError, match="plugin is 'Nothing', expected one of"):
        lower(graph_of(engines.bundle("llama")), "10.3", plugins=["Nothing"])


def _one(op: str, inputs: dict[str, list], outputs: list[str], **attributes) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), outputs, name="it", **attributes)],
        "g",
        values,
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    if op == "GroupNormalization":  # shape inference does not know it
        model.graph.output[0].CopyFrom(
            helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, next(iter(inputs.values())))
        )
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("model", "words"),
    (
        (
            _one("RotaryEmbedding", {"x": [1, 2, 3, 8], "c": [1, 3, 4], "s": [1, 3, 4]}, ["y"], interleaved=1),
            "interleaved",
        ),
        (_one("RotaryEmbedding", {"x": [1, 3, 16], "c": [1, 3, 4], "s": [1, 3, 4]}, ["y"], num_heads=2), "rank"),
        (_one("Attention", {n: [1, 2, 3, 8] for n in "qkv"}, ["y"], is_causal=1), "is_causal"),
        (_one("Attention", {n: [1, 2, 3, 8] for n in ("q", "k", "v", "", "pk", "pv") if n}, ["y"]), "past_key"),
    ),
)
def test_what_has_no_decomposition_is_refused_by_node(model, words):
    if words == "past_key":  # q, k, v, no mask, past
        model.graph.node[0].input.insert(3, "")
        model.graph.node[0].ClearField("input")
        model.graph.node[0].input.extend(["q", "k", "v", "", "pk", "pv"])
    with pytest.raises(BundleError, match=rf"{words} of .* node it is .*expected"):
        lower(model, "10.3")


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    (
        ("Attention", {"q": [2, 6, 3, 8], "k": [2, 2, 5, 8], "v": [2, 2, 5, 4]}, {"softcap": 2.0}),
        ("Attention", {"q": [1, 2, 3, 8], "k": [1, 2, 5, 8], "v": [1, 2, 5, 8], "m": [1, 1, 3, 5]}, {"scale": 0.3}),
        ("Attention", {"q": [2, 3, 24], "k": [2, 5, 8], "v": [2, 5, 4]}, {"q_num_heads": 6, "kv_num_heads": 2}),
        (
            "Attention",
            {"q": [2, 3, 8], "k": [2, 5, 8], "v": [2, 5, 8], "m": [2, 1, 3, 5]},
            {"q_num_heads": 2, "kv_num_heads": 2},
        ),
        ("GroupNormalization", {"x": [2, 6, 3, 5], "s": [6], "b": [6]}, {"num_groups": 2, "epsilon": 1e-3}),
        ("RMSNormalization", {"x": [2, 3, 8], "w": [8]}, {"epsilon": 1e-3}),
        ("RotaryEmbedding", {"x": [2, 2, 3, 10], "c": [2, 3, 3], "s": [2, 3, 3]}, {"rotary_embedding_dim": 6}),
        ("Swish", {"x": [4, 5]}, {"alpha": 1.7}),
    ),
)
def test_each_decomposition_equals_its_operator(op, shapes, attributes):
    model = _one(op, shapes, ["y"], **attributes)
    rng = np.random.default_rng(0)
    feed = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    wanted = session(model).run(None, feed)[0]
    lowered = lower(model, "10.3")
    assert op not in {n.op_type for n in lowered.graph.node}
    np.testing.assert_allclose(session(lowered).run(None, feed)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_old_opsets_are_raised(version):
    """Axes of a ReduceMean are an attribute until 17; TensorRT reads the graph as the opset that lowering writes."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        ),
        opset_imports=[helper.make_opsetid("", 14)],
        ir_version=8,
    )
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(session(lower(model, version)).run(None, {"x": x})[0], x.mean(1))


def test_equal_nodes_merge_and_random_ones_do_not():
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])]
    nodes += [helper.make_node("RandomNormalLike", ["x"], [o]) for o in ("r", "s")]
    nodes.append(helper.make_node("Sum", ["a", "b", "r", "s"], ["y"]))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    assert merge_equal(graph) == 1
    assert list(graph.node[-1].input) == ["a", "a", "r", "s"]


def test_the_bundle_is_not_changed():
    bundle = engines.bundle("llama")
    model = graph_of(bundle)
    before = model.SerializeToString(deterministic=True)
    lower(pin(model, {"B": 1, "C": CAPACITY}), "10.3")
    assert model.SerializeToString(deterministic=True) == before
    open_bundle(bundle)


def test_gated_associative_memory_lowers_to_the_same_numbers():
    import gam_models

    path = next((gam_models.bundle() / "graphs").glob("*.onnx"))
    model = onnx.load(str(path))
    lowered = lower(model, "10.3")
    assert not {n.domain for n in lowered.graph.node} - {""} and not lowered.functions
    rng, feed = np.random.default_rng(0), {}
    sizes = {"B": 2, "S": 5, "R": 3}
    for value in model.graph.input:
        shape = [sizes.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
        whole = value.type.tensor_type.elem_type == TensorProto.INT64
        feed[value.name] = rng.integers(0, 5, shape) if whole else rng.standard_normal(shape).astype(np.float32)
    for a, b in zip(session(model).run(None, feed), session(lowered).run(None, feed), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("name", sorted(operators()))
def test_the_body_of_every_operator_lowers_to_its_reference(name):
    ran = 0
    for case in [c for c in cases(name) if not c.refuses and "lowers" in c.skips.get("rtx_body", "lowers")][:12]:
        expected = wanted(case)
        lowered = lower(one_node(case, {n: a.shape for n, a in expected.items()}), "10.3")
        assert not lowered.functions and not {n.domain for n in lowered.graph.node} - {""}
        run = session(lowered)
        given = {p.name: a for p, a in zip(operator(name).inputs, case.inputs, strict=False) if a is not None}
        feed = {i.name: given[i.name] for i in run.get_inputs()}
        found = dict(zip([o.name for o in run.get_outputs()], run.run(None, feed), strict=True))
        compare(found, expected, case.tolerance)
        ran += 1
    assert ran >= 3
