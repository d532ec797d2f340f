"""Damaged, incomplete, contradictory and unknown checkpoints: each refused with file, field and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from farthing.errors import CheckpointError
from farthing.export.checkpoint import open_checkpoint


def refused(folder: Path, *words: str) -> str:
    """Opening (with the tokenizer) fails, the message has the house form and all ``words``."""
    with pytest.raises(CheckpointError) as info:
        open_checkpoint(folder).tokenizer()
    text = str(info.value)
    assert " is " in text and ", expected " in text and "; " in text, text
    for word in words:
        assert word in text, text
    return text


def edit(folder: Path, name: str = "config.json", **changes: object) -> Path:
    values = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    tiny.write_json(folder / name, {**values, **changes})
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "lama"}, ["model_type", "'lama'", "llama, mistral, qwen2, qwen3", "nearest is 'llama'"]),
        ({"model_type": "qwen3_moe"}, ["'qwen3_moe'", "nearest is 'qwen3'"]),
        ({"model_type": None}, ["model_type", "missing"]),
        ({"model_type": 3}, ["model_type", "a string"]),
        ({"num_experts": 8}, ["num_experts", "mixtures of experts"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
        ({"quantization_config": {"quant_method": "awq"}}, ["quantization_config", "'awq'", "farthing quantize"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, ["rope_type", "'yarn'", "default, linear, llama3"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, ["low_freq_factor", "missing"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "missing"]),
        ({"rope_scaling": [1]}, ["rope_scaling", "an object"]),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
            ["rope_theta", "10000.0", "as in rope_parameters"],
        ),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "is 3", "divisor"]),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, ["num_attention_heads", "divisor of hidden_size"]),
        ({"head_dim": 7}, ["head_dim", "even"]),
        ({"hidden_size": "48"}, ["hidden_size", "whole number"]),
        ({"hidden_size": 48.0}, ["hidden_size", "whole number"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "is 0"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers", "True"]),
        ({"vocab_size": 2**31}, ["vocab_size", "2147483648"]),
        ({"rms_norm_eps": 0}, ["rms_norm_eps", "above 0"]),
        ({"rms_norm_eps": float("inf")}, ["rms_norm_eps", "finite"]),
        ({"tie_word_embeddings": "no"}, ["tie_word_embeddings", "true or false"]),
        ({"max_position_embeddings": None}, ["max_position_embeddings", "missing"]),
        ({"eos_token_id": 300}, ["eos id", "300", "below 300"]),
        ({"eos_token_id": -1}, ["eos_token_id", "-1"]),
    ],
)
def test_config_fields(changes: dict[str, object], words: list[str], tmp_path: Path) -> None:
    refused(
        edit(tiny.write_hf(tmp_path), **changes), "config.json" if "eos id" not in words else "tokenizer.json", *words
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": 81}, ["gate_proj", "[80, 48]", "[81, 48]"]),
        ({"hidden_size": 64}, ["embed_tokens", "[300, 48]", "[300, 64]"]),
        ({"vocab_size": 301}, ["embed_tokens", "[300, 48]", "[301, 48]"]),
        ({"num_hidden_layers": 4}, ["missing", "layers.3.", "and 3 more"]),
        ({"num_hidden_layers": 2}, ["unexpected", "layers.2."]),
        ({"attention_bias": True}, ["missing", "layers.0.q.bias"]),
        ({"model_type": "qwen3", "head_dim": 12}, ["missing", "q_norm"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings", "lm_head.weight differs"]),
    ],
)
def test_config_and_weights_disagree(changes: dict[str, object], words: list[str], tmp_path: Path) -> None:
    refused(edit(tiny.write_hf(tmp_path), **changes), *words)


def test_mixed_windows(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, "qwen2-window", max_window_layers=1)
    refused(folder, "max_window_layers", "mixture of full and sliding")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', "\xff"])
def test_config_is_no_json_object(text: str, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refused(folder, "config.json")


def test_paths(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "missing", "check the path")
    refused(tmp_path, "config.json", "missing")
    (tmp_path / "m.gguf").write_bytes(b"")
    refused(tmp_path, "give the file itself", "m.gguf")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    refused(tmp_path / "weights.safetensors", "give the folder")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_not_opened(name: str, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    refused(folder, name, "pickle", "save_pretrained")
    refused(folder / name, "pickle")


def test_no_weights_at_all(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors", "missing")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, tokenizer=False)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for size in (0, 4, 8, 100, 8 + header - 1, 8 + header, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(folder, str(file), "damaged or cut short")
    file.write_bytes(whole)
    open_checkpoint(folder)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"\xff" * 40, ["header", "not JSON"]),
        (b"[]", ["header", "list"]),
        (b'{"a": 3}', ["entry of tensor a"]),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', ["entry of tensor a"]),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', ["data of tensor a", "4 bytes"]),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 99999]}}', ["data of tensor a", "99999"]),
        (b'{"a": {"dtype": "F32", "shape": [1e9], "data_offsets": [0, 4]}}', ["entry of tensor a"]),
        (
            b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}',
            ["data of tensor b", "overlapping"],
        ),
        (
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
            ["twice"],
        ),
    ],
)
def test_bad_safetensors_headers(header: bytes, words: list[str], tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, tokenizer=False)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    refused(folder, "model.safetensors", *words)


def test_unknown_dtype_is_named(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, tokenizer=False)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.norm.weight"]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError, match=r"dtype of tensor model\.norm\.weight.*F8_E4M3.*F32, F16, BF16"):
        open_checkpoint(folder).tensor("norm.weight")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_that_are_not_finite(value: float, dtype: str, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, tokenizer=False)
    tensors = tiny.weights(tiny.config())
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    tiny.save_safetensors(folder / "model.safetensors", tensors, dtype)
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is not finite in 1 of 3840 .*index 149"
    ):
        open_checkpoint(folder).tensor("layers.1.up.weight")


def test_missing_shard(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model-00002-of-00003.safetensors", "missing")


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", 3])
def test_index_must_name_files_of_its_folder(shard: object, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = shard
    tiny.write_json(folder / "model.safetensors.index.json", index)
    refused(folder, "weight_map", "model.safetensors.index.json")


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, shards=2)
    tensors = tiny.weights(tiny.config())
    tiny.save_safetensors(folder / "model-00002-of-00002.safetensors", tensors)
    refused(folder, "in two shards")


def test_tokenizer_larger_than_embedding(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(309), encoding="utf-8")
    refused(folder, "tokenizer.json", "301 ids", "1 to 300")
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(308), encoding="utf-8")
    assert open_checkpoint(folder).tokenizer().vocab_size == 300


@pytest.mark.parametrize("text", ["", "{", "{}", '{"version": "1.0", "model": {"type": "None"}}'])
def test_bad_tokenizer_json(text: str, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    (folder / "tokenizer.json").write_text(text)
    refused(folder, "tokenizer.json", "not usable")


def test_tokenizer_that_appends_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    folder = tiny.write_hf(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    refused(folder, "post-processor", "[2] after")


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_other_tokenizer_files(name: str, tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, tokenizer=False)
    (folder / name).write_text("x")
    refused(folder, f"only {name}", "tokenizer.json", "save_pretrained")
