"""A trainable decoder for small experiments, and its checkpoint as a Hugging Face folder that the exporter reads.

    config = llama_config(vocab=64, width=128, layers=4)
    train(config, batches, steps=2000, rate=2e-3, out=Path("build/model"), seed=1)

`train` keeps its state beside the checkpoint: the same call goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from farthing.export.checkpoint.safetensors_file import write_safetensors

Batches = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Step -> (ids [B,T+1], weights [B,T] of the losses)."""


def llama_config(
    *, vocab: int, width: int, layers: int, eos: int | None = None, theta: float = 10000.0
) -> dict[str, Any]:
    """A config.json with 4 heads, 2 key/value heads and a tied head."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": theta,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos,
    }


class Layer(nn.Module):
    """Names are those of Hugging Face's LlamaDecoderLayer."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        d, f = c["hidden_size"], c["intermediate_size"]
        kv = d // c["num_attention_heads"] * c["num_key_value_heads"]
        self.input_layernorm = nn.RMSNorm(d, c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(d, c["rms_norm_eps"])
        widths = (("q_proj", d), ("k_proj", kv), ("v_proj", kv), ("o_proj", d))
        self.self_attn = nn.ModuleDict({n: nn.Linear(d, w, bias=False) for n, w in widths})
        shapes = (("gate_proj", (d, f)), ("up_proj", (d, f)), ("down_proj", (f, d)))
        self.mlp = nn.ModuleDict({n: nn.Linear(*s, bias=False) for n, s in shapes})

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        h, a, m = self.input_layernorm(x), self.self_attn, self.mlp
        q, k, v = (
            a[n](h).unflatten(-1, (-1, 2 * cos.shape[-1])).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = q.shape[1] // k.shape[1]
        mixed = F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True
        )
        x = x + a["o_proj"](mixed.transpose(1, 2).flatten(2))
        h = self.post_attention_layernorm(x)
        return x + m["down_proj"](F.silu(m["gate_proj"](h)) * m["up_proj"](h))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, half-split."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Llama(nn.Module):
    """Names are those of Hugging Face's LlamaModel."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.06)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """[B,T,D] after the last norm, of ids [B,T]."""
        dim = self.config["hidden_size"] // self.config["num_attention_heads"]
        angles = torch.arange(ids.shape[1])[:, None] * self.config["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        x, cos, sin = self.embed_tokens(ids), angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.states(ids) @ self.embed_tokens.weight.T

    def save(self, out: Path) -> None:
        """``out`` becomes a checkpoint folder, float16."""
        out.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{n}": p.detach().numpy().astype(np.float16) for n, p in self.named_parameters()}
        write_safetensors(out / "model.safetensors", tensors, {})
        (out / "config.json").write_text(json.dumps(self.config, indent=1) + "\n", encoding="utf-8")


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Share of the learning rate: linear warm-up, cosine to a twentieth."""
    return min(1.0, (step + 1) / warm_up) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def train(
    config: dict[str, Any],
    batches: Batches,
    *,
    steps: int,
    rate: float,
    out: Path,
    seed: int,
    warm_up: int = 50,
    save_every: int = 100,
    until: Callable[[Llama, int], bool] | None = None,
) -> Llama:
    """Train a model on ``batches`` and save it to ``out``. ``until`` (model, step) is asked every ``save_every`` steps; True ends it."""
    torch.manual_seed(seed)
    model = Llama(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    kept, first = out.with_suffix(".resume.pt"), 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    began = time.process_time()
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step, steps, warm_up)
        ids, weights = batches(step)
        losses = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights.flatten()).sum() / weights.sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            print(f"{out.name} {step + 1}: loss {loss.item():.3f}, {time.process_time() - began:.0f} CPU s", flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, kept)
            if until is not None and until(model, step + 1):
                break
    model.save(out)
    return model
