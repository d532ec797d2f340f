"""Adapter files: every naming there is gives the same weights, and what cannot draft exactly is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mtp_models import random_adapter
from safetensors.torch import load_file, save_file

import tiny
from farthing.errors import CheckpointError, RequestError
from farthing.export.checkpoint import Checkpoint, open_checkpoint
from farthing.export.checkpoint.mtp_adapter import open_adapter, save_adapter
from farthing.models.mtp import GROUPS, MASKS, MtpAdapter

Tensors = dict[str, torch.Tensor]
HF = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "qkv": "self_attn.qkv_proj", "o": "self_attn.o_proj",
      "gate": "mlp.gate_proj", "up": "mlp.up_proj", "gate_up": "mlp.gate_up_proj", "down": "mlp.down_proj"}  # fmt: skip
ENGINE = {"qkv": "attention.wqkv", "o": "attention.wo", "gate_up": "feed_forward.w13", "down": "feed_forward.w2"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny.write_hf(tmp_path_factory.mktemp("hf"), "llama-tied"))


@pytest.fixture(scope="module")
def adapter(base: Checkpoint) -> MtpAdapter:
    return random_adapter(base, residual="block")


def same(found: MtpAdapter, wanted: MtpAdapter, base: Checkpoint) -> None:
    for layer in range(base.config.layers):
        for group in GROUPS:
            for a, b in zip(
                found.fused(base.config, layer, group), wanted.fused(base.config, layer, group), strict=True
            ):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
    for name, tensor in wanted.tensors.items():
        if "lora" not in name:
            torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)


def fused(adapter: MtpAdapter, base: Checkpoint, names: dict[str, str], prefix: str) -> Tensors:
    """The adapter with one LoRA a fused linear, called as ``names`` say."""
    tensors = {n: t for n, t in adapter.tensors.items() if "lora" not in n}
    for layer in range(base.config.layers):
        for group in GROUPS:
            a, b = adapter.fused(base.config, layer, group)
            tensors |= {f"{prefix}{layer}.{names[group]}.lora_{x}.weight": t for x, t in (("A", a), ("B", b))}
    return tensors


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Halves of each head to pairs side by side, the layout of engines that rotate neighbours."""
    return rows.view(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def test_round_trip(base: Checkpoint, adapter: MtpAdapter, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", adapter, base)
    found = open_adapter(tmp_path / "a.safetensors", base)
    same(found, adapter, base)
    assert found.config == adapter.config
    assert open_adapter(tmp_path / "a.safetensors", base, masks=2).tensors[MASKS].shape[0] == 2
    assert open_adapter(tmp_path / "a.safetensors", base, alpha=2.0).config.scale == 2.0 / 4


@pytest.mark.parametrize("kind", ["split", "fused", "transposed"])
def test_hugging_face_names(base: Checkpoint, adapter: MtpAdapter, tmp_path: Path, kind: str) -> None:
    if kind == "fused":
        tensors = fused(adapter, base, HF, "model.model.layers.")
    else:
        tensors = {}
        for name, tensor in adapter.tensors.items():
            parts = name.split(".")
            if parts[0] == "layers":
                name = f"base_model.model.layers.{parts[1]}.{HF[parts[2]]}.{parts[3]}.weight"
                if kind == "transposed" and "lora_B" in name:
                    name, tensor = name.replace("lora_B.weight", "lora_BT"), tensor.T.contiguous()
            tensors[name.replace("sampler_head.", "sampler.")] = tensor
    save_file(tensors, tmp_path / "a.safetensors")
    same(open_adapter(tmp_path / "a.safetensors", base, alpha=6.0), adapter, base)


def test_engine_names_with_interleaved_rows_and_masks_in_the_table(
    base: Checkpoint, adapter: MtpAdapter, tmp_path: Path
) -> None:
    c = base.config
    tensors = fused(adapter, base, ENGINE, "layers.")
    for layer in range(c.layers):
        name = f"layers.{layer}.attention.wqkv.lora_B.weight"
        q, k, v = tensors[name].split([c.q_width, c.kv_width, c.kv_width])
        tensors[name] = torch.cat([interleaved(q, c.heads), interleaved(k, c.kv_heads), v])
    masks = tensors.pop(MASKS)
    tensors["tok_embeddings.weight"] = torch.cat([torch.zeros(c.vocab_size, c.hidden_size), masks])
    save_file(tensors, tmp_path / "a.safetensors")
    found = open_adapter(tmp_path / "a.safetensors", base, alpha=6.0)
    assert found.config.residual == "block" and found.config.norm == "rms"
    # Ranks of the fused LoRAs are 12, 4, 8, 4: alpha belongs to the single ones.
    assert found.config.scale == 6.0 / 4
    same(found, adapter, base)


def broken(tensors: Tensors, how: str, base: Checkpoint) -> Tensors:
    d, first = base.config.hidden_size, "layers.0.q.lora_A.weight"
    if how == "no masks":
        del tensors[MASKS]
    elif how == "merged":
        tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(d, d)
    elif how == "half":
        del tensors["layers.1.o.lora_B.weight"]
    elif how == "rank":
        tensors[first] = tensors[first][:2].clone()
    elif how == "width":
        tensors[MASKS] = torch.zeros(3, d + 1)
    elif how == "layers":
        tensors["layers.9.q.lora_A.weight"], tensors["layers.9.q.lora_B.weight"] = (
            tensors[first].clone(),
            torch.zeros(d, 4),
        )
    elif how == "unknown":
        tensors["lm_head.lora_A.weight"] = torch.zeros(2, d)
    elif how == "no sampler":
        tensors = {n: t for n, t in tensors.items() if "sampler_head.layers.1" not in n}
    elif how == "no loras":
        tensors = {n: t for n, t in tensors.items() if "lora" not in n}
    elif how == "twice":
        tensors |= {n.replace(".q.", ".qkv."): t.clone() for n, t in tensors.items() if ".0.q." in n}
    elif how == "nan":
        tensors[first][0, 0] = float("nan")
    elif how == "table":
        tensors["model.embed_tokens.weight"] = torch.zeros(base.config.vocab_size, d)
        del tensors[MASKS]
    return tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no masks", "masks of .* is missing.*ordinary LoRA, which is not gated"),
        ("merged", "a weight of the model.*merged adapter changes every token"),
        ("half", "layers.1.o.lora_B.weight of .* is missing"),
        ("rank", r"shape of layers.0.q.lora_B.weight of .* is \[48, 4\], expected \[48, 2\]"),
        ("width", "shape of mtp_embedding_delta"),
        ("layers", "of a layer the base does not have"),
        ("unknown", "tensor lm_head.lora_A.weight of .* is unknown"),
        ("no sampler", "sampler_head.layers.1.linear.weight of .* is missing"),
        ("no loras", "LoRAs of .* is missing"),
        ("twice", "one for qkv and one for q"),
        ("nan", "not finite"),
        ("table", "rows of model.embed_tokens.weight of .* is 300, expected more than the base's 300"),
    ],
)
def test_refusals(base: Checkpoint, adapter: MtpAdapter, tmp_path: Path, how: str, message: str) -> None:
    save_adapter(tmp_path / "a.safetensors", adapter, base)
    tensors = broken(load_file(tmp_path / "a.safetensors"), how, base)
    save_file(tensors, tmp_path / "b.safetensors", metadata={"mtp.scale": "1.5"})
    with pytest.raises(CheckpointError, match=message):
        open_adapter(tmp_path / "b.safetensors", base)


