"""Tiny random checkpoints, made in milliseconds without torch: Hugging Face folders and GGUF files.

Weights are scaled as in benchmarks/make_m100.py, so that greedy choices are not coin tosses; norms and biases are not 1 and 0,
so that mixing them up shows.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 300
"""Ids of the tiny tokenizer: 256 bytes, merges, three special tokens, and padding rows up to this number."""

SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2}
_CHAT = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"

_BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama3": {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
    "llama-linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 7},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1000000.0, "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen2-window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6},
    "qwen3-bias": {"model_type": "qwen3", "head_dim": 32, "attention_bias": True, "tie_word_embeddings": True},
}
"""Config.json of one tiny model per variant the exporter knows."""


def config(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """A config.json; ``changes`` override fields, None removes one."""
    merged = {**_BASE, **FAMILIES[family], **changes}
    return {k: v for k, v in merged.items() if v is not None or k == "sliding_window"}


def weights(values: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights in Hugging Face naming for a config.json."""
    d, f, v = values["hidden_size"], values["intermediate_size"], values["vocab_size"]
    dim = values.get("head_dim") or d // values["num_attention_heads"]
    q, kv = dim * values["num_attention_heads"], dim * values["num_key_value_heads"]
    family, tied = values["model_type"], values["tie_word_embeddings"]
    qkv_bias = family == "qwen2" or values.get("attention_bias", False)
    o_bias = family != "qwen2" and values.get("attention_bias", False)
    mlp_bias = values.get("mlp_bias", False)
    layers = values["num_hidden_layers"]
    branch = 3.0 if tied else 1 / math.sqrt(2 * layers)  # see make_m100.py: a tied head must not echo its input
    shapes: dict[str, tuple[tuple[int, ...], float]] = {
        "model.embed_tokens.weight": ((v, d), 3 / math.sqrt(d) if tied else 1.0)
    }
    for i in range(layers):
        p = f"model.layers.{i}."
        for name, rows, columns, bias, scale in (
            ("self_attn.q_proj", q, d, qkv_bias, 1.0),
            ("self_attn.k_proj", kv, d, qkv_bias, 1.0),
            ("self_attn.v_proj", kv, d, qkv_bias, 1.0),
            ("self_attn.o_proj", d, q, o_bias, branch),
            ("mlp.gate_proj", f, d, mlp_bias, 1.0),
            ("mlp.up_proj", f, d, mlp_bias, 1.0),
            ("mlp.down_proj", d, f, mlp_bias, branch),
        ):
            shapes[f"{p}{name}.weight"] = ((rows, columns), scale / math.sqrt(columns))
            if bias:
                shapes[f"{p}{name}.bias"] = ((rows,), 0.1)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{p}{name}.weight"] = ((d,), 0.1)
        if family == "qwen3":
            for name in ("q_norm", "k_norm"):
                shapes[f"{p}self_attn.{name}.weight"] = ((dim,), 0.1)
    shapes["model.norm.weight"] = ((d,), 0.1)
    if not tied:
        shapes["lm_head.weight"] = ((v, d), 3 / math.sqrt(d))
    rng = np.random.default_rng(seed)
    result = {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, (s, scale) in shapes.items()}
    return {n: a + np.float32(1) if "norm" in n else a for n, a in result.items()}


