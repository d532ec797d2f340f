"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946, without squeeze-and-excitation and with ReLU6, as TensorFlow's lite models). Reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EPSILON = 1e-3
"""Of batch normalisation."""

SIZE = 224
MEAN, STD = 127 / 255, 128 / 255
"""Of each channel, from 0 to 1."""

_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""(blocks, kernel, stride of the first, expansion, channels)."""


@dataclass(frozen=True)
class Convolution:
    """One convolution with its normalisation: names in the checkpoint, sizes, and whether ReLU6 follows."""

    conv: str
    norm: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    groups: int
    relu: bool

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[outputs, inputs of a group, kernel, kernel]."""
        return self.outputs, self.inputs // self.groups, self.kernel, self.kernel


@dataclass(frozen=True)
class Block:
    """Convolutions one after the other; ``residual`` adds the input."""

    convolutions: tuple[Convolution, ...]
    residual: bool


def blocks() -> Iterator[Block]:
    """Stem, blocks, head."""
    yield Block((Convolution("_conv_stem", "_bn0", 3, 32, 3, 2, 1, True),), False)
    channels, index = 32, 0
    for count, kernel, first, expansion, outputs in _STAGES:
        for position in range(count):
            p, stride, wide = f"_blocks.{index}.", first if position == 0 else 1, channels * expansion
            parts = (
                [] if expansion == 1 else [Convolution(f"{p}_expand_conv", f"{p}_bn0", channels, wide, 1, 1, 1, True)]
            )
            parts.append(Convolution(f"{p}_depthwise_conv", f"{p}_bn1", wide, wide, kernel, stride, wide, True))
            parts.append(Convolution(f"{p}_project_conv", f"{p}_bn2", wide, outputs, 1, 1, 1, False))
            yield Block(tuple(parts), stride == 1 and channels == outputs)
            channels, index = outputs, index + 1
    yield Block((Convolution("_conv_head", "_bn1", channels, 1280, 1, 1, 1, True),), False)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: (before, after), the odd one after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def expected_tensors(classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names in the checkpoint and shapes."""
    shapes: dict[str, tuple[int, ...]] = {"_fc.weight": (classes, 1280), "_fc.bias": (classes,)}
    for block in blocks():
        for c in block.convolutions:
            shapes[f"{c.conv}.weight"] = c.weight_shape
            shapes |= {f"{c.norm}.{k}": (c.outputs,) for k in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def forward(tensor: Callable[[str], torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """image float32 [N,3,224,224], normalised by MEAN and STD -> logits [N,1000]."""
    from torch.nn.functional import batch_norm, conv2d, linear, pad

    x = image
    for block in blocks():
        before = x
        for c in block.convolutions:
            low, high = same_padding(x.shape[-1], c.kernel, c.stride)
            x = conv2d(pad(x, (low, high, low, high)), tensor(f"{c.conv}.weight"), stride=c.stride, groups=c.groups)
            mean, var = tensor(f"{c.norm}.running_mean"), tensor(f"{c.norm}.running_var")
            x = batch_norm(x, mean, var, tensor(f"{c.norm}.weight"), tensor(f"{c.norm}.bias"), eps=EPSILON)
            x = x.clamp(0, 6) if c.relu else x
        x = x + before if block.residual else x
    return linear(x.mean((2, 3)), tensor("_fc.weight"), tensor("_fc.bias"))
