"""Texts and pictures as inputs of a network that is run once per input: read one at a time, seeded, hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, RequestError, found_wanted
from ..runtime.bundle import Bundle
from ..runtime.network_tensors import ATTENTION_MASK, NETWORK
from ..runtime.tensors import INPUT_IDS
from .quality import Text, read_text

LENGTH = 64
"""Tokens of a text that are read."""

LEAST = 8
"""Items below which nothing is calibrated or measured: their extremes say nothing of the next one's."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

VIEWS = 8
"""Ways in which a picture is seen: whole, mirrored, five crops, darker."""


@dataclass(frozen=True)
class Samples:
    """Items to calibrate or measure on, each a (number of its text or picture, place) of ``items``; iterating makes (number, feeds) one at a
    time. ``name`` and ``sha256`` identify the whole."""

    name: str
    sha256: str
    items: tuple[tuple[int, int], ...]
    feeds: Callable[[int, int], dict[str, np.ndarray]]

    @property
    def count(self) -> int:
        """How many items."""
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        return ((number, self.feeds(number, place)) for number, place in self.items)

    def half(self, which: int) -> Samples:
        """Texts or pictures of even number (0), or those of odd number (1): none is in both, not even another view of it."""
        return replace(self, items=tuple(item for item in self.items if item[0] % 2 == which))


def samples_of(
    bundle: Bundle, *, text: str | Path | None = None, images: str | Path | None = None, limit: int = 128
) -> Samples:
    """What ``bundle`` is fed with: sentences of file ``text`` (default: of Python's own library) for one that reads ids, views of the
    pictures in folder ``images`` for one that sees. At most ``limit`` items. Raises RequestError, MissingDependencyError."""
    names = [i["name"] for i in bundle.manifest["graphs"][NETWORK]["inputs"]]
    if "image" in bundle.manifest["model"]:
        if text is not None:
            raise RequestError(found_wanted("a text", "given", "pictures for a vision model", "give --images"))
        if images is None:
            raise RequestError(found_wanted("--images", "missing", "a folder of pictures", "give some of your own"))
        return _pictures(bundle, Path(images), limit)
    if INPUT_IDS not in names or bundle.manifest["tokenizer"] is None:
        raise RequestError(
            found_wanted(
                f"inputs of {bundle.path}",
                f"{names}, {'with' if bundle.manifest['tokenizer'] else 'without'} a tokenizer",
                "input_ids and a tokenizer, or one image",
                "import it from a folder with tokenizer.json",
            )
        )
    if images is not None:
        raise RequestError(found_wanted("--images", "given", "a text for an encoder", "leave it out"))
    return _sentences(bundle, read_text(text), limit)


def sentences(text: Text) -> list[str]:
    """Lines or sentences of 4 words and more, each once, in their order."""
    parts = (" ".join(p.split()) for p in re.split(r"(?<=[.!?])\s+|\n\s*\n|\n(?=[-*#>])", text.text))
    return list(dict.fromkeys(p for p in parts if len(p.split()) >= 4))


def _sentences(bundle: Bundle, text: Text, limit: int) -> Samples:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package tokenizers", "not installed", "installed to read text", "pip install tokenizers")
        ) from error
    items = sentences(text)
    _enough(f"text {text.name}", len(items), "different sentences of 4 words and more")
    # Spread over the whole text, whatever its length.
    items = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).astype(int))]
    tokenizer = Tokenizer.from_str(bundle.text(bundle.manifest["tokenizer"]["file"]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(LENGTH, bundle.manifest["model"].get("max_positions", LENGTH)))
    inputs = bundle.manifest["graphs"][NETWORK]["inputs"]

    def feeds(number: int, _: int) -> dict[str, np.ndarray]:
        ids = np.array([tokenizer.encode(items[number]).ids])
        known = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
        return {i["name"]: known.get(i["name"], np.zeros_like(ids)).astype(i["dtype"]) for i in inputs}

    return Samples(text.name, text.sha256, tuple((n, 0) for n in range(len(items))), feeds)


def _pictures(bundle: Bundle, folder: Path, limit: int) -> Samples:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package pillow", "not installed", "installed to read pictures", "pip install pillow")
        ) from error
    if not folder.is_dir():
        raise RequestError(found_wanted(f"--images {folder}", "no folder", "a folder of pictures", "check the path"))
    known: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES):
        known.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    _enough(f"--images {folder.name}", len(known) * VIEWS, "views of different pictures")
    if len(known) < 2:
        raise RequestError(found_wanted(f"--images {folder.name}", "one picture", "different ones", "add some"))
    image = bundle.manifest["model"]["image"]
    name = bundle.manifest["graphs"][NETWORK]["inputs"][0]["name"]
    # Every picture once before the first is seen a second way.
    order = [(n, view) for view in range(VIEWS) for n in range(len(known))][:limit]
    paths = list(known.values())

    def feeds(number: int, view: int) -> dict[str, np.ndarray]:
        try:
            with Image.open(paths[number]) as opened:
                picture = opened.convert("RGB")
        except OSError as error:
            raise RequestError(
                found_wanted(f"picture {paths[number].name}", f"not readable ({error})", "a picture", "remove it")
            ) from error
        return {name: seen(picture, view, image)}

    digest = hashlib.sha256("".join(sorted(known)).encode()).hexdigest()
    return Samples(f"{len(known)} pictures", digest, tuple(order), feeds)


def seen(picture: Any, view: int, image: dict[str, Any]) -> np.ndarray:
    """A picture as float32 [1,3,H,W]: 0 whole (shorter side cut to the middle), 1 mirrored, 2 to 6 crops of 7/8, 7 darker."""
    width, height = image["width"], image["height"]
    w, h = picture.size
    side = min(w / width, h / height)
    box_w, box_h = side * width, side * height
    x, y = (w - box_w) / 2, (h - box_h) / 2
    if 2 <= view <= 6:
        dx, dy = ((0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5))[view - 2]
        x, y, box_w, box_h = x + dx * box_w / 8, y + dy * box_h / 8, box_w * 7 / 8, box_h * 7 / 8
    array = np.asarray(picture.resize((width, height), 3, box=(x, y, x + box_w, y + box_h)), np.float32) / 255
    if view == 1:
        array = array[:, ::-1]
    if view == 7:
        array = array * np.float32(0.6)
    array = (array - np.array(image["mean"], np.float32)) / np.array(image["std"], np.float32)
    return np.ascontiguousarray(array.transpose(2, 0, 1)[None])


def _enough(what: str, found: int, kind: str) -> None:
    if found < LEAST:
        raise RequestError(found_wanted(what, f"{found} {kind}", f"at least {LEAST}", "give more"))
