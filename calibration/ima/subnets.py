"""Do images and text use the same weights? The sparse sub-networks of both by Wanda (Sun et al. 2023, arXiv 2306.11695), and how far they overlap.

A weight's importance is |W_ij| times the norm of input j over the rows of one modality; of each output row the part ``sparsity`` with the least is left
out. Two independent masks that keep a share k of all weights overlap by k / (2 - k): a third at one half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ...models.blocks import DecoderLayer

GROUPS = {"qkv": "qkv", "o": "o", "gate_up": ("gate", "up"), "down": ("down",)}
"""Fused linear -> the linears that share its input."""


class InputNorms:
    """Sums of squares of the inputs of a layer's linears, apart for rows of images and of text. Its `see` is an `Adapt`."""

    def __init__(self) -> None:
        self.squares: dict[tuple[str, str], torch.Tensor] = {}
        self._rows: dict[str, torch.Tensor] = {}

    def rows(self, visual: torch.Tensor, text: torch.Tensor) -> None:
        """bool [S] of the prompt that is run next."""
        self._rows = {"visual": visual, "text": text}

    def see(self, name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Count the input ``x`` of the fused linear ``name``; ``y`` itself."""
        flat = x.flatten(0, -2)
        for modality, rows in self._rows.items():
            found = flat[rows].double().square().sum(0)
            self.squares[name, modality] = self.squares.get((name, modality), 0.0) + found
        return y


def overlap(layer: DecoderLayer, norms: InputNorms, sparsity: float) -> dict[str, float]:
    """Linear -> intersection over union of the weights that its two sub-networks keep."""
    attention = {**dict(zip("qkv", layer.attention.projections, strict=True)), "o": layer.attention.out}
    weights = {n: pair[0] for n, pair in {**attention, **layer.mlp.parts}.items()}
    found = {}
    for group, parts in GROUPS.items():
        for part in parts:
            weight = weights[part]
            assert weight is not None
            a, b = (kept(weight, norms.squares[group, m], sparsity) for m in ("visual", "text"))
            found[part] = float((a & b).sum() / (a | b).sum())
    return found


def kept(weight: torch.Tensor, squares: torch.Tensor, sparsity: float) -> torch.Tensor:
    """bool [N,K]: what is left of ``weight`` [N,K] whose inputs have sums of squares ``squares`` [K]. The earlier of equals stay."""
    import torch

    scores = weight.float().abs() * squares.sqrt().float()
    count = weight.shape[1] - round(sparsity * weight.shape[1])
    chosen = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)


def by_chance(sparsity: float) -> float:
    """Overlap of two random masks."""
    share = 1.0 - sparsity
    return share / (2.0 - share)
