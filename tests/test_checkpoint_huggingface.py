"""Hugging Face folders: names, dtypes, shards, configuration variants, tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from farthing.errors import CheckpointError
from farthing.export.checkpoint import open_checkpoint
from farthing.models.config import Rope, expected_tensors


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_tensor_arrives(family: str, tmp_path: Path) -> None:
    """The checkpoint holds exactly the expected tensors, and each has the values of the file."""
    checkpoint = open_checkpoint(tiny.write_hf(tmp_path, family))
    stored = tiny.weights(tiny.config(family))
    assert set(checkpoint.names()) == set(expected_tensors(checkpoint.config))
    assert len(checkpoint.names()) == len(stored)
    assert np.array_equal(checkpoint.tensor("layers.1.gate.weight"), stored["model.layers.1.mlp.gate_proj.weight"])
    assert np.array_equal(
        checkpoint.tensor("layers.2.mlp_norm.weight"), stored["model.layers.2.post_attention_layernorm.weight"]
    )
    assert checkpoint.config.parameters == sum(a.size for a in stored.values())


@pytest.mark.parametrize(("dtype", "back"), [("F32", np.float32), ("F16", np.float16), ("BF16", np.float32)])
def test_dtypes(dtype: str, back: type, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny.write_hf(tmp_path, dtype=dtype))
    array = checkpoint.tensor("layers.0.q.weight")
    wanted = tiny.weights(tiny.config())["model.layers.0.self_attn.q_proj.weight"]
    assert array.dtype == back and array.shape == wanted.shape
    if dtype == "BF16":
        wanted = (wanted.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert np.array_equal(array, wanted.astype(back))


def test_shards_equal_one_file(tmp_path: Path) -> None:
    one = open_checkpoint(tiny.write_hf(tmp_path / "one"))
    many = open_checkpoint(tiny.write_hf(tmp_path / "many", shards=3))
    assert len(many.files()) == 3 and sorted(one.names()) == sorted(many.names())
    for name in one.names():
        assert np.array_equal(one.tensor(name), many.tensor(name))
    assert one.sha256() != many.sha256(), "the hash is over files, not values"


def test_hash_follows_the_weights(tmp_path: Path) -> None:
    a, b = tiny.write_hf(tmp_path / "a"), tiny.write_hf(tmp_path / "b")
    assert open_checkpoint(a).sha256() == open_checkpoint(b).sha256()
    assert open_checkpoint(tiny.write_hf(tmp_path / "c", seed=1)).sha256() != open_checkpoint(a).sha256()


def test_rope_old_and_new_spelling(tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling; both give the same configuration."""
    old = tiny.write_hf(tmp_path / "old", "llama3")
    new = tiny.write_hf(
        tmp_path / "new",
        "llama3",
        rope_theta=None,
        rope_scaling=None,
        rope_parameters={**tiny.LLAMA3_ROPE, "rope_theta": 500000.0},
    )
    assert open_checkpoint(old).config == open_checkpoint(new).config
    assert open_checkpoint(old).config.rope == Rope(500000.0, "llama3", 8.0, 1.0, 4.0, 64)


def test_rope_theta_is_ten_thousand_when_absent(tmp_path: Path) -> None:
    assert open_checkpoint(tiny.write_hf(tmp_path, rope_theta=None)).config.rope == Rope(10000.0)


def test_windows(tmp_path: Path) -> None:
    def window(name: str, family: str, **changes: object) -> int:
        return open_checkpoint(tiny.write_hf(tmp_path / name, family, **changes)).config.sliding_window

    assert window("a", "mistral") == 7
    assert window("b", "mistral", sliding_window=None) == 0
    assert window("c", "qwen2", sliding_window=5) == 0, "use_sliding_window is false"
    assert window("d", "qwen2-window") == 9
    assert window("e", "qwen2-window", max_window_layers=3) == 0, "all three layers are full"
    assert window("f", "qwen2-window", layer_types=["sliding_attention"] * 3) == 9
    assert window("g", "llama", sliding_window=5) == 0, "llama has none"


def test_tied_head_stored_again(tmp_path: Path) -> None:
    """A copy of the embedding as lm_head is dropped; a different one contradicts tie_word_embeddings."""
    folder = tiny.write_hf(tmp_path, "llama-tied")
    tensors = tiny.weights(tiny.config("llama-tied"))
    tiny.save_safetensors(
        folder / "model.safetensors", {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    )
    assert "head.weight" not in open_checkpoint(folder).names()
    tiny.save_safetensors(
        folder / "model.safetensors", {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] * 2}
    )
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings.*expected false"):
        open_checkpoint(folder)


def test_derived_buffers_are_ignored(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(6, np.float32)}
    tiny.save_safetensors(folder / "model.safetensors", {**tiny.weights(tiny.config()), **extra})
    assert len(open_checkpoint(folder).names()) == len(tiny.weights(tiny.config()))


def test_tokenizer_is_copied(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    files = open_checkpoint(folder).tokenizer()
    assert files is not None
    assert files.json == (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert files.vocab_size == tiny.VOCAB - 8, "padded embeddings are fine"
    assert (files.bos_id, files.eos_ids, files.add_bos) == (1, (2,), False)
    assert "m['role']" in (files.chat_template or "")


def test_eos_ids_come_from_generation_config(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    tiny.write_json(folder / "generation_config.json", {"eos_token_id": [2, 7]})
    assert open_checkpoint(folder).tokenizer().eos_ids == (2, 7)


def test_chat_template_file_wins_and_base_models_have_none(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ 'file' }}")
    assert open_checkpoint(folder).tokenizer().chat_template == "{{ 'file' }}"
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool", "template": "x"}, {"name": "default", "template": "y"}]
    tiny.write_json(folder / "tokenizer_config.json", {"chat_template": named})
    assert open_checkpoint(folder).tokenizer().chat_template == "y"
    (folder / "tokenizer_config.json").unlink()
    assert open_checkpoint(folder).tokenizer().chat_template is None


def test_bos_is_observed(tmp_path: Path) -> None:
    """add_bos says what the tokenizer's post-processor does, whatever form it has."""
    from tokenizers import Tokenizer, processors

    folder = tiny.write_hf(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    files = open_checkpoint(folder).tokenizer()
    assert files.add_bos and files.bos_id == 1


def test_no_tokenizer_is_allowed(tmp_path: Path) -> None:
    assert open_checkpoint(tiny.write_hf(tmp_path, tokenizer=False)).tokenizer() is None


def test_reading_is_lazy(tmp_path: Path) -> None:
    """Opening reads no weights: values that no float can hold wait until their tensor is asked for."""
    folder = tiny.write_hf(tmp_path)
    tensors = tiny.weights(tiny.config())
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.nan
    tiny.save_safetensors(folder / "model.safetensors", tensors)
    checkpoint = open_checkpoint(folder)
    checkpoint.tensor("embed.weight")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is not finite in 48 of 48"):
        checkpoint.tensor("norm.weight")


def test_configuration_fields(tmp_path: Path) -> None:
    folder = tiny.write_hf(tmp_path, "qwen3")
    values = json.loads((folder / "config.json").read_text())
    c = open_checkpoint(folder).config
    assert (c.hidden_size, c.head_dim, c.q_width, c.kv_width) == (48, 16, 64, 32)
    assert c.qk_norm and not c.qkv_bias and c.norm_epsilon == values["rms_norm_eps"]
