"""Exported bundles: what is in them, what they compute, how they are laid out, and that they are the same every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tiny
from farthing.errors import CheckpointError, RequestError, VerificationError
from farthing.export import export, methods, recipe
from farthing.export.checkpoint import open_checkpoint
from farthing.export.decoder import export_decoder
from farthing.export.graph import GraphWriter
from farthing.models.blocks import KVCache
from farthing.models.decoder import Decoder
from farthing.plugins.contract import IR_VERSION, OPSET
from farthing.runtime import tensors as names
from farthing.runtime.bundle import Bundle, open_bundle

PROMPT = [5, 77, 12, 140, 33, 9, 201, 64, 64, 250, 18]


def session(bundle: Bundle) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(bundle.graph("decoder")), options, providers=["CPUExecutionProvider"])


def greedy(
    bundle: Bundle, prompt: list[int], count: int, *, capacity: int | None = None, first: int = 10**6
) -> list[int]:
    """Plain ONNX Runtime, bodies only; the prompt in pieces of ``first`` rows."""
    run, kv = session(bundle), bundle.manifest["kv"]
    shape = (1, kv["kv_heads"], capacity or len(prompt) + count, kv["head_dim"])
    pasts = [n.format(i) for i in range(kv["layers"]) for n in (names.PAST_K, names.PAST_V)]
    presents = [n.format(i) for i in range(kv["layers"]) for n in (names.PRESENT_K, names.PRESENT_V)]
    # Not zeros: slots that are not filled yet hold whatever was in memory.
    cache = [np.full(shape, 7.5e8, np.float32) for _ in pasts]
    todo, past, ids = list(prompt), 0, []
    while len(ids) < count:
        pending, todo = todo[:first], todo[first:]
        feeds = {
            names.INPUT_IDS: np.array([pending], np.int64),
            names.POSITIONS: past + np.arange(len(pending), dtype=np.int64)[None],
            names.PAST_LEN: np.array([past], np.int64),
            names.LOGIT_ROWS: np.array([[len(pending) - 1]], np.int64),
            **dict(zip(pasts, cache, strict=True)),
        }
        logits, *cache = run.run([names.LOGITS, *presents], feeds)
        past += len(pending)
        if not todo:
            todo = [int(logits[0, 0].argmax())]
            ids += todo
    return ids


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_bodies_equal_the_reference(family: str, tmp_path: Path) -> None:
    """128 greedy ids by plain ONNX Runtime equal the reference's (and so transformers', see test_decoder_reference)."""
    folder = tiny.write_hf(tmp_path / "hf", family)
    result = export_decoder(folder, tmp_path / "out")
    bundle = open_bundle(result.path)
    wanted = Decoder(open_checkpoint(folder)).greedy(PROMPT, 128)
    assert greedy(bundle, PROMPT, 128) == wanted
    assert greedy(bundle, PROMPT, 24, capacity=200, first=4) == wanted[:24], "prefill in pieces, a larger cache"
    assert result.check is not None and result.check["max_abs"] < 1e-4
    biased = family in ("llama-bias", "qwen2", "qwen2-window", "qwen3-bias")
    assert 8 <= result.nodes_per_layer <= (12 if biased else 8)
    assert (
        result.parameters
        == bundle.manifest["model"]["parameters"]
        == sum(a.size for a in tiny.weights(tiny.config(family)).values())
    )


def test_graph_is_what_the_runtime_expects(tmp_path: Path) -> None:
    bundle = open_bundle(export_decoder(tiny.write_hf(tmp_path / "hf", "qwen2"), tmp_path / "out").path)
    model = onnx.load(bundle.graph("decoder"))
    onnx.checker.check_model(str(bundle.graph("decoder")), full_check=False)
    assert model.ir_version == IR_VERSION
    assert {o.domain: o.version for o in model.opset_import} == {"": OPSET, "farthing": 1}
    assert sorted(f.name for f in model.functions) == ["AddRMSNorm", "CachedAttention", "Linear", "SwiGLU"]
    graph = bundle.manifest["graphs"]["decoder"]
    assert [i.name for i in model.graph.input] == [i["name"] for i in graph["inputs"]]
    assert [o.name for o in model.graph.output] == [o["name"] for o in graph["outputs"]]
    assert [i["name"] for i in graph["inputs"]][:4] == ["input_ids", "positions", "past_len", "logit_rows"]
    shapes = {t["name"]: t["shape"] for t in graph["inputs"] + graph["outputs"]}
    assert shapes["past_k.2"] == shapes["present_v.2"] == ["B", 2, "C", 12] and shapes["logits"] == ["B", "R", 300]
    produced = {o for n in model.graph.node for o in n.output}
    assert {names.HIDDEN.format(i) for i in range(4)} <= produced, "the drift report needs the streams"
    names_ = [n.name for n in model.graph.node]
    assert len(set(names_)) == len(names_) and all(names_)


def test_tied_embedding_is_one_tensor(tmp_path: Path) -> None:
    bundle = open_bundle(export_decoder(tiny.write_hf(tmp_path / "hf", "qwen2"), tmp_path / "out").path)
    graph = onnx.load(bundle.graph("decoder"), load_external_data=False).graph
    users = [n.op_type for n in graph.node if "embed.weight" in n.input]
    assert users == ["Gather", "Linear"]
    assert [i.name for i in graph.initializer if i.dims == [300, 48]] == ["embed.weight"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_external_data_layout(dtype: str, tmp_path: Path) -> None:
    """Tensors from 4 KiB are outside, page-aligned, in order, without overlap; smaller ones inside; matrices as dtype says."""
    bundle = open_bundle(
        export_decoder(tiny.write_hf(tmp_path / "hf", "llama-bias"), tmp_path / "out", dtype=dtype).path
    )
    graph = onnx.load(bundle.graph("decoder"), load_external_data=False).graph
    data = bundle.path / "graphs" / "decoder.onnx.data"
    end, outside = 0, 0
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert len(tensor.raw_data) < 4096
            continue
        entry = {e.key: e.value for e in tensor.external_data}
        offset, length = int(entry["offset"]), int(entry["length"])
        width = 2 if tensor.data_type == onnx.TensorProto.FLOAT16 else 4
        assert entry["location"] == "decoder.onnx.data"
        assert offset % 4096 == 0 and end <= offset < end + 4096 and length == np.prod(tensor.dims) * width >= 4096
        end, outside = offset + length, outside + 1
    assert outside > 8 and data.stat().st_size == end
    kinds = {t.name: t.data_type for t in graph.initializer if t.data_type != onnx.TensorProto.INT64}
    matrix = onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.FLOAT
    for name, kind in kinds.items():
        is_matrix = name.endswith(".weight") and "norm" not in name
        assert kind == (matrix if is_matrix else onnx.TensorProto.FLOAT), name


def test_float16_storage(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    result = export_decoder(folder, tmp_path / "out", dtype="float16")
    bundle = open_bundle(result.path)
    assert greedy(bundle, PROMPT, 32) == Decoder(open_checkpoint(folder), storage="float16").greedy(PROMPT, 32)
    assert bundle.manifest["quantization"] == {"weights": "float16", "embedding": "float16", "head": "float16"}
    assert bundle.manifest["method"]["guarantee"] == "lossy"


def test_float16_overflow_is_named(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    tensors = tiny.weights(tiny.config())
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = -70000.0
    tiny.save_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.down\.weight is 70000\.0, expected at most 65504; use --dtype float32"
    ):
        export_decoder(folder, tmp_path / "out", dtype="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf", "qwen3")
    code = "import sys; from farthing.export import export; export('decoder', sys.argv[1], sys.argv[2])"
    for name, seed in (("a", "0"), ("b", "1")):  # other hash seeds: no set or dict order may show
        subprocess.run(
            [sys.executable, "-c", code, folder, tmp_path / name], check=True, env={**_env(), "PYTHONHASHSEED": seed}
        )
    first, second = (
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second and len(first) == 6


def test_weights_in_the_graph_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    bundle = open_bundle(export_decoder(folder, tmp_path / "out").path)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(bundle.graph("decoder")).graph.initializer}
    c = open_checkpoint(folder)
    parts = [c.tensor(f"layers.1.{n}.weight") for n in "qkv"]
    assert np.array_equal(stored["layers.1.qkv.weight"], np.concatenate(parts))
    assert np.array_equal(
        stored["layers.2.gate_up.weight"], np.concatenate([c.tensor(f"layers.2.{n}.weight") for n in ("gate", "up")])
    )
    assert np.array_equal(stored["inv_freq"], c.config.rope.inv_freq(12))


def test_vectors(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    bundle = open_bundle(export_decoder(folder, tmp_path / "out").path)
    cases = json.loads(bundle.text(bundle.manifest["vectors"]))["cases"]
    assert [len(c["prompt_ids"]) for c in cases[:3]] == [3, 8, 21] and len(cases) == 4
    model = Decoder(open_checkpoint(folder))
    for case in cases:
        assert len(case["greedy_ids"]) == len(case["margins"]) == 16 and min(case["margins"]) > 0
        assert case["greedy_ids"] == model.greedy(case["prompt_ids"], 16)
        rows = torch.tensor([[len(case["prompt_ids"]) - 1]])
        ids = torch.tensor([case["prompt_ids"]])
        row = model.forward(
            ids, KVCache.empty(model.config, 100), torch.zeros(1, dtype=torch.int64), logit_rows=rows
        ).logits[0, 0]
        recorded = case["logits"]
        assert np.abs(row[recorded["ids"]].numpy() - recorded["values"]).max() < 1e-4
        assert abs(float(row.double().norm()) - recorded["l2"]) < 1e-3
        assert int(row.argmax()) in recorded["ids"] and len(recorded["ids"]) >= 60


def test_tokenizer_and_provenance(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    bundle = open_bundle(export_decoder(folder, tmp_path / "out").path)
    entry = bundle.manifest["tokenizer"]
    assert entry == {
        "file": "tokenizer/tokenizer.json", "vocab_size": 292, "bos_id": 1, "eos_ids": [2], "add_bos": False,
        "chat_template": "tokenizer/chat_template.jinja",
    }  # fmt: skip
    assert bundle.text(entry["file"]) == (folder / "tokenizer.json").read_text(encoding="utf-8")
    source = bundle.manifest["provenance"]["checkpoint"]
    assert source == {"kind": "huggingface", "name": "hf", "sha256": open_checkpoint(folder).sha256()}
    assert str(tmp_path) not in json.dumps(bundle.manifest), "a bundle must not tell where it was made"


def test_model_without_tokenizer(tmp_path: Path) -> None:
    bundle = open_bundle(export_decoder(tiny.write_hf(tmp_path / "hf", tokenizer=False), tmp_path / "out").path)
    assert bundle.manifest["tokenizer"] is None and not (bundle.path / "tokenizer").exists()
    assert len(json.loads(bundle.text("vectors/decoder.json"))["cases"]) == 3


def test_gguf_gives_the_same_graph(tmp_path: Path) -> None:
    a = export_decoder(tiny.write_hf(tmp_path / "hf"), tmp_path / "a")
    b = export_decoder(tiny.write_gguf(tmp_path / "m.gguf"), tmp_path / "b")
    for file in ("graphs/decoder.onnx", "graphs/decoder.onnx.data"):
        assert (a.path / file).read_bytes() == (b.path / file).read_bytes()


def test_context_shorter_than_the_vectors(tmp_path: Path) -> None:
    """A model of 20 positions: prompts are cut so that prompt and continuation fit."""
    folder = tiny.write_hf(tmp_path / "hf", max_position_embeddings=20)
    cases = json.loads(open_bundle(export_decoder(folder, tmp_path / "out").path).text("vectors/decoder.json"))["cases"]
    assert max(len(c["prompt_ids"]) for c in cases) == 4


def test_no_check_skips_torch(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path / "hf")
    code = (
        "import sys; from farthing.export import export; r = export('decoder', sys.argv[1], sys.argv[2], check=False);"
        "assert r.check is None; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, folder, tmp_path / "out"], check=True, env=_env())


def test_a_wrong_graph_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: with another epsilon in the graph the export stops and leaves nothing."""
    folder = tiny.write_hf(tmp_path / "hf")
    original = GraphWriter.operator

    def wrong(self, op, inputs, outputs, **attributes):
        if op == "AddRMSNorm":
            attributes["epsilon"] = 1e-2
        original(self, op, inputs, outputs, **attributes)

    monkeypatch.setattr(GraphWriter, "operator", wrong)
    with pytest.raises(VerificationError, match="difference between graph and PyTorch reference"):
        export_decoder(folder, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_nodes_of_an_operator_must_agree(tmp_path: Path) -> None:
    with GraphWriter(tmp_path, "g") as writer:
        writer.operator("AddRMSNorm", ["a", "b", "c"], ["d", "e"], epsilon=1e-5)
        with pytest.raises(ValueError, match="one body per operator"):
            writer.operator("AddRMSNorm", ["d", "e", "c"], ["f", "g"], epsilon=1e-6)
        writer.operator("Linear", ["a", "w"], ["h"])
        with pytest.raises(ValueError, match="one body per operator"):
            writer.operator("Linear", ["a", "w", "bias"], ["i"])


def test_requests() -> None:
    assert "decoder" in methods() and recipe("decoder").method == "decoder"
    with pytest.raises(RequestError, match=r"'decodr', expected one of .*decoder.*; the nearest is 'decoder'"):
        recipe("decodr")
    with pytest.raises(RequestError, match="dtype is 'int4', expected one of float32, float16"):
        export("decoder", "nowhere", "nowhere-either", dtype="int4")


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}
