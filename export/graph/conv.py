"""Pieces of the image tokenizers' graphs: convolutions, GroupNorm, residual blocks, attention over places. All of it float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...models.conv_blocks import EPSILON, GROUPS
from .image_step import State
from .writer import GraphWriter


class ConvGraph:
    """Writes the blocks of ``state`` by their names; each method returns the name of its output [B,C,h,w]."""

    def __init__(self, writer: GraphWriter, state: State) -> None:
        self.w, self.state = writer, state
        writer.constant("flat", np.array([0, 0, -1], np.int64))

    def conv(self, name: str, x: str, out: str | None = None, **attributes: Any) -> str:
        """A convolution that keeps the sides, unless ``attributes`` say otherwise."""
        pad = self.state[name + ".weight"].shape[-1] // 2
        self.w.node("Conv", [x, *self._pair(name)], [out or name + ".out"], **{"pads": [pad] * 4, **attributes})
        return out or name + ".out"

    def norm(self, name: str, x: str) -> str:
        """GroupNorm."""
        inputs = [x, *self._pair(name)]
        self.w.node("GroupNormalization", inputs, [name + ".out"], num_groups=GROUPS, epsilon=EPSILON)
        return name + ".out"

    def silu(self, x: str) -> str:
        """x * sigmoid(x)."""
        self.w.node("Sigmoid", [x], [x + ".gate"])
        self.w.node("Mul", [x, x + ".gate"], [x + ".silu"])
        return x + ".silu"

    def res(self, p: str, x: str, shortcut: str = "nin_shortcut") -> str:
        """A residual block."""
        h = self.conv(p + ".conv1", self.silu(self.norm(p + ".norm1", x)))
        h = self.conv(p + ".conv2", self.silu(self.norm(p + ".norm2", h)))
        skip = self.conv(f"{p}.{shortcut}", x) if f"{p}.{shortcut}.weight" in self.state else x
        self.w.node("Add", [skip, h], [p + ".sum"])
        return p + ".sum"

    def attention(self, p: str, x: str, side: int) -> str:
        """One head over ``side`` x ``side`` places."""
        w, width = self.w, self.state[p + ".q.weight"].shape[0]
        h = self.norm(p + ".norm", x)
        for n in "qkv":
            w.node("Reshape", [self.conv(f"{p}.{n}", h), "flat"], [f"{p}.{n}.flat"])  # [B,C,HW]
        w.node("Transpose", [p + ".q.flat"], [p + ".q.rows"], perm=[0, 2, 1])
        w.node("MatMul", [p + ".q.rows", p + ".k.flat"], [p + ".products"])
        w.constant(p + ".scale", np.array(width**-0.5, np.float32))
        w.node("Mul", [p + ".products", p + ".scale"], [p + ".scores"])
        w.node("Softmax", [p + ".scores"], [p + ".weights"], axis=-1)
        w.node("Transpose", [p + ".weights"], [p + ".spread"], perm=[0, 2, 1])
        w.node("MatMul", [p + ".v.flat", p + ".spread"], [p + ".mixed"])
        w.constant(p + ".square", np.array([0, 0, side, side], np.int64))
        w.node("Reshape", [p + ".mixed", p + ".square"], [p + ".image"])
        w.node("Add", [x, self.conv(p + ".proj_out", p + ".image")], [p + ".sum"])
        return p + ".sum"

    def up(self, p: str, x: str) -> str:
        """Twice the sides."""
        self.w.constant(p + ".twice", np.array([1, 1, 2, 2], np.float32))
        resized: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        self.w.node("Resize", [x, "", p + ".twice"], [p + ".wide"], **resized)
        return self.conv(p + ".conv", p + ".wide")

    def down(self, p: str, x: str) -> str:
        """Half the sides; zeros right and below only."""
        return self.conv(p + ".conv", x, pads=[0, 0, 1, 1], strides=[2, 2])

    def _pair(self, name: str) -> list[str]:
        for n in (f"{name}.weight", f"{name}.bias"):
            self.w.weight(n, self.state[n].shape, "float32", [self.state[n]])
        return [f"{name}.weight", f"{name}.bias"]
