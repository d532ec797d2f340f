"""Vision-language models as data: tower, projector, and how an image stands in a prompt; and their PyTorch reference.

LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744) and LLaVA-NeXT: CLIP's tower, a two-layer GELU projector, a decoder. An image is a run of rows
in the prompt; LLaVA-NeXT's has several views, with a line break behind every row of the stitched ones. Qwen2.5-VL (Bai et al. 2025, arXiv
2502.13923) has a tower of its own, for images of any size, and the same projector, which it calls a merger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .clip import ClipConfig
from .qwen_vision import QwenVisionConfig

if TYPE_CHECKING:
    import torch

Tower = ClipConfig | QwenVisionConfig


@dataclass(frozen=True)
class VlmConfig:
    """What stands before the decoder. ``width`` is the decoder's hidden size. ``family``: llava, llava_next or qwen2_5_vl."""

    family: str
    tower: Tower
    width: int
    image_token_id: int
    projector_bias: bool = True
    pinpoints: tuple[tuple[int, int], ...] = ()
    """Sizes (height, width) that an image of several views may be fitted into; empty = one view."""

    @property
    def newline(self) -> bool:
        """Whether rows of an image end with a line break of their own."""
        return self.family == "llava_next"

    @property
    def clip(self) -> ClipConfig:
        """The tower where it is CLIP's; for what only that has. Raises TypeError."""
        if not isinstance(self.tower, ClipConfig):
            raise TypeError(f"the tower of {self.family} is no CLIP")
        return self.tower

    @property
    def rows(self) -> int | str:
        """Rows of an image: a number where all have as many, else a symbol."""
        return "L" if self.newline else self.tower.tokens

    @property
    def projector_width(self) -> int:
        """Outputs of the projector's first linear."""
        return self.tower.feature_size if isinstance(self.tower, QwenVisionConfig) else self.width


def projector_tensors(c: VlmConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the projector's tensors, the line break's included."""
    shapes: dict[str, tuple[int, ...]] = {}
    middle = c.projector_width
    for name, rows, columns in (("linear_1", middle, c.tower.feature_size), ("linear_2", c.width, middle)):
        shapes[f"{name}.weight"] = (rows, columns)
        if c.projector_bias:
            shapes[f"{name}.bias"] = (rows,)
    if c.newline:
        shapes["image_newline"] = (c.width,)
    return shapes


def project(c: VlmConfig, read: Callable[[str], torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Rows as the decoder reads them, [T,N,width], of features [T,N,dv]."""
    from torch.nn import functional as f

    def bias(name: str) -> torch.Tensor | None:
        return read(f"{name}.bias") if c.projector_bias else None

    middle = f.gelu(f.linear(features, read("linear_1.weight"), bias("linear_1")))
    return f.linear(middle, read("linear_2.weight"), bias("linear_2"))
