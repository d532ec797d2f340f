"""Training of the image tokenizers: VQ with unit codes (models/vq.py) and the binary autoencoder of ELM (models/bae.py).

Both learn squared and absolute error of pixels and of differences of neighbouring pixels, which keeps edges; no adversary.
"""

from __future__ import annotations

import numpy as np
import torch
from image_data import load, pixels
from torch import nn
from torch.nn import functional as F

from farthing.models.bae import Bae, BaeConfig
from farthing.models.vq import Vq, VqConfig

WARM = 60
"""Steps without quantisation; then the codes start as latents of images."""


def tokenizer_config(name: str) -> VqConfig:
    """vq8: 8x8 codes of 256; vq16: 16x16 codes of 256."""
    multipliers, latent = {"vq8": ((1, 1, 2), 64), "vq16": ((1, 1), 32)}[name]
    return VqConfig(codes=256, code_dim=8, channels=32, multipliers=multipliers, latent=latent, blocks=1)


def reconstruction(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared error + a fifth of the absolute ones of values and of their differences along rows and columns."""
    off = found - wanted
    edges = off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    return off.square().mean() + 0.2 * off.abs().mean() + 0.2 * edges


class VqTrainer(nn.Module):
    """A Vq, and how often each code is taken (a mean over about 50 batches)."""

    def __init__(self, config: VqConfig, steps: int, batch: int) -> None:
        super().__init__()
        self.vq, self.steps, self.batch = Vq(config), steps, batch
        self.register_buffer("usage", torch.ones(config.codes))
        self.grey = load("train")[0]

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """Unit latents float32 [B,h*w,code_dim]."""
        z = self.vq.quant_conv(self.vq.encoder(x)).float()
        return F.normalize(z.flatten(2).transpose(1, 2), dim=-1)

    def back(self, rows: torch.Tensor) -> torch.Tensor:
        """Pixels of latents [B,h*w,code_dim]."""
        side = round(rows.shape[1] ** 0.5)
        grid = rows.transpose(1, 2).reshape(len(rows), -1, side, side)
        return self.vq.decoder(self.vq.post_quant_conv(grid)).float()  # type: ignore[no-any-return]

    def before(self, step: int, draw: np.random.Generator) -> None:
        """Sets the first codes, and each 25 steps moves the dead ones onto latents, until three quarters of the steps are done."""
        if step < WARM or (step != WARM and (step % 25 or step > 0.75 * self.steps)):
            return
        dead = torch.arange(len(self.usage)) if step == WARM else (self.usage < 0.1).nonzero()[:, 0]
        if len(dead):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                x = pixels(self.grey[draw.integers(0, len(self.grey), 64)])
                rows = self.latents(x).flatten(0, 1)
            with torch.no_grad():
                self.vq.quantize.embedding.weight[dead] = rows[
                    torch.from_numpy(draw.permutation(len(rows))[: len(dead)])
                ]
                self.usage[dead] = 1.0

    def loss(self, step: int, draw: np.random.Generator) -> torch.Tensor:
        """Straight-through reconstruction, codes to latents, and a quarter of latents to codes (van den Oord et al. 2017)."""
        x = pixels(self.grey[draw.integers(0, len(self.grey), self.batch)])
        z = self.latents(x)
        if step < WARM:
            return reconstruction(self.back(z), x)
        table = self.vq.table()
        codes = (z.detach() @ table.detach().T).argmax(-1)
        with torch.no_grad():  # 1 = as often as the mean code
            share = torch.bincount(codes.flatten(), minlength=len(self.usage)) * (len(self.usage) / codes.numel())
            self.usage.mul_(0.98).add_(share, alpha=0.02)
        taken = table[codes]
        pull = (taken - z.detach()).square().sum(-1).mean() + 0.25 * (z - taken.detach()).square().sum(-1).mean()
        return reconstruction(self.back(z + (taken - z).detach()), x) + 0.1 * pull

    def report(self) -> str:
        """Squared error in [-1,1] on 2,000 test images, codes in use and their entropy."""
        return describe(self.vq, load("test")[0][:2000], len(self.usage))


@torch.no_grad()
def describe(vq: nn.Module, images: np.ndarray, codes: int) -> str:
    """What a tokenizer does to ``images`` uint8 [N,32,32]: error, codes in use, bits of the code distribution."""
    found, square = [], 0.0
    for i in range(0, len(images), 250):
        x = pixels(images[i : i + 250])
        ids = vq.encode(x)
        square += float((vq.decode(ids).clamp(-1, 1) - x).square().mean(dim=(1, 2, 3)).sum())
        found.append(ids)
    share = torch.bincount(torch.cat(found).flatten(), minlength=codes).double()
    share /= share.sum()
    bits = float(-(share[share > 0] * share[share > 0].log2()).sum())
    return f"mse {square / len(images):.4f}, {int((share > 0).sum())} of {codes} codes used, {bits:.2f} bits a code"


@torch.no_grad()
def encode_all(vq: nn.Module, split: str, size: int = 250) -> torch.Tensor:
    """int16 [N,g*g]: codes of every image of ``split``; those to learn from in bfloat16, which is half the time and moves few codes."""
    images = load(split)[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=split == "train"):
        return torch.cat([vq.encode(pixels(images[i : i + size])).short() for i in range(0, len(images), size)])


def binary_config() -> BaeConfig:
    """8 bits, 8x8 codes; resolutions, widths and blocks of vq8's encoder and decoder."""
    return BaeConfig(bits=8, channels=32, multipliers=(1, 1, 2), latent=64, blocks=1, generator_blocks=2)


class Signed(nn.Module):
    """A Bae over pixels in [-1,1], as the VQs have them."""

    def __init__(self, bae: Bae) -> None:
        super().__init__()
        self.bae = bae

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.bae.encode((x + 1) / 2)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.bae.decode(codes) * 2 - 1


class BaeTrainer(nn.Module):
    """Reconstruction from drawn bits, and a pull of the chances to 0 or 1 (Liu et al. 2025: mean of s(1-s))."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.bae, self.batch = Bae(binary_config()), batch
        self.grey = load("train")[0]

    def loss(self, step: int, draw: np.random.Generator) -> torch.Tensor:
        x = pixels(self.grey[draw.integers(0, len(self.grey), self.batch)])
        found = self.bae((x + 1) / 2)
        chances = found.chances.float()
        return reconstruction(found.pixels.float() * 2 - 1, x) + 0.1 * (chances * (1 - chances)).mean()

    def report(self) -> str:
        return describe(Signed(self.bae), load("test")[0][:2000], 256)
