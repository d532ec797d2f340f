"""The training pass in two parts: real rows once without gradients, then the mask rows over their keys and values.

It is one pass over interleaved blocks [x_1 m_1..m_k, x_2 m_1..m_k, ...] with the exact mask, taken apart along the one direction in which
it flows: no real row ever sees a mask. So the frozen model's activations of the real rows need not be kept, gates need
not be looked at (every row of the second part is a mask), and attention is a product with the n real keys and a small one within the
block, instead of (n + A*k)^2. `tests/test_train_mtp.py` holds it to the reference, `farthing.models.mtp.MtpDecoder.step`.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...export.checkpoint import Checkpoint
from ...models.blocks import rotary_angles
from ...models.mtp import GROUPS, LORA_A, LORA_B, MASKS, MtpAdapter

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer: rotated keys and values [B,Hkv,n,dh]."""


class FrozenBase:
    """A checkpoint's weights, fused as in our graphs. Products are in ``compute``; everything else is float32."""

    def __init__(self, checkpoint: Checkpoint, compute: str = "float32") -> None:
        self.config = c = checkpoint.config
        self.compute = getattr(torch, compute)
        names = set(checkpoint.names())

        def read(name: str) -> torch.Tensor:
            return torch.from_numpy(checkpoint.tensor(name).astype("float32"))

        self.embed = read("embed.weight")
        self.head = (self.embed if c.tied_head else read("head.weight")).to(self.compute)
        self.norm = read("norm.weight")
        self.inv_freq = torch.from_numpy(c.rope.inv_freq(c.head_dim))
        self.layers: list[dict[str, torch.Tensor]] = []
        for i in range(c.layers):
            layer = {}
            for group, parts in GROUPS.items():
                full = [f"layers.{i}.{p}" for p in parts]
                layer[group] = torch.cat([read(f"{p}.weight") for p in full]).to(self.compute)
                if f"{full[0]}.bias" in names:
                    layer[f"{group}.bias"] = torch.cat([read(f"{p}.bias") for p in full])
            for norm in ("attn_norm", "mlp_norm", "q_norm", "k_norm"):
                if f"layers.{i}.{norm}.weight" in names:
                    layer[norm] = read(f"layers.{i}.{norm}.weight")
            self.layers.append(layer)

    @torch.no_grad()
    def real_pass(self, ids: torch.Tensor) -> tuple[torch.Tensor, KeysValues]:
        """(final-normed rows [B,n,D], keys and values) of ids [B,n]."""
        angles = rotary_angles(torch.arange(ids.shape[1])[None], self.inv_freq)
        stream, kept = self.embed[ids], []
        for layer in self.layers:
            q, k, v = self._qkv(layer, self._norm(stream, layer["attn_norm"]), angles, None)
            kept.append((k, v))
            group = q.shape[1] // k.shape[1]
            keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            mixed = F.scaled_dot_product_attention(q, keys, values, is_causal=True, scale=self.config.scale)
            stream = self._after_attention(layer, stream, mixed.transpose(1, 2).flatten(2), None)
        return self._norm(stream, self.norm), kept

    def mask_pass(self, adapter: MtpAdapter, kept: KeysValues, anchors: torch.Tensor) -> torch.Tensor:
        """Latents z [B,A,k,D] of the masks behind rows ``anchors`` [B,A], with gradients for the adapter's tensors."""
        c, (batch, count), k = self.config, anchors.shape, adapter.config.masks
        positions = (anchors[..., None] + 1 + torch.arange(k)).flatten(1)
        angles = rotary_angles(positions, self.inv_freq)
        stream = adapter.tensors[MASKS].expand(batch, count, k, -1).flatten(1, 2)
        n, group = kept[0][0].shape[2], c.heads // c.kv_heads
        # Score terms that shut out what a mask must not see: later reals, and later masks of its block.
        later = torch.zeros(batch, 1, 1, count, 1, n).masked_fill_(
            torch.arange(n) > anchors[:, None, None, :, None, None], float("-inf")
        )
        behind = torch.full((k, k), float("-inf")).triu(1)
        for i, layer in enumerate(self.layers):
            q, own_k, own_v = self._qkv(layer, self._norm(stream, layer["attn_norm"]), angles, (adapter, i))
            keys, values = kept[i]
            q = q.view(batch, c.kv_heads, group, count, k, c.head_dim) * c.scale
            flat = q.reshape(batch, c.kv_heads, group * count * k, c.head_dim)
            real = (flat @ keys.transpose(2, 3)).view(batch, c.kv_heads, group, count, k, n) + later
            own_k = own_k.view(batch, c.kv_heads, 1, count, k, c.head_dim)
            own_v = own_v.view(batch, c.kv_heads, 1, count, k, c.head_dim)
            own = q @ own_k.transpose(4, 5) + behind
            chance = torch.softmax(torch.cat([real, own], -1), -1)
            mixed = (chance[..., :n].reshape(batch, c.kv_heads, -1, n) @ values).view_as(q) + chance[..., n:] @ own_v
            mixed = mixed.permute(0, 3, 4, 1, 2, 5).reshape(batch, count * k, c.q_width)
            stream = self._after_attention(layer, stream, mixed, (adapter, i))
        return self._norm(stream, self.norm).view(batch, count, k, -1)

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """float32 [...,V]."""
        return F.linear(rows.to(self.compute), self.head).float()

    def _qkv(
        self,
        layer: dict[str, torch.Tensor],
        x: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        adapt: tuple[MtpAdapter, int] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c = self.config
        packed = self._linear(layer, "qkv", x, adapt).unflatten(-1, (c.heads + 2 * c.kv_heads, c.head_dim))
        q, k, v = packed.transpose(1, 2).split([c.heads, c.kv_heads, c.kv_heads], dim=1)
        if "q_norm" in layer:
            q, k = self._norm(q, layer["q_norm"]), self._norm(k, layer["k_norm"])
        return _rotate(q, *angles), _rotate(k, *angles), v

    def _after_attention(
        self,
        layer: dict[str, torch.Tensor],
        stream: torch.Tensor,
        mixed: torch.Tensor,
        adapt: tuple[MtpAdapter, int] | None,
    ) -> torch.Tensor:
        stream = stream + self._linear(layer, "o", mixed, adapt)
        gate, up = self._linear(layer, "gate_up", self._norm(stream, layer["mlp_norm"]), adapt).chunk(2, -1)
        return stream + self._linear(layer, "down", F.silu(gate) * up, adapt)

    def _linear(
        self, layer: dict[str, torch.Tensor], group: str, x: torch.Tensor, adapt: tuple[MtpAdapter, int] | None
    ) -> torch.Tensor:
        y = F.linear(x.to(self.compute), layer[group]).float()
        if f"{group}.bias" in layer:
            y = y + layer[f"{group}.bias"]
        return y if adapt is None else y + _delta(*adapt, group, x)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.norm_epsilon)


def _delta(adapter: MtpAdapter, index: int, group: str, x: torch.Tensor) -> torch.Tensor:
    """What the adapter adds to the fused linear ``group``; parts without a LoRA do not occur in training."""
    added = [
        F.linear(F.linear(x, adapter.tensors[LORA_A.format(index, p)]), adapter.tensors[LORA_B.format(index, p)])
        for p in adapter.parts(index, group)
    ]
    return torch.cat(added, -1) * adapter.config.scale


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
