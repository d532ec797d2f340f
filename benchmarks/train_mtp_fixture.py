"""Train the small model of examples/mtp: a byte-level decoder on templated lines, frozen, and an adapter that guesses 4 bytes ahead.

    python benchmarks/train_mtp_fixture.py --out build/mtp           # model/, mtp.safetensors; resumable: run it again to go on

Three kinds of lines (a JSON record, a sentence, a function) with random names, things and numbers, so that most of a line can be
guessed and some of it cannot. `templated` makes them; a seed other than the training's gives fresh lines for tests.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from farthing.calibration.train_mtp import Options, train
from farthing.export.checkpoint.safetensors_file import write_safetensors
from farthing.models.mtp_decoding import decode

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}
NAMES = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
THINGS = ["pump", "valve", "motor", "sensor", "relay", "heater"]
TRAINING_SEED, LENGTH, BATCH, RATE, WARM_UP = 1, 128, 16, 3e-3, 30


def templated(count: int, seed: int) -> str:
    """At least ``count`` characters of lines."""
    draw, lines, size = random.Random(seed), [], 0
    while size < count:
        kind, name, thing, value = draw.randrange(3), draw.choice(NAMES), draw.choice(THINGS), draw.randrange(100)
        state = "high" if value > 49 else "low"
        lines.append(
            (
                f'{{"user": "{name}", "part": "{thing}", "value": {value}, "state": "{state}"}}\n',
                f"The {thing} reported by {name} has a value of {value} units.\n",
                f"def get_{name}_{thing}(x):\n    return x + {value}\n",
            )[kind]
        )
        size += len(lines[-1])
    return "".join(lines)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d, f, dim = (
            CONFIG["hidden_size"],
            CONFIG["intermediate_size"],
            CONFIG["hidden_size"] // CONFIG["num_attention_heads"],
        )
        kv = dim * CONFIG["num_key_value_heads"]
        self.input_layernorm = nn.RMSNorm(d, CONFIG["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(d, CONFIG["rms_norm_eps"])
        self.self_attn = nn.ModuleDict(
            {n: nn.Linear(d, w, bias=False) for n, w in (("q_proj", d), ("k_proj", kv), ("v_proj", kv), ("o_proj", d))}
        )
        self.mlp = nn.ModuleDict(
            {
                n: nn.Linear(*s, bias=False)
                for n, s in (("gate_proj", (d, f)), ("up_proj", (d, f)), ("down_proj", (f, d)))
            }
        )

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        h, a = self.input_layernorm(x), self.self_attn
        q, k, v = (
            a[n](h).unflatten(-1, (-1, 2 * cos.shape[-1])).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = q.shape[1] // k.shape[1]
        mixed = F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True
        )
        x = x + a["o_proj"](mixed.transpose(1, 2).flatten(2))
        h, m = self.post_attention_layernorm(x), self.mlp
        return x + m["down_proj"](F.silu(m["gate_proj"](h)) * m["up_proj"](h))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Model(nn.Module):
    """Names are those of Hugging Face's LlamaForCausalLM under ``model.``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], CONFIG["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.06)
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = nn.RMSNorm(CONFIG["hidden_size"], CONFIG["rms_norm_eps"])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B,T,V]."""
        return self.states(ids) @ self.embed_tokens.weight.T

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [B,T,D] after the last norm."""
        dim = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
        angles = torch.arange(ids.shape[1])[:, None] * CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        x, cos, sin = self.embed_tokens(ids), angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)  # type: ignore[no-any-return]


def byte_tokenizer() -> str:
    """tokenizer.json in which a byte is its own id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's alphabet: printable bytes are themselves, the others come from 256 on, in order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    signs = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab={signs[b]: b for b in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def train_base(out: Path, steps: int) -> None:
    """``out`` becomes a checkpoint folder, float16."""
    torch.manual_seed(TRAINING_SEED)
    model = Model()
    data = torch.tensor(list(templated(400_000, TRAINING_SEED).encode()))
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    began, draw = time.process_time(), torch.Generator().manual_seed(TRAINING_SEED)
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(data) - LENGTH - 1, (BATCH, 1), generator=draw)
        block = data[starts + torch.arange(LENGTH + 1)]
        loss = F.cross_entropy(model(block[:, :-1]).flatten(0, 1), block[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"base {step}: loss {loss.item():.3f}, {time.process_time() - began:.0f} CPU s", flush=True)
    write_checkpoint(model, out)


def write_checkpoint(model: Model, out: Path) -> None:
    """A Hugging Face folder, float16."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{n}": p.detach().numpy().astype(np.float16) for n, p in model.named_parameters()}
    write_safetensors(out / "model.safetensors", tensors, {})
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (out / "tokenizer.json").write_text(byte_tokenizer() + "\n")


def prompts(count: int, seed: int = 77) -> list[list[int]]:
    """Starts of 60 bytes of fresh text, each in another place of its line."""
    data = list(templated(count * 400 + 100, seed).encode())
    return [data[i * 400 : i * 400 + 60] for i in range(count)]


def measure(folder: Path, adapter: Path, count: int, new: int) -> dict[str, float]:
    """Tokens per pass in the four ways of drafting, and whether each text was that of plain greedy decoding."""
    from farthing.export.checkpoint import open_checkpoint
    from farthing.export.checkpoint.mtp_adapter import open_adapter
    from farthing.models.mtp import MtpDecoder

    checkpoint = open_checkpoint(folder)
    model = MtpDecoder(checkpoint, open_adapter(adapter, checkpoint))
    found: dict[str, float] = {}
    for mode in ("quadratic", "linear"):
        for sampler in (True, False):
            same = accepted = passes = 0
            for prompt in prompts(count):
                made = decode(model, prompt, new, mode=mode, sampler=sampler)
                same += made.ids == model.greedy(prompt, new)
                accepted, passes = accepted + sum(made.accepted), passes + made.passes
            name = f"{mode}, {'with' if sampler else 'without'} sampler"
            found[name] = 1 + accepted / passes
            print(f"{name}: {found[name]:.2f} tokens a pass, {same} of {count} texts as plain greedy", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/mtp"))
    parser.add_argument("--base-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.out / "model").exists():
        train_base(args.out / "model", args.base_steps)
    text = args.out / "lines.jsonl"
    data = list(templated(300_000, TRAINING_SEED + 1).encode())
    text.write_text("".join(json.dumps({"ids": data[i : i + 3000]}) + "\n" for i in range(0, len(data), 3000)))
    options = Options(
        masks=4, rank=16, steps=args.steps, batch=8, length=96, density=0.3, rate=4e-3, warm_up=20, seed=3
    )
    print(train(args.out / "model", [text], args.out / "mtp.safetensors", options))
    measure(args.out / "model", args.out / "mtp.safetensors", 12, 96)


if __name__ == "__main__":
    main()
