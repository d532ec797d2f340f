"""What Qwen2.5-VL's tower needs to know of an image's size, computed from the shape of the pixels: rotary angles, and windows.

Integer arithmetic on a few thousand numbers, of operators that every TensorRT reads (no NonZero, no Loop).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.qwen_vision import QwenVisionConfig
from .writer import GraphWriter


@dataclass(frozen=True)
class Windows:
    """Names of values. Windows are all of full size; those at the right and lower edge have places outside the image.

    ``index`` int64 [W*w*w]: the token in each place of each window, for places outside some token at the edge; ``back`` int64 [N]: the place of
    each token; ``shape`` of rows in windows, [W,w*w*patches,3d]; ``mask`` bool [W,1,L,L], L = w*w*patches: keys that are in the image;
    ``cos`` and ``sin`` [W,L,head_dim/2].
    """

    index: str = "windows.index"
    back: str = "windows.back"
    shape: str = "windows.shape"
    mask: str = "windows.mask"
    cos: str = "windows.cos"
    sin: str = "windows.sin"


def add_grid(w: GraphWriter, c: QwenVisionConfig) -> None:
    """``high`` and ``wide`` int64 [1]: tokens along the sides of ``image`` [1,3,H,W]; and small constants."""
    for name, value in (("unit", c.unit), ("merge", c.merge), ("one", 1)):
        w.constant(name, np.array([value], np.int64))
    w.constant("first", np.array(0, np.int64))
    w.constant("step", np.array(1, np.int64))
    for name, axis in (("high", 2), ("wide", 3)):
        w.node("Shape", ["image"], [f"{name}.pixels"], start=axis, end=axis + 1)
        w.node("Div", [f"{name}.pixels", "unit"], [name])


def add_angles(w: GraphWriter, c: QwenVisionConfig) -> None:
    """``cos`` and ``sin`` [1,S,head_dim/2] of the patches, token by token: the first half turns by row, the second by column."""
    pairs = c.head_dim // 4
    w.constant("inv_freq", c.inv_freq()[None])
    w.constant("pairs", np.array([pairs], np.int64))
    w.node("Concat", ["high", "wide", "merge", "merge", "pairs"], ["angles.shape"], axis=0)
    for name, at in (("high", ["high", "one", "merge", "one"]), ("wide", ["one", "wide", "one", "merge"])):
        w.node("Mul", [name, "merge"], [f"{name}.patches"])
        _range(w, f"{name}.patches", f"{name}.patch")
        w.node("Cast", [f"{name}.patch"], [f"{name}.position"], to=1)
        w.node("Unsqueeze", [f"{name}.position", "one"], [f"{name}.position.column"])
        w.node("Mul", [f"{name}.position.column", "inv_freq"], [f"{name}.angles"])
        w.node("Concat", [*at, "pairs"], [f"{name}.angles.shape"], axis=0)
        w.node("Reshape", [f"{name}.angles", f"{name}.angles.shape"], [f"{name}.angles.apart"])
        w.node("Expand", [f"{name}.angles.apart", "angles.shape"], [f"{name}.angles.all"])
    w.node("Concat", ["high.angles.all", "wide.angles.all"], ["angles.grid"], axis=-1)
    w.constant("angles.rows", np.array([1, -1, 2 * pairs], np.int64))
    w.node("Reshape", ["angles.grid", "angles.rows"], ["angles"])
    w.node("Cos", ["angles"], ["cos"])
    w.node("Sin", ["angles"], ["sin"])


def add_windows(w: GraphWriter, c: QwenVisionConfig) -> Windows:
    """See `Windows`."""
    names, side = Windows(), c.window_tokens
    places = side * side * c.patches_in_token
    w.constant("side", np.array([side], np.int64))
    w.constant("side.squared", np.array([side * side], np.int64))
    w.constant("side.less", np.array([side - 1], np.int64))
    for name, at in (
        ("high", ["windows.high", "side", "one", "one"]),
        ("wide", ["one", "one", "windows.wide", "side"]),
    ):
        w.node("Add", [name, "side.less"], [f"{name}.up"])
        w.node("Div", [f"{name}.up", "side"], [f"windows.{name}"])
        w.node("Mul", [f"windows.{name}", "side"], [f"{name}.places"])
        _range(w, f"{name}.places", f"{name}.place")
        w.node("Sub", [name, "one"], [f"{name}.edge"])
        w.node("Min", [f"{name}.place", f"{name}.edge"], [f"{name}.token"])
        w.node("Less", [f"{name}.place", name], [f"{name}.inside"])
        w.node("Concat", at, [f"{name}.apart"], axis=0)
        w.node("Reshape", [f"{name}.inside", f"{name}.apart"], [f"{name}.inside.apart"])
    w.node("Mul", ["high.token", "wide"], ["high.token.first"])
    w.node("Reshape", ["high.token.first", "high.apart"], ["high.token.apart"])
    w.node("Reshape", ["wide.token", "wide.apart"], ["wide.token.apart"])
    w.node("Add", ["high.token.apart", "wide.token.apart"], ["windows.grid"])
    w.node("Transpose", ["windows.grid"], ["windows.by_window"], perm=[0, 2, 1, 3])
    w.constant("flat", np.array([-1], np.int64))
    w.node("Reshape", ["windows.by_window", "flat"], [names.index])
    _mask(w, places, c.patches_in_token, names.mask)
    _back(w, names.back)
    w.constant(names.shape, np.array([-1, places, 3 * c.hidden_size], np.int64))
    half = c.head_dim // 2
    w.constant("angles.tokens", np.array([-1, c.patches_in_token * half], np.int64))
    w.constant("windows.angles", np.array([-1, places, half], np.int64))
    for table, placed in (("cos", names.cos), ("sin", names.sin)):
        w.node("Reshape", [table, "angles.tokens"], [f"{table}.tokens"])
        w.node("Gather", [f"{table}.tokens", names.index], [f"{table}.placed"], axis=0)
        w.node("Reshape", [f"{table}.placed", "windows.angles"], [placed])
    return names


def _mask(w: GraphWriter, places: int, patches: int, out: str) -> None:
    """[W,1,L,L], equal rows: TensorRT and ONNX Runtime want a mask with as many rows as there are queries."""
    w.node("And", ["high.inside.apart", "wide.inside.apart"], ["inside.grid"])
    w.node("Transpose", ["inside.grid"], ["inside.by_window"], perm=[0, 2, 1, 3])
    w.constant("inside.column", np.array([-1, places // patches, 1], np.int64))
    w.node("Reshape", ["inside.by_window", "inside.column"], ["inside.tokens"])
    w.constant("inside.patches", np.array([1, 1, patches], np.int64))
    w.node("Expand", ["inside.tokens", "inside.patches"], ["inside.all"])
    w.constant("inside.keys", np.array([-1, 1, 1, places], np.int64))
    w.node("Reshape", ["inside.all", "inside.keys"], ["inside.row"])
    w.constant("inside.queries", np.array([1, 1, places, 1], np.int64))
    w.node("Expand", ["inside.row", "inside.queries"], [out])


def _back(w: GraphWriter, out: str) -> None:
    """Token (y, x) is in place ((y/w) * windows in a row + x/w) * w^2 + (y%w) * w + x%w: a part that y decides, and one that x does."""
    for name in ("high", "wide"):
        _range(w, name, f"{name}.at")
        w.node("Div", [f"{name}.at", "side"], [f"{name}.window"])
        w.node("Mul", [f"{name}.window", "side"], [f"{name}.window.first"])
        w.node("Sub", [f"{name}.at", f"{name}.window.first"], [f"{name}.within"])
        w.node("Mul", [f"{name}.window", "side.squared"], [f"{name}.window.place"])
    w.node("Mul", ["high.window.place", "windows.wide"], ["high.window.row"])
    w.node("Mul", ["high.within", "side"], ["high.within.row"])
    w.node("Add", ["high.window.row", "high.within.row"], ["high.back"])
    w.node("Add", ["wide.window.place", "wide.within"], ["wide.back"])
    w.node("Unsqueeze", ["high.back", "one"], ["high.back.column"])
    w.node("Add", ["high.back.column", "wide.back"], ["back.grid"])
    w.node("Reshape", ["back.grid", "flat"], [out])


def _range(w: GraphWriter, count: str, out: str) -> None:
    """int64 0, 1, ... ``count`` [1] - 1."""
    w.node("Squeeze", [count], [f"{out}.count"])
    w.node("Range", ["first", f"{out}.count", "step"], [out])