def test_other_base(base: Checkpoint, adapter: MtpAdapter, tmp_path: Path) -> None:
    """Same shapes, other weights."""
    save_adapter(tmp_path / "a.safetensors", adapter, base)
    other = open_checkpoint(tiny.write_hf(tmp_path / "other", "llama-tied", seed=9))
    with pytest.raises(CheckpointError, match="use the checkpoint it was trained on"):
        open_adapter(tmp_path / "a.safetensors", other)


def test_sliding_window(adapter: MtpAdapter, base: Checkpoint, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", adapter, base)
    window = open_checkpoint(tiny.write_hf(tmp_path / "window", "mistral"))
    with pytest.raises(CheckpointError, match="sliding window of the base is 7, expected none"):
        open_adapter(tmp_path / "a.safetensors", window)


def test_pickles_missing_files_and_no_scale(adapter: MtpAdapter, base: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="a pickle, which can run code"):
        open_adapter(tmp_path / "a.pt", base)
    with pytest.raises(CheckpointError, match="is missing"):
        open_adapter(tmp_path / "b.safetensors", base)
    save_file(adapter.tensors, tmp_path / "c.safetensors")
    with pytest.raises(RequestError, match="scale of .* is not in the file.*give --alpha"):
        open_adapter(tmp_path / "c.safetensors", base)


@pytest.mark.parametrize("notes", [["a"], {"mtp.scale": 3}])
def test_malformed_metadata(adapter: MtpAdapter, base: Checkpoint, tmp_path: Path, notes: object) -> None:
    save_adapter(tmp_path / "a.safetensors", adapter, base)
    data = (tmp_path / "a.safetensors").read_bytes()
    length = int(np.frombuffer(data[:8], "<u8")[0])
    header = {**json.loads(data[8 : 8 + length]), "__metadata__": notes}
    text = json.dumps(header).encode()
    (tmp_path / "b.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError, match="metadata of .* is malformed"):
        open_adapter(tmp_path / "b.safetensors", base)
