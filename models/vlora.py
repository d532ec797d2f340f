"""VLoRA (Ma et al. 2024, arXiv 2405.20339): an image becomes low-rank changes of the language model's matrices, and no rows of the prompt.

At layers i with (i + 1) % skip_layers == 0 the linears named by ``types`` get a branch: y = W x + (x A) B^T. ``A`` [D,r] is generated from the image,
``B`` [D,r] is learned and the same for all images. ``q``, ``k``, ``v`` and ``o`` are those of attention, ``m`` stands beside the whole feed-forward
network. Checked against the authors' classes (FeipengMa6/VLoRA), whose names of tensors are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .blocks import Adapt
from .decoder import Decoder, Weights

if TYPE_CHECKING:
    import torch

TYPES = "qkvom"
HEADS = 16
"""Attention heads of the generator; the authors' classes have the number built in."""
MLP = 4
"""Width of the generator's feed-forward networks over ``dim``."""
EPSILON = 1e-5


@dataclass(frozen=True)
class VloraConfig:
    """Fields of config.json without their prefix ``vlora_``. ``separate``: a generator for each type, not one for all."""

    dim: int
    depth: int
    visual_dim: int
    positions: int
    llm_dim: int
    llm_depth: int
    rank: int
    types: str
    alpha: float
    skip_layers: int
    separate: bool = True

    @property
    def layers(self) -> list[int]:
        """Adapted layers of the decoder."""
        return [i for i in range(self.llm_depth) if (i + 1) % self.skip_layers == 0]

    @property
    def scale(self) -> float:
        """Factor of the branch."""
        return self.alpha / self.rank

    @property
    def generators(self) -> dict[str, str]:
        """Prefix of a generator's tensors -> the types that it makes, in this order."""
        if not self.separate:
            return {"gen.": self.types}
        return {f"gen.{i}.": t for i, t in enumerate(self.types)}


