"""uint8 RGB -> the views that the vision graph takes, equal byte by byte to what the Hugging Face processors make before they normalise.

`runtime/core/vision/preprocess.cc` does the same in C++, resizing included; here Pillow resizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, RequestError, found_wanted
from ..anyres import AnyRes, anyres, choose_pinpoint
from .native import fitted

MOST_STRETCH = 200
"""Longest side over shortest: beyond it the resized picture of a few bytes would fill the memory."""


@dataclass(frozen=True)
class Prepared:
    """``views`` uint8 [T,H,W,3]; ``tiles`` (nh,nw) of an image of several views, (0, 0) of one; ``original`` its (height, width).

    ``grid``: rows and columns of tokens of an image that keeps its shape, (0, 0) of others.
    """

    views: np.ndarray
    original: tuple[int, int]
    tiles: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)

    def layout(self, grid: int) -> AnyRes:
        """Where the rows of views of ``grid`` x ``grid`` tokens stand in the sequence."""
        return anyres(self.original, self.tiles, grid)


def prepare(pixels: np.ndarray, how: Mapping[str, Any]) -> Prepared:
    """Views of ``pixels`` uint8 [H,W,3], as entry ``preprocess`` of the manifest says. Raises RequestError."""
    height, width = pixels.shape[:2]
    if max(height, width) > MOST_STRETCH * min(height, width):
        found = f"{height} x {width}"
        raise RequestError(
            found_wanted("shape of image", found, f"sides within 1 : {MOST_STRETCH}", "cut the image into parts")
        )
    if how["kind"] == "clip":
        return Prepared(clip_view(pixels, how)[None], (height, width))
    if how["kind"] == "anyres":
        return _several(pixels, how)
    if how["kind"] == "qwen2_vl":
        unit = int(how["patch"]) * int(how["merge"])
        size = fitted((height, width), unit, int(how["min_pixels"]), int(how["max_pixels"]))
        grid = (size[0] // unit, size[1] // unit)
        return Prepared(resize(pixels, size, how["resample"])[None], (height, width), grid=grid)
    raise RequestError(
        found_wanted("kind of preprocessing", how["kind"], "clip, anyres or qwen2_vl", "update farthing")
    )


def clip_view(pixels: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """uint8 [crop,crop,3]: the shortest side resized to ``size`` (or both, where it is a pair), the middle cut out."""
    size, (height, width) = how["size"], pixels.shape[:2]
    if isinstance(size, int):
        # The long side is truncated, as transformers does.
        tall = height >= width
        target = (int(size * height / width), size) if tall else (size, int(size * width / height))
    else:
        target = (int(size[0]), int(size[1]))
    resized = resize(pixels, target, how["resample"])
    return resized if "crop" not in how else _middle(resized, int(how["crop"]))


def resize(pixels: np.ndarray, size: tuple[int, int], resample: str) -> np.ndarray:
    """uint8 [h,w,3] of ``size`` = (h, w), by Pillow."""
    if pixels.shape[:2] == size:
        return pixels
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                "package pillow",
                "not installed",
                "installed, to resize images in portable mode",
                "pip install pillow, or use the native core",
            )
        ) from error
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[resample]
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), method))


def _middle(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle [side,side,3]; black where the picture is smaller."""
    height, width = pixels.shape[:2]
    if height < side or width < side:
        high, wide = max(side, height), max(side, width)
        top, left = math.ceil((high - height) / 2), math.ceil((wide - width) / 2)
        padded = np.zeros((high, wide, 3), np.uint8)
        padded[top : top + height, left : left + width] = pixels
        pixels, height, width = padded, high, wide
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _several(pixels: np.ndarray, how: Mapping[str, Any]) -> Prepared:
    """A thumbnail, then the tiles of the best fitting size, the picture in its middle."""
    height, width = pixels.shape[:2]
    side = int(how["crop"])
    high, wide = choose_pinpoint((height, width), [(int(h), int(w)) for h, w in how["pinpoints"]])
    across, down = wide / width, high / height
    if across < down:
        inner = (min(math.ceil(height * across), high), wide)
    else:
        inner = (high, min(math.ceil(width * down), wide))
    canvas = np.zeros((high, wide, 3), np.uint8)
    top, left = (high - inner[0]) // 2, (wide - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = resize(pixels, inner, how["resample"])
    tiles = (high // side, wide // side)
    cut = canvas.reshape(tiles[0], side, tiles[1], side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    thumbnail = resize(pixels, (side, side), how["resample"])
    return Prepared(np.concatenate([thumbnail[None], cut]), (height, width), tiles)
