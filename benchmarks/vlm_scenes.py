"""Made scenes for vision-language experiments: shapes and small digits on a tiled ground, with questions of one-word answers.

    scene = make_scene(np.random.default_rng(1))               # 96x96
    scene = make_scene(np.random.default_rng(1), large=True)    # 192x192: the same objects twice as large, digits as small as before
    scene.image, questions(scene, np.random.default_rng(2))

A ground of one tile repeated makes most 8x8 patches copies of each other. One to three shapes are coarse detail. Three digits
and a dot, each within one patch, are fine detail. In the large form ``quadrants`` says into how many of the four crops
the fine detail is put; the thumbnail is too coarse to read it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

PATCH, SIDE = 8, 96
"""Pixels along a patch and along a view."""

KINDS = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
RGB = ((225, 40, 40), (40, 190, 60), (50, 80, 235), (240, 225, 40), (165, 50, 200), (250, 140, 20))
GROUNDS = ("gray", "brown", "teal", "pink")
GROUND_RGB = ((120, 120, 120), (125, 90, 60), (60, 120, 120), (205, 150, 165))
STYLES = ("white", "black", "gold")
INK = ((255, 255, 255), (0, 0, 0), (255, 205, 60))
PLATE = ((15, 15, 15), (250, 250, 250), (25, 25, 110))
NUMBERS = ("one", "two", "three")
COARSE = ("count", "ground", "exists", "colour", "side")
FINE = ("digit", "dot")

GLYPHS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
"""5x7 pixels of each digit, row by row."""

FONT = np.array([[[c == "1" for c in row] for row in glyph.split()] for glyph in GLYPHS])

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    kind: int
    colour: int
    x: float
    y: float
    radius: float
    """Pixels: centre and half of the width."""


@dataclass(frozen=True)
class Item:
    """Fine detail within one patch: a digit on a plate, or a dot."""

    row: int
    column: int
    digit: int
    """0 to 9; -1: a dot."""
    style: int
    """Index in STYLES, or in COLOURS for the dot."""


@dataclass(frozen=True)
class Scene:
    image: Image
    ground: int
    shapes: tuple[Shape, ...]
    items: tuple[Item, ...]
    """Three digits, one of each style, and a dot."""
    quadrants: int
    """How many of the four quadrants hold the items: 1, 2 or 4 (anywhere)."""

    @property
    def side(self) -> int:
        return self.image.shape[0]

    def quadrant(self, item: Item) -> int:
        """0 to 3, row by row."""
        half = self.side // PATCH // 2
        return 2 * (item.row >= half) + (item.column >= half)


@dataclass(frozen=True)
class Question:
    kind: str
    """One of COARSE or FINE."""
    text: str
    answer: str


def make_scene(draw: np.random.Generator, *, large: bool = False, quadrants: int | None = None) -> Scene:
    """A scene. ``quadrants``: see `Scene`; None draws 1, 2 or 4 if large. Small scenes have items anywhere."""
    scale = 2 if large else 1
    side, cells = SIDE * scale, SIDE * scale // PATCH
    if quadrants is None:
        quadrants = int(draw.choice((1, 2, 4))) if large else 4
    ground = int(draw.integers(len(GROUNDS)))
    while True:
        shapes = _place_shapes(draw, side, scale)
        items = _place_items(draw, shapes, cells, quadrants)
        if items:
            break
    image = _ground(draw, ground, side, scale)
    for shape in shapes:
        image[mask(shape, side)] = 20.0
        inner = replace(shape, radius=shape.radius - 2 * scale)
        image[mask(inner, side)] = np.array(RGB[shape.colour]) + draw.integers(-12, 13, 3)
    image += draw.normal(0, 3, image.shape)
    for item in items:
        _stamp(draw, image, item)
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), ground, shapes, items, quadrants)


def _ground(draw: np.random.Generator, ground: int, side: int, scale: int) -> NDArray[np.float64]:
    """[side,side,3]: a tile of one patch (of two in the large form) repeated, and strokes of clutter."""
    y, x = np.mgrid[:PATCH, :PATCH]
    pattern = ((x // 4 + y // 4) % 2, x // 4 % 2, y // 4 % 2, (x + y) // 4 % 2, (x % 4 == 1) & (y % 4 == 1))
    tile = np.array(pattern[draw.integers(len(pattern))]) * draw.uniform(8, 20)
    tile = tile.repeat(scale, 0).repeat(scale, 1)
    repeats = side // len(tile)
    base = np.array(GROUND_RGB[ground]) + draw.integers(-10, 11, 3)
    image = base + np.tile(tile, (repeats, repeats))[..., None] - 7.0
    for _ in range(draw.integers(3, 9)):
        top, left = draw.integers(0, side - 6 * scale, 2)
        high, wide = ((6, 2), (2, 6))[draw.integers(2)]
        image[top : top + high * scale, left : left + wide * scale] += draw.choice((-35, 35))
    return image


def _place_shapes(draw: np.random.Generator, side: int, scale: int) -> tuple[Shape, ...]:
    """One to three shapes of different kinds that do not touch, each within 3x3 patches, none in the middle from left to right."""
    kinds, found, tries = draw.permutation(len(KINDS))[: draw.integers(1, 4)], [], 0
    while len(found) < len(kinds):
        tries += 1
        if tries % 100 == 0:  # the first ones may leave no room
            found = []
        radius = draw.uniform(10.5, 12) * scale
        x, y = (draw.integers(0, SIDE // PATCH - 2, 2) + 1.5) * PATCH * scale
        apart = all(max(abs(x - o.x), abs(y - o.y)) > radius + o.radius + 2 for o in found)
        if apart and abs(x - side / 2) > 5 * scale:
            found.append(Shape(int(kinds[len(found)]), int(draw.integers(len(COLOURS))), x, y, radius))
    return tuple(found)


def _place_items(draw: np.random.Generator, shapes: tuple[Shape, ...], cells: int, quadrants: int) -> tuple[Item, ...]:
    """Three digits and a dot in free cells of ``quadrants`` quadrants; empty if there is no room."""
    row, column = np.mgrid[:cells, :cells]
    half = cells // 2
    allowed = draw.permutation(4)[:quadrants]
    free = np.isin(2 * (row >= half) + (column >= half), allowed)
    for s in shapes:
        near_x = np.abs((column + 0.5) * PATCH - s.x) < s.radius + PATCH / 2
        near_y = np.abs((row + 0.5) * PATCH - s.y) < s.radius + PATCH / 2
        free &= ~(near_x & near_y)
    places = np.argwhere(free)
    if len(places) < 4:
        return ()
    chosen = places[draw.permutation(len(places))[:4]].tolist()
    digits = [Item(r, c, int(draw.integers(10)), style) for style, (r, c) in enumerate(chosen[:3])]
    return (*digits, Item(*chosen[3], -1, int(draw.integers(len(COLOURS)))))


def mask(shape: Shape, side: int) -> NDArray[np.bool_]:
    """[side,side]: the pixels of a shape."""
    y, x = np.mgrid[:side, :side] + 0.5
    dx, dy, r = np.abs(x - shape.x), np.abs(y - shape.y), shape.radius
    box = (dx <= r) & (dy <= r)
    if shape.kind == 0:
        return dx**2 + dy**2 <= r**2
    if shape.kind == 1:
        return box
    if shape.kind == 2:
        return box & (dx <= (y - (shape.y - r)) / 2)
    return box & ((dx <= r * 0.4) | (dy <= r * 0.4))


def _stamp(draw: np.random.Generator, image: NDArray[np.float64], item: Item) -> None:
    cell = image[item.row * PATCH : (item.row + 1) * PATCH, item.column * PATCH : (item.column + 1) * PATCH]
    if item.digit < 0:
        y, x = np.mgrid[:PATCH, :PATCH] - (PATCH - 1) / 2
        far = np.hypot(x, y)
        cell[far <= 4.2] = 0
        cell[far <= 3.0] = RGB[item.style]
        return
    cell[:] = PLATE[item.style]
    top, left = draw.integers(0, 2), draw.integers(1, 3)
    cell[top : top + 7, left : left + 5][FONT[item.digit]] = INK[item.style]


def questions(scene: Scene, draw: np.random.Generator) -> list[Question]:
    """8 to 12 questions, in a drawn order: one or two of each coarse kind, three digits, one dot."""
    present = [s.kind for s in scene.shapes]
    absent = [k for k in range(len(KINDS)) if k not in present]
    found = [
        Question("count", "how many shapes?", NUMBERS[len(present) - 1]),
        Question("ground", "what colour is the ground?", GROUNDS[scene.ground]),
        Question("exists", f"is there a {KINDS[draw.choice(present)]}?", "yes"),
        Question("exists", f"is there a {KINDS[draw.choice(absent)]}?", "no"),
    ]
    for n in draw.permutation(len(present))[:2]:
        shape = scene.shapes[n]
        found.append(Question("colour", f"what colour is the {KINDS[shape.kind]}?", COLOURS[shape.colour]))
        side = "left" if shape.x < scene.side / 2 else "right"
        found.append(Question("side", f"which side is the {KINDS[shape.kind]}?", side))
    for item in scene.items:
        if item.digit < 0:
            found.append(Question("dot", "what colour is the dot?", COLOURS[item.style]))
        else:
            found.append(Question("digit", f"which digit is {STYLES[item.style]}?", str(item.digit)))
    return [found[n] for n in draw.permutation(len(found))]


def prompt(text: str) -> str:
    """The prompt of a question, as the chat template of the model writes it."""
    return f"USER: <image>\n{text} ASSISTANT:"


def corpus() -> list[str]:
    """Every prompt with every answer word, for the tokenizer."""
    words = [*COLOURS, *GROUNDS, *NUMBERS, "yes", "no", "left", "right", *map(str, range(10))]
    asked = ["how many shapes?", "what colour is the ground?", "what colour is the dot?"]
    for kind in KINDS:
        asked += [f"is there a {kind}?", f"what colour is the {kind}?", f"which side is the {kind}?"]
    asked += [f"which digit is {style}?" for style in STYLES]
    return [f"{prompt(q)} {w}" for q in asked for w in words]


def views(image: Image) -> Image:
    """The views of LLaVA-NeXT: [1,96,96,3] of a small scene, [5,96,96,3] of a large one (thumbnail by bicubic, four crops)."""
    if image.shape[0] == SIDE:
        return image[None]
    from PIL import Image as Pictures

    small = np.asarray(Pictures.fromarray(image).resize((SIDE, SIDE), Pictures.Resampling.BICUBIC))
    crops = image.reshape(2, SIDE, 2, SIDE, 3).swapaxes(1, 2).reshape(4, SIDE, SIDE, 3)
    return np.concatenate([small[None], crops])
