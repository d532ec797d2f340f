"""Which parts of a picture the rows of an image stand for, and which of them a level keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from ...runtime.anyres import AnyRes
from ...runtime.bundle import Bundle
from ...runtime.text import tokenizer_of
from ...runtime.visual.prepare import Prepared
from ...runtime.visual.prompt import user_message
from ...runtime.visual.stepper import PromptStepper
from .trial import FULL, kernels_encoder, levels_of


@dataclass(frozen=True)
class Part:
    """A rectangle of tokens over ``pixels`` uint8 [h,w,3], as the model sees it. ``lit`` bool [rows,columns]: which of them are kept.

    ``pooled``: they are means over squares of the tower's tokens, all of them kept.
    """

    pixels: np.ndarray
    lit: np.ndarray
    pooled: bool = False
    name: str = ""


@dataclass(frozen=True)
class Panel:
    """A level: ``kept`` of ``total`` rows on the ``parts`` of the picture, the largest first. ``breaks`` of the kept ones are line breaks."""

    level: str
    kept: int
    total: int
    breaks: int
    parts: tuple[Part, ...]


def panels(bundle: Bundle, pixels: np.ndarray, levels: Sequence[str] = (), *, kernels: bool = True) -> list[Panel]:
    """What ``levels`` (none = all of the bundle) keep of ``pixels`` uint8 [H,W,3]. Raises RequestError, BundleError."""
    spec = levels_of(bundle)
    chosen = [str(spec.level(level)["id"]) for level in (levels or spec.levels)]
    if len(set(chosen)) != len(chosen):
        raise RequestError(found_wanted("levels", chosen, "different ones", "name each once"))
    encoder = kernels_encoder(bundle, spec, kernels=kernels)
    prepared, features = encoder.features(pixels)
    total = encoder.rows_of(prepared, features, FULL).total
    grid = int(spec.entry["grid"])
    made = []
    for level in chosen:
        rows = encoder.rows_of(prepared, features, level)
        kept = rows.kept
        if spec.prune_layer is not None:
            stepper = PromptStepper(bundle.manifest, encoder.session, rows.embeds.shape[1] + 512)
            stepper.encoder = encoder  # its features are made already
            stepper.prompt(_prompt(bundle, spec.image_token_id), [pixels], level)
            kept = stepper.kept[0]
        pool = int(spec.level(level).get("pool", 1))
        layout = prepared.layout(grid // pool) if spec.entry["newline"] else None
        shape = rows.grid if rows.grid != (0, 0) else (grid // pool, grid // pool)
        flags = np.zeros(rows.total, bool)
        flags[kept] = True
        breaks = 0 if layout is None else layout.newlines
        made.append(Panel(level, len(kept), total, breaks, _parts(prepared, layout, shape, flags, pool > 1)))
    return made


def _parts(
    prepared: Prepared, layout: AnyRes | None, shape: tuple[int, int], flags: np.ndarray, pooled: bool
) -> tuple[Part, ...]:
    """``flags`` bool [L] of the rows; ``shape``: rows and columns of tokens of a view."""
    views, count = prepared.views, shape[0] * shape[1]
    if layout is None:
        return (Part(views[0], flags.reshape(shape), pooled),)
    thumbnail = Part(views[0], flags[:count].reshape(shape), pooled, "thumbnail")
    high, wide = layout.rows[1] - layout.rows[0], layout.columns[1] - layout.columns[0]
    if high <= 0 or wide <= 0:
        return (thumbnail,)
    # Behind the thumbnail the canvas row by row, each with its line break.
    canvas = flags[count:].reshape(high, wide + 1)[:, :wide]
    return (Part(_stitched(views[1:], layout), canvas, pooled), thumbnail)


def _stitched(tiles: np.ndarray, layout: AnyRes) -> np.ndarray:
    """The tiles [T,s,s,3] side by side, without the letterbox that the layout cuts off."""
    (high, wide), side = layout.tiles, tiles.shape[1]
    whole = tiles.reshape(high, wide, side, side, 3).swapaxes(1, 2).reshape(high * side, wide * side, 3)
    (top, bottom), (left, right) = (
        [round(t * side / layout.grid) for t in ends] for ends in (layout.rows, layout.columns)
    )
    return whole[top:bottom, left:right]


def _prompt(bundle: Bundle, image: int) -> list[int]:
    """Ids of a user who shows an image; without tokenizer or template, the image between two ids.

    What is asked behind the image has no say in the choice: attention is causal.
    """
    tokenizer: Any = tokenizer_of(bundle)
    if tokenizer is not None and tokenizer.has_chat_template:
        ids = tokenizer.encode_messages([user_message("?", 1, "")])
        if list(ids).count(image) == 1 and ids[-1] != image:
            return list(ids)
    text = 0 if image else 1
    return [text, image, text]
