"""The toy of VLoRA's proof: pictures of 32 x 32 with coloured shapes, one-word questions, a small tower, and a language model that sees in three ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from small_llama import Layer, rotate
from torch import nn
from torch.nn import functional as F

from farthing.models.vlora import VloraConfig, outward, perceive, vlora_tensors

SIDE, PATCH, EYES = 32, 4, 64
"""Pixels of a picture and of a patch; width of the tower."""
KINDS = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
RGB = np.array([(225, 40, 40), (40, 190, 60), (50, 80, 235), (240, 225, 40), (165, 50, 200), (240, 140, 30)], np.uint8)
PLACES = ("upper-left", "upper-right", "lower-left", "lower-right")
NUMBERS = ("one", "two", "three", "four")
WORDS = ("<s>", "</s>", "<image>", "<pad>", "what", "which", "colour", "shape", "is", "the", "at", "how", "many", "shapes", "where",
         "nothing", "?", *KINDS, *COLOURS, *PLACES, *NUMBERS)  # fmt: skip
ID = {word: i for i, word in enumerate(WORDS)}
LONGEST = 7

LLM = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 4,
       "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": len(WORDS), "max_position_embeddings": 256}  # fmt: skip
VLORA = VloraConfig(
    dim=64,
    depth=2,
    visual_dim=EYES,
    positions=64,
    llm_dim=128,
    llm_depth=4,
    rank=8,
    types="qkvom",
    alpha=8,
    skip_layers=1,
)


def _masks() -> np.ndarray:
    """bool [kind,16,16]: the pixels of each shape in a corner of the picture, 12 wide."""
    y, x = np.mgrid[:12, :12] - 5.5
    circle, square = x**2 + y**2 <= 33, np.ones((12, 12), bool)
    triangle, cross = np.abs(x) <= (y + 6) / 2, (np.abs(x) < 2) | (np.abs(y) < 2)
    return np.stack([circle, square, triangle, cross])


MASKS = _masks()


def pictures(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 [count,32,32,3]; of each corner its kind (4 = nothing) and its colour, int64 [count,4]."""
    images = np.clip(draw.normal(draw.uniform(60, 150, (count, 1, 1, 3)), 8, (count, SIDE, SIDE, 3)), 0, 255).astype(
        np.uint8
    )
    kinds = np.stack([draw.permutation(4) for _ in range(count)])
    kinds[draw.random((count, 4)) < 0.35] = 4
    kinds[np.arange(count), draw.integers(0, 4, count)] = draw.integers(0, 4, count)  # at least one; two may be alike
    colours = draw.integers(0, len(COLOURS), (count, 4))
    for n in range(count):
        for place in range(4):
            if kinds[n, place] < 4:
                top, left = (16 * (place // 2) + draw.integers(0, 5), 16 * (place % 2) + draw.integers(0, 5))
                images[n, top : top + 12, left : left + 12][MASKS[kinds[n, place]]] = RGB[colours[n, place]]
    return images, kinds, colours


def question(draw: np.random.Generator, kinds: np.ndarray, colours: np.ndarray) -> tuple[str, list[str], str]:
    """(sort, words, answer) about one picture."""
    alone = [k for k in range(4) if (kinds == k).sum() == 1]
    sort = draw.choice(("colour", "shape", "count", "where") if alone else ("shape", "count"))
    if sort == "count":
        return sort, ["how", "many", "shapes", "?"], NUMBERS[(kinds < 4).sum() - 1]
    if sort == "shape":
        place = draw.integers(4)
        return sort, ["which", "shape", "is", "at", PLACES[place], "?"], (*KINDS, "nothing")[kinds[place]]
    kind = alone[draw.integers(len(alone))]
    place = int(np.flatnonzero(kinds == kind)[0])
    if sort == "colour":
        return sort, ["what", "colour", "is", "the", KINDS[kind], "?"], COLOURS[colours[place]]
    return sort, ["where", "is", "the", KINDS[kind], "?"], PLACES[place]


class Eyes(nn.Module):
    """CLIP's tower in small, two layers, with names of transformers; trained to name what is in each corner, then frozen."""

    def __init__(self) -> None:
        super().__init__()
        d = EYES
        self.patch = nn.Linear(3 * PATCH * PATCH, d, bias=False)
        self.class_row = nn.Parameter(torch.randn(d) * 0.02)
        self.places = nn.Parameter(torch.randn(65, d) * 0.02)
        self.first = nn.LayerNorm(d)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm1": nn.LayerNorm(d), "qkv": nn.Linear(d, 3 * d), "out": nn.Linear(d, d), "norm2": nn.LayerNorm(d),
                           "up": nn.Linear(d, 4 * d), "down": nn.Linear(4 * d, d)})
            for _ in range(2)
        )  # fmt: skip
        self.kind, self.colour = nn.Linear(d, 5), nn.Linear(d, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [B,64,64] of pictures uint8 [B,32,32,3]."""
        x = (images.float() / 255 - 0.5) / 0.25
        x = x.unflatten(2, (8, PATCH)).unflatten(1, (8, PATCH)).permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(1, 2)
        x = self.patch(x)
        x = self.first(torch.cat([self.class_row.expand(len(x), 1, -1), x], 1) + self.places)
        for layer in self.layers:
            q, k, v = (s.unflatten(-1, (4, -1)).transpose(1, 2) for s in layer["qkv"](layer["norm1"](x)).chunk(3, -1))
            x = x + layer["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            up = layer["up"](layer["norm2"](x))
            x = x + layer["down"](up * torch.sigmoid(1.702 * up))
        return x[:, 1:]

    def corners(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of kind and colour of the four corners."""
        x = self(images).unflatten(1, (2, 4, 2, 4)).mean((2, 4)).flatten(1, 2)
        return self.kind(x), self.colour(x)


class AdaptedLayer(Layer):
    """A layer of the language model with a branch beside each linear and one beside the feed-forward network."""

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, branch: Any = None) -> torch.Tensor:
        h, a, m = self.input_layernorm(x), self.self_attn, self.mlp
        add = branch or (lambda t, x: 0.0)
        q, k, v = (
            (a[f"{t}_proj"](h) + add(t, h)).unflatten(-1, (-1, 2 * cos.shape[-1])).transpose(1, 2) for t in "qkv"
        )
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        mixed = mixed.transpose(1, 2).flatten(2)
        x = x + a["o_proj"](mixed) + add("o", mixed)
        h = self.post_attention_layernorm(x)
        return x + m["down_proj"](F.silu(m["gate_proj"](h)) * m["up_proj"](h)) + add("m", h)


