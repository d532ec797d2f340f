"""Panels as one picture: kept tokens as they are, dropped ones dark, a caption on top. Pillow only; the same input gives the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, RequestError, found_wanted
from .view import Panel, Part

WIDE = 380
"""Pixels of a panel; its picture's longer side."""
ACROSS = 4
"""Panels beside each other; more go below."""
MARGIN, GAP = 24, 22
PAPER, INK, FAINT, EDGE = (255, 255, 255), (28, 28, 30), (120, 120, 126), (255, 255, 255)
DIM = 0.3
"""Brightness of what is dropped: enough to know the place, too little to read it."""
SMALL = 0.42
"""The thumbnail beside the panel's picture."""


def draw(panels: Sequence[Panel], title: str = "") -> np.ndarray:
    """uint8 [H,W,3] of all ``panels``, with a ``title`` over them. Raises MissingDependencyError without Pillow."""
    image, drawer, font = _pillow()
    pictures = [_panel(panel) for panel in panels]
    across = min(ACROSS, len(pictures))
    wide = max(p.width for p in pictures)
    grid = [pictures[i : i + across] for i in range(0, len(pictures), across)]
    head = 34 if title else 0
    size = (
        2 * MARGIN + across * wide + (across - 1) * GAP,
        2 * MARGIN + head + sum(max(p.height for p in row) for row in grid) + (len(grid) - 1) * GAP,
    )
    sheet = image.new("RGB", size, PAPER)
    if title:
        drawer(sheet).text((MARGIN, MARGIN - 4), _fitting(title, font(17), size[0] - 2 * MARGIN), FAINT, font(17))
    top = MARGIN + head
    for row in grid:
        for column, picture in enumerate(row):
            sheet.paste(picture, (MARGIN + column * (wide + GAP), top))
        top += max(p.height for p in row) + GAP
    return np.asarray(sheet)


def save(picture: np.ndarray, path: str | Path) -> None:
    """Write it. Raises RequestError for a file that cannot be written, or a kind that Pillow does not know."""
    image, _, _ = _pillow()
    try:
        image.fromarray(picture).save(path, **({"optimize": True} if str(path).lower().endswith(".png") else {}))
    except (OSError, ValueError) as error:
        raise RequestError(
            found_wanted(f"--out {path}", f"not writable ({error})", "a .png or .jpg to write", "correct the path")
        ) from error


def _panel(panel: Panel) -> Any:
    image, drawer, font = _pillow()
    first, *others = panel.parts
    height, width = first.pixels.shape[:2]
    scale = WIDE / max(height, width)
    large = image.fromarray(lit(first, (round(height * scale), round(width * scale))))
    head = 52
    small = round(WIDE * SMALL)
    made = image.new("RGB", (WIDE, head + large.height + (14 + small if others else 0)), PAPER)
    pen = drawer(made)
    pen.text((0, 0), _fitting(panel.level, font(22), WIDE), INK, font(22))
    told = f"{panel.kept} of {panel.total} tokens" + (f", {panel.breaks} line breaks" if panel.breaks else "")
    pen.text((0, 28), told, FAINT, font(15))
    made.paste(large, (0, head))
    if others:
        top = head + large.height + 14
        made.paste(image.fromarray(lit(others[0], (small, small))), (0, top))
        pen.text((small + 10, top), others[0].name, FAINT, font(13))
    return made


def lit(part: Part, size: tuple[int, int]) -> np.ndarray:
    """``part`` at ``size`` (height, width), uint8 [h,w,3]: dropped tokens dark and grey, a thin edge around groups of kept ones; lines between pooled
    squares."""
    image, _, _ = _pillow()
    # Few pixels stay squares: that is what the model has. Many are averaged.
    enlarge = size[0] >= 2 * part.pixels.shape[0]
    how = image.Resampling.NEAREST if enlarge else image.Resampling.LANCZOS
    picture = np.asarray(image.fromarray(part.pixels).resize((size[1], size[0]), how)).astype(np.float32)
    rows, columns = part.lit.shape
    # Borders of tokens in pixels; every pixel belongs to the token it lies in.
    of_row = np.minimum(np.arange(size[0]) * rows // size[0], rows - 1)
    of_column = np.minimum(np.arange(size[1]) * columns // size[1], columns - 1)
    kept = part.lit[of_row][:, of_column]
    grey = picture.mean(-1, keepdims=True)
    dark = DIM * (0.55 * picture + 0.45 * grey)
    picture = np.where(kept[..., None], picture, dark)
    if not part.lit.all():
        _blend(picture, _edges(kept), EDGE, 0.6)
    if part.pooled:
        line = np.zeros(size, bool)
        line[_starts(of_row)] = True
        line[:, _starts(of_column)] = True
        _blend(picture, line, EDGE, 0.7)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _edges(kept: np.ndarray) -> np.ndarray:
    """Pixels of kept tokens that touch a dropped one."""
    edge = np.zeros_like(kept)
    edge[1:] |= kept[1:] & ~kept[:-1]
    edge[:-1] |= kept[:-1] & ~kept[1:]
    edge[:, 1:] |= kept[:, 1:] & ~kept[:, :-1]
    edge[:, :-1] |= kept[:, :-1] & ~kept[:, 1:]
    return edge


def _starts(groups: np.ndarray) -> np.ndarray:
    """Where the next group begins."""
    return np.flatnonzero(np.diff(groups)) + 1


def _blend(picture: np.ndarray, where: np.ndarray, colour: tuple[int, int, int], share: float) -> None:
    picture[where] = (1 - share) * picture[where] + share * np.array(colour, np.float32)


def _fitting(text: str, font: Any, wide: int) -> str:
    """``text``, cut where it is longer than ``wide`` pixels."""
    if font.getlength(text) <= wide:
        return text
    while text and font.getlength(text + "…") > wide:
        text = text[:-1]
    return text + "…"


def _pillow() -> tuple[Any, Any, Any]:
    """(Image, ImageDraw.Draw, size -> font); the font comes with Pillow, so every machine draws the same."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package pillow", "not installed", "installed, to draw", "pip install pillow")
        ) from error
    return Image, ImageDraw.Draw, ImageFont.load_default
