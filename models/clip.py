"""CLIP's vision tower (Radford et al. 2021, arXiv 2103.00020): its shape, its tensors, and the PyTorch reference.

Tensors are named as in transformers' CLIPVisionModel, without what stands before ``embeddings``. Written from the paper and compared with
transformers (tests/test_vlm_reference.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ACTIVATIONS = ("quick_gelu", "gelu")
"""x * sigmoid(1.702 x), and Gaussian error linear units by erf."""


@dataclass(frozen=True)
class ClipConfig:
    """A pre-norm vision transformer with a class token before its patches and a norm before its first layer."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    image_size: int
    patch_size: int
    epsilon: float = 1e-5
    activation: str = "quick_gelu"
    feature_layers: tuple[int, ...] = (-2,)
    """Hidden states that the projector reads, side by side; 0 is the one before the first layer, -1 the last."""
    class_token: bool = False
    """Whether the class token is among the features."""

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Features of a view."""
        return self.grid**2 + self.class_token

    @property
    def feature_size(self) -> int:
        """Width of a feature."""
        return self.hidden_size * len(self.feature_layers)

    @property
    def wanted_layers(self) -> tuple[int, ...]:
        """Feature layers counted from 0."""
        return tuple(i + self.layers + 1 if i < 0 else i for i in self.feature_layers)

    @property
    def layers_needed(self) -> int:
        """Layers that must run for the features."""
        return max(self.wanted_layers)

    def expected_tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the tower with its shape."""
        return expected_tensors(self)

    def features(self, read: Callable[[str], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """See `features`."""
        return features(self, read, images)


def expected_tensors(c: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the tower with its shape."""
    d, f, p = c.hidden_size, c.intermediate_size, c.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (d,),
        "embeddings.patch_embedding.weight": (d, 3, p, p),
        "embeddings.position_embedding.weight": (c.grid**2 + 1, d),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    for i in range(c.layers):
        name = f"encoder.layers.{i}."
        for part, rows, columns in (
            *((f"self_attn.{x}_proj", d, d) for x in ("q", "k", "v", "out")),
            ("mlp.fc1", f, d),
            ("mlp.fc2", d, f),
        ):
            shapes |= {f"{name}{part}.weight": (rows, columns), f"{name}{part}.bias": (rows,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{name}{norm}.weight": (d,), f"{name}{norm}.bias": (d,)}
    return shapes


def hidden_states(c: ClipConfig, read: Callable[[str], torch.Tensor], images: torch.Tensor) -> list[torch.Tensor]:
    """All hidden states [T,1+N,d], the first before any layer, of normalised ``images`` [T,3,H,W]; ``read`` gives the tensors."""
    import torch
    from torch.nn import functional as f

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.linear(x, read(f"{name}.weight"), read(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.layer_norm(x, (c.hidden_size,), read(f"{name}.weight"), read(f"{name}.bias"), c.epsilon)

    patches = (
        f.conv2d(images, read("embeddings.patch_embedding.weight"), stride=c.patch_size).flatten(2).transpose(1, 2)
    )
    first = read("embeddings.class_embedding").expand(len(images), 1, -1)
    x = norm(torch.cat([first, patches], 1) + read("embeddings.position_embedding.weight"), "pre_layrnorm")
    states = [x]
    for i in range(c.layers):
        p = f"encoder.layers.{i}."
        normed = norm(x, p + "layer_norm1")
        q, k, v = (
            dense(normed, f"{p}self_attn.{n}_proj").unflatten(-1, (c.heads, -1)).transpose(1, 2)
            for n in ("q", "k", "v")
        )
        mixed = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + dense(mixed, p + "self_attn.out_proj")
        up = dense(norm(x, p + "layer_norm2"), p + "mlp.fc1")
        x = x + dense(up * torch.sigmoid(1.702 * up) if c.activation == "quick_gelu" else f.gelu(up), p + "mlp.fc2")
        states.append(x)
    return states


def features(c: ClipConfig, read: Callable[[str], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """What a projector reads of ``images`` [T,3,H,W]: [T,N,feature_size], the class token left out unless the configuration keeps it."""
    import torch

    states = hidden_states(c, read, images)
    return torch.cat([states[i][:, 0 if c.class_token else 1 :] for i in c.wanted_layers], -1)