def save_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    """Write a safetensors file with all tensors as ``dtype``: F32, F16 or BF16 (cut off, not rounded)."""
    header, parts, at = {}, [], 0
    for name, array in tensors.items():
        data = {
            "F32": lambda a: a.astype("<f4"),
            "F16": lambda a: a.astype("<f2"),
            "BF16": lambda a: (a.astype("<f4").view("<u4") >> 16).astype("<u2"),
        }[dtype](array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def tokenizer_json(vocab: int = VOCAB) -> str:
    """A byte-level BPE tokenizer.json with ``vocab`` - 8 ids: the embedding is padded, as real ones are."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {t: i for i, t in enumerate([*SPECIAL, *alphabet])}
    merges = []
    for pair in (
        "th",
        "he",
        "in",
        "er",
        "an",
        "re",
        "on",
        "at",
        "en",
        "nd",
        "ti",
        "es",
        "or",
        "te",
        "of",
        "ed",
        "is",
        "it",
    ):
        merges.append((pair[0], pair[1]))
        table[pair] = len(table)
    merges.append(("th", "e"))
    table["the"] = len(table)
    while len(table) < vocab - 8:
        table[f"<unused{len(table)}>"] = len(table)
    tokenizer = Tokenizer(models.BPE(vocab=table, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    return tokenizer.to_str()


def write_hf(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "F32",
    shards: int = 1,
    tokenizer: bool = True,
    **changes: Any,
) -> Path:
    """A Hugging Face folder; returns it. ``changes`` go to config.json (and shape the weights)."""
    folder.mkdir(parents=True, exist_ok=True)
    values = config(family, **changes)
    write_json(folder / "config.json", values)
    tensors = weights(values, seed)
    names = list(tensors)
    if shards == 1:
        save_safetensors(folder / "model.safetensors", tensors, dtype)
    else:
        table = {}
        for k in range(shards):
            file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
            part = names[k::shards]
            save_safetensors(folder / file, {n: tensors[n] for n in part}, dtype)
            table |= dict.fromkeys(part, file)
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": table})
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer_json(values["vocab_size"]), encoding="utf-8")
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "chat_template": _CHAT,
            },
        )
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.{kind}"


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of q and k rows (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def byte_level_tokens(vocab: int = VOCAB) -> tuple[list[str], list[int], list[str]]:
    """(tokens, token types, merges) of the tokenizer of `tokenizer_json` as GGUF stores them, padded to ``vocab``."""
    table = json.loads(tokenizer_json(vocab))["model"]
    tokens = sorted(table["vocab"], key=table["vocab"].get)
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab)]
    merges = [m if isinstance(m, str) else " ".join(m) for m in table["merges"]]
    return tokens, [3 if t in SPECIAL else 1 for t in tokens], merges


def sentence_piece_tokens(vocab: int = VOCAB) -> tuple[list[str], list[int], list[float]]:
    """(tokens, token types, scores) of a small SentencePiece vocabulary: specials, bytes, letters, words; no merges."""
    tokens, types = ["<unk>", "<s>", "</s>"], [2, 3, 3]
    tokens += [f"<0x{b:02X}>" for b in range(256)]
    types += [6] * 256
    pieces = [
        "▁t",
        "he",
        "▁the",
        "in",
        "er",
        "▁a",
        "on",
        "re",
        "▁",
        "e",
        "t",
        "a",
        "o",
        "i",
        "n",
        "h",
        "r",
        "s",
        "c",
        "u",
    ]
    pieces += ["x", "▁▁", "th", "▁th"]
    tokens += pieces[: vocab - len(tokens)]
    types += [1] * (len(tokens) - len(types))
    scores = [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]
    return tokens, types, scores


def write_gguf(
    path: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    quant: str = "F32",
    tokenizer: str | None = "gpt2",
    drop: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
    pre: str | None = "smollm",
    **changes: Any,
) -> Path:
    """A GGUF file of the same weights as `write_hf`; returns it.

    ``quant`` is for matrices whose rows fit; ``drop`` leaves metadata keys out; ``meta`` adds or replaces some (int, float, str).
    """
    import gguf

    values = config(family, **changes)
    arch = {"mistral": "llama"}.get(values["model_type"], values["model_type"])
    heads, kv_heads, d = values["num_attention_heads"], values["num_key_value_heads"], values["hidden_size"]
    fields: dict[str, Any] = {
        f"{arch}.block_count": values["num_hidden_layers"],
        f"{arch}.context_length": values["max_position_embeddings"],
        f"{arch}.embedding_length": d,
        f"{arch}.feed_forward_length": values["intermediate_size"],
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": float(values["rms_norm_eps"]),
        f"{arch}.rope.freq_base": float(values.get("rope_theta", 10000.0)),
        f"{arch}.rope.dimension_count": values.get("head_dim", d // heads),
        f"{arch}.vocab_size": values["vocab_size"],
        "general.name": f"tiny {family}",
    }
    if "head_dim" in values:
        fields |= {
            f"{arch}.attention.key_length": values["head_dim"],
            f"{arch}.attention.value_length": values["head_dim"],
        }
    fields = {k: v for k, v in {**fields, **(meta or {})}.items() if k not in drop}
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture", arch))
    for key, value in fields.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[
            type(value)
        ]
        add(key, value)
    if tokenizer:
        _add_tokenizer(writer, tokenizer, values["vocab_size"], pre, fields)
    for name, array in weights(values, seed).items():
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            array = interleave(array, heads if ".q_proj." in name else kv_heads)
        kind = getattr(gguf.GGMLQuantizationType, quant)
        if array.ndim == 1 or array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(array, kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    for stage in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        stage()
    return path


def _add_tokenizer(writer: Any, kind: str, vocab: int, pre: str | None, fields: dict[str, Any]) -> None:
    writer.add_tokenizer_model(kind)
    if kind == "gpt2":
        tokens, types, merges = byte_level_tokens(vocab)
        writer.add_token_merges(merges)
        if pre is not None:
            writer.add_tokenizer_pre(pre)
    else:
        tokens, types, scores = sentence_piece_tokens(vocab)
        writer.add_token_scores(scores)
        if "tokenizer.ggml.unknown_token_id" not in fields:
            writer.add_unk_token_id(0)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "tokenizer.ggml.bos_token_id" not in fields:
        writer.add_bos_token_id(1)
    if "tokenizer.ggml.eos_token_id" not in fields:
        writer.add_eos_token_id(2)
    writer.add_chat_template(_CHAT)
