"""Heads that help to train the tower of the small vision-language model: what lies in each patch, and what CLS knows of the picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from vlm_scenes import COLOURS, GROUNDS, KINDS, PATCH, SIDE, STYLES, Scene, mask

PATCHES = (len(KINDS) + 1, len(COLOURS) + 1, 11, len(STYLES) + 1, len(COLOURS) + 1, SIDE // PATCH, SIDE // PATCH)
"""Classes of a patch: kind and colour of the shape, digit, its style, colour of the dot; 0 is none. And its row and column in the view."""
PICTURE = (*[len(COLOURS) + 1] * len(KINDS), 3, len(GROUNDS), 11, 11, 11, len(COLOURS) + 1, 4, 4, 4, 4)
"""Classes of a picture: colour of each kind of shape, number, ground, the digits, the dot, the quadrants of those."""
UNKNOWN = -100

WORDS = ("", *KINDS, *COLOURS, *map(str, range(10)), *STYLES, *GROUNDS, "dot", "left", "right")
"""Names of what may lie in a patch."""

Labels = NDArray[np.int64]


def patch_labels(scene: Scene) -> Labels:
    """[cells,cells,7] of a scene; a shape counts where it covers a quarter of the patch."""
    cells = scene.side // PATCH
    found = np.zeros((cells, cells, len(PATCHES)), np.int64)
    found[..., 5:] = np.moveaxis(np.mgrid[:cells, :cells], 0, -1) % (SIDE // PATCH)
    for shape in scene.shapes:
        covered = mask(shape, scene.side).reshape(cells, PATCH, cells, PATCH).mean((1, 3)) >= 0.25
        found[covered, 0], found[covered, 1] = shape.kind + 1, shape.colour + 1
    for item in scene.items:
        if item.digit < 0:
            found[item.row, item.column, 4] = item.style + 1
        else:
            found[item.row, item.column, 2:4] = item.digit + 1, item.style + 1
    return found


def picture_labels(scene: Scene) -> Labels:
    """[T,15]: of the whole picture, and of each crop of a large one, where shapes and quadrants are unknown."""
    whole = np.zeros(len(PICTURE), np.int64)
    for shape in scene.shapes:
        whole[shape.kind] = shape.colour + 1
    whole[4], whole[5] = len(scene.shapes) - 1, scene.ground
    for n, item in enumerate(scene.items):
        whole[6 + n] = item.digit + 1 if item.digit >= 0 else item.style + 1
        whole[10 + n] = scene.quadrant(item)
    if scene.side == SIDE:
        return whole[None]
    crops = np.tile(whole, (4, 1))
    crops[:, :5], crops[:, 10:] = UNKNOWN, UNKNOWN
    for n, item in enumerate(scene.items):
        crops[np.arange(4) != scene.quadrant(item), 6 + n] = 0
    whole[6:9] = UNKNOWN  # too small to read in the thumbnail
    return np.concatenate([whole[None], crops])


def patch_words(scene: Scene) -> Labels:
    """[T,144,3]: places in `WORDS` of what lies in each patch: kind, colour and (small scenes) side, style and digit, or dot and its colour; else ground
    and 0, for nothing. -1 in the thumbnail of a large scene."""
    cells, own = SIDE // PATCH, patch_labels(scene)
    found = np.zeros((*own.shape[:2], 3), np.int64)
    found[..., 0] = WORDS.index(GROUNDS[scene.ground])
    offsets = [WORDS.index(w) - 1 for w in (KINDS[0], COLOURS[0], "0", STYLES[0], COLOURS[0])]
    kind, colour, digit, style, dot = (np.where(own[..., n] > 0, own[..., n] + offsets[n], 0) for n in range(5))
    for first, second in ((kind, colour), (style, digit), (np.where(dot > 0, WORDS.index("dot"), 0), dot)):
        there = first > 0
        found[there, 0], found[there, 1] = first[there], second[there]
    if scene.side == SIDE:
        left = np.arange(cells)[None] < cells // 2
        found[..., 2] = np.where(kind > 0, np.where(left, WORDS.index("left"), WORDS.index("right")), 0)
        return found.reshape(1, cells * cells, 3)
    crops = found.reshape(2, cells, 2, cells, 3).swapaxes(1, 2).reshape(4, cells * cells, 3)
    return np.concatenate([np.full_like(crops[:1], -1), crops])


def pixel_labels(scene: Scene) -> NDArray[np.float32]:
    """[T,144,16]: which of the 4x4 parts of each patch are more than half covered by a shape; of the thumbnail too."""
    covered = np.zeros((scene.side, scene.side), bool)
    for shape in scene.shapes:
        covered |= mask(shape, scene.side)

    def parts(area: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
        cells, part = area.shape[0] // size, size // 4
        fine = area.reshape(cells, 4, part, cells, 4, part).mean((2, 5)) > 0.5
        return fine.swapaxes(1, 2).reshape(1, cells * cells, 16).astype(np.float32)

    if scene.side == SIDE:
        return parts(covered, PATCH)
    crops = covered.reshape(2, SIDE, 2, SIDE).swapaxes(1, 2).reshape(4, SIDE, SIDE)
    return np.concatenate([parts(covered, 2 * PATCH), *(parts(c, PATCH) for c in crops)])


class Heads(nn.Module):
    """Linear readers of patches and of CLS, and of the outlines of the shapes from the first layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch, self.picture = nn.Linear(width, sum(PATCHES)), nn.Linear(width, sum(PICTURE))
        self.outline = nn.Linear(width, 16)

    def loss(
        self, features: torch.Tensor, pooled: torch.Tensor, early: torch.Tensor, scenes: list[Scene]
    ) -> torch.Tensor:
        """What `vlm_model.see` gives of the views of ``scenes``."""
        cells = SIDE // PATCH
        labels = []
        for scene in scenes:
            own = patch_labels(scene)
            if scene.side == SIDE:
                labels.append(own[None])
            else:
                crops = own.reshape(2, cells, 2, cells, -1).swapaxes(1, 2).reshape(4, cells, cells, -1)
                labels.append(np.concatenate([np.full_like(crops[:1], UNKNOWN), crops]))
        what = torch.from_numpy(np.concatenate(labels)).flatten(0, 2)
        # Most patches are empty; those that are not count ten times.
        weight = torch.where((what[:, :5] > 0).any(-1), 10.0, 1.0) * (what[:, 0] != UNKNOWN)
        outlines = torch.from_numpy(np.concatenate([pixel_labels(s) for s in scenes]))
        total = 2 * F.binary_cross_entropy_with_logits(self.outline(early).float(), outlines)
        for n, part in enumerate(self.patch(features).flatten(0, 1).split(PATCHES, -1)):
            losses = F.cross_entropy(part.float(), what[:, n], ignore_index=UNKNOWN, reduction="none")
            total = total + (losses * weight).sum() / weight.sum()
        held = torch.from_numpy(np.concatenate([picture_labels(s) for s in scenes]))
        for n, part in enumerate(self.picture(pooled).split(PICTURE, -1)):
            if (held[:, n] != UNKNOWN).any():
                total = total + F.cross_entropy(part.float(), held[:, n], ignore_index=UNKNOWN) / 4
        return total