class Student(nn.Module):
    """The language model that sees by ``way``: vlora, prefix, or blind."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, d = way, LLM["hidden_size"]
        self.embed_tokens = nn.Embedding(len(WORDS), d)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        self.layers = nn.ModuleList(AdaptedLayer(LLM) for _ in range(LLM["num_hidden_layers"]))
        self.norm, self.head = nn.RMSNorm(d, 1e-5), nn.Linear(d, len(WORDS), bias=False)
        if way == "prefix":
            self.projector = nn.Sequential(nn.Linear(EYES, d), nn.GELU(), nn.Linear(d, d))
        if way == "vlora":
            self.made = nn.ParameterDict(
                {n.replace(".", "/"): nn.Parameter(_first(n, s)) for n, s in vlora_tensors(VLORA).items()}
            )

    def read(self, name: str) -> torch.Tensor:
        return self.made[name.replace(".", "/")]

    def forward(self, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B,S,V] of words ids [B,S], which begin with <s>. The picture stands behind that: 64 rows, or a position left free."""
        x, branches = self.embed_tokens(ids), [None] * len(self.layers)
        positions = torch.tensor([0, *range(2, ids.shape[1] + 1)])
        if self.way == "prefix":
            x = torch.cat([x[:, :1], self.projector(features), x[:, 1:]], 1)
            positions = torch.arange(x.shape[1])
        if self.way == "vlora":
            deltas, out = perceive(VLORA, self.read, features), outward(VLORA, self.read)

            def branch_of(j: int) -> Any:
                return lambda t, x: (x @ deltas[t][:, j]) @ out[t][j].T

            for j, i in enumerate(VLORA.layers):
                branches[i] = branch_of(j)
        dim = LLM["hidden_size"] // LLM["num_attention_heads"]
        angles = positions[:, None] * LLM["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        for layer, branch in zip(self.layers, branches):
            x = layer(x, angles.cos(), angles.sin(), branch)
        return self.head(self.norm(x))[:, -ids.shape[1] + 1 :]


def _first(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """As the authors' classes begin: 0.02 for linears, B zero, queries and positions of unit size."""
    if name == "Bs" or name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    return torch.randn(shape) * (
        1.0 if name.endswith(("queries", "pos_embed")) else 0.02 if "head" in name else shape[-1] ** -0.5
    )


def batch(seed: int, step: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """(pictures, ids [count,7], row of the question mark among ids behind <s>, answers, sorts)."""
    draw = np.random.default_rng([seed, step])
    images, kinds, colours = pictures(draw, count)
    asked = [question(draw, k, c) for k, c in zip(kinds, colours)]
    ids = torch.tensor([[ID[w] for w in ("<s>", *q)] + [ID["<pad>"]] * (LONGEST - 1 - len(q)) for _, q, _ in asked])
    where = torch.tensor([len(q) - 1 for _, q, _ in asked])
    return torch.from_numpy(images), ids, where, torch.tensor([ID[a] for *_, a in asked]), [s for s, *_ in asked]