def vlora_tensors(c: VloraConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of the generator."""
    d, each = c.dim, c.llm_dim * c.rank
    shapes: dict[str, tuple[int, ...]] = {
        "visual_proj.weight": (d, c.visual_dim),
        "visual_proj.bias": (d,),
        "pos_embed": (1, c.positions, d),
        "Bs": (1, len(c.types) * len(c.layers), each),
    }
    for p, types in c.generators.items():
        shapes[f"{p}queries"] = (1, len(types) * len(c.layers), d)
        for i in range(c.depth):
            q = f"{p}decoders.{i}."
            for attention in ("self_attn", "multihead_attn"):
                shapes[f"{q}{attention}.in_proj_weight"] = (3 * d, d)
                shapes[f"{q}{attention}.in_proj_bias"] = (3 * d,)
                shapes[f"{q}{attention}.out_proj.weight"] = (d, d)
                shapes[f"{q}{attention}.out_proj.bias"] = (d,)
            shapes |= {f"{q}linear1.weight": (MLP * d, d), f"{q}linear1.bias": (MLP * d,)}
            shapes |= {f"{q}linear2.weight": (d, MLP * d), f"{q}linear2.bias": (d,)}
            for n in (1, 2, 3):
                shapes |= {f"{q}norm{n}.weight": (d,), f"{q}norm{n}.bias": (d,)}
        shapes |= {f"{p}norm.weight": (d,), f"{p}norm.bias": (d,)}
        shapes |= {f"{p}weights_head.weight": (each, d), f"{p}weights_head.bias": (each,)}
    return shapes


Read = Callable[[str], "torch.Tensor"]


def perceive(c: VloraConfig, read: Read, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """A of every type, [B,layers,D,r], of features [B,P,dv]."""
    import torch
    from torch.nn import functional as f

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.linear(x, read(f"{name}.weight"), read(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.layer_norm(x, (c.dim,), read(f"{name}.weight"), read(f"{name}.bias"), EPSILON)

    def attend(x: torch.Tensor, seen: torch.Tensor, name: str) -> torch.Tensor:
        weights = read(f"{name}.in_proj_weight").chunk(3)
        biases = read(f"{name}.in_proj_bias").chunk(3)
        q, k, v = (f.linear(s, w, b) for s, w, b in zip((x, seen, seen), weights, biases, strict=True))
        q, k, v = (s.unflatten(-1, (HEADS, -1)).transpose(1, 2) for s in (q, k, v))
        mixed = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return dense(mixed, f"{name}.out_proj")

    seen = dense(features, "visual_proj") + read("pos_embed")
    found = []
    for p in c.generators:
        x = read(f"{p}queries").expand(len(features), -1, -1)
        for i in range(c.depth):
            q = f"{p}decoders.{i}."
            normed = norm(x, f"{q}norm1")
            x = x + attend(normed, normed, f"{q}self_attn")
            x = x + attend(norm(x, f"{q}norm2"), seen, f"{q}multihead_attn")
            x = x + dense(f.gelu(dense(norm(x, f"{q}norm3"), f"{q}linear1")), f"{q}linear2")
        found.append(dense(norm(x, f"{p}norm"), f"{p}weights_head"))
    made = torch.cat(found, 1).unflatten(1, (len(c.types), -1)).unflatten(-1, (c.llm_dim, c.rank))
    return {t: made[:, i] for i, t in enumerate(c.types)}


def outward(c: VloraConfig, read: Read) -> dict[str, torch.Tensor]:
    """B of every type with its factor, [layers,D,r]."""
    shaped = read("Bs")[0].unflatten(0, (len(c.types), -1)).unflatten(-1, (c.llm_dim, c.rank)) * c.scale
    return {t: shaped[i] for i, t in enumerate(c.types)}


class VloraDecoder(Decoder):
    """The decoder of ``weights`` with the changes ``deltas`` (`perceive`) of the images of a batch; None is the text model."""

    def __init__(self, weights: Weights, config: VloraConfig, read: Read, **options: Any) -> None:
        super().__init__(weights, **options)
        self.vlora = config
        self._outward = outward(config, read)
        self.deltas: Mapping[str, torch.Tensor] | None = None

    def _adapter(self, layer: int) -> Adapt:
        import torch

        c, deltas = self.vlora, self.deltas
        if deltas is None or layer not in c.layers:
            return super()._adapter(layer)
        j, before = c.layers.index(layer), dict[str, torch.Tensor]()

        def branch(t: str, x: torch.Tensor) -> torch.Tensor:
            if t not in c.types:
                return torch.zeros_like(x)
            return (x @ deltas[t][:, j]) @ self._outward[t][j].T

        def adapt(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if name == "qkv":
                return y + torch.cat([branch(t, x) for t in "qkv"], -1)
            if name == "o":
                return y + branch("o", x)
            if name == "gate_up":
                before["mlp"] = x
                return y
            return y + branch("m", before["mlp"])

        return adapt


def logits(
    decoder: VloraDecoder,
    image_token_id: int,
    ids: list[int],
    deltas: Mapping[str, torch.Tensor] | None,
    *,
    masked: bool = True,
) -> torch.Tensor:
    """Logits [S,V] of all rows of ``ids`` but the image token's, whose image made ``deltas``.

    ``masked``: as in training, the image token is id 0 and no other row sees it. Else its row is left out and its position stays taken: the same.
    """
    import torch

    from .blocks import KVCache

    rows = [i for i, token in enumerate(ids) if token != image_token_id]
    positions = torch.arange(len(ids))[None]
    tokens = torch.tensor([[0 if token == image_token_id else token for token in ids]])
    visible = None
    if masked:
        before = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        before &= torch.tensor([token != image_token_id for token in ids]) | torch.eye(len(ids), dtype=torch.bool)
        words = torch.zeros(len(ids), -(-len(ids) // 64) * 64, dtype=torch.int64)
        words[:, : len(ids)] = before
        visible = (words.unflatten(1, (-1, 64)) << torch.arange(64)).sum(-1)[None]
    else:
        tokens, positions = tokens[:, rows], positions[:, rows]
    decoder.deltas = deltas
    cache = KVCache.empty(decoder.config, tokens.shape[1])
    try:
        out = decoder.forward(tokens, cache, torch.zeros(1, dtype=torch.int64), positions=positions, visible=visible)
    finally:
        decoder.deltas = None
    return out.logits[0, rows] if masked else out.logits[0]
