"""What may be asked of a bundle that draws; everything is checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from .. import image_tensors as names
from .chooser import Warp
from .guidance import SCHEDULES, Guidance
from .uniforms import WORD

Progress = Callable[[int, int], None]
"""(codes done, codes of all images); called after every pass."""

PLAIN = "plain"

MOST_IMAGES = 1 << 16

MASSES = ("grouped", "partition")
"""Modes that compare masses of two distributions: greedy decoding has none to compare."""


@dataclass(frozen=True)
class Abilities:
    """What a bundle can do, read from its manifest."""

    codes: int
    classes: int
    grid: int
    unconditional: bool
    """Whether it has rows without a condition, which guidance needs."""
    text_width: int
    """Features of a text row; 0 = conditioned by classes."""
    condition_rows: int
    """Positions before code 0."""
    drafts: str
    """none, jacobi or eagle."""
    accept: tuple[str, ...]
    default: str
    draft_length: int
    """Drafts a round where a request does not say."""
    certain: tuple[str, ...]
    """Modes whose guesses are the drafter's best code; with the others they are drawn."""

    @property
    def modes(self) -> tuple[str, ...]:
        """Values of ``decode``."""
        return (PLAIN, *self.accept)

    @staticmethod
    def of(manifest: dict[str, Any]) -> Abilities:
        """Of a bundle that was opened, so that its fields agree."""
        image, model = manifest["image_codes"], manifest["model"]
        codes, classes, grid = (int(image[n]) for n in ("codes", "classes", "grid"))
        text = manifest["graphs"].get(names.CONDITION)
        width, unconditional = 0, model["vocab_size"] == codes + classes + 1
        if text is not None:
            width = int(next(i for i in text["inputs"] if i["name"] == names.TEXT_EMBEDS)["shape"][-1])
            unconditional = any(o["name"] == names.UNCOND_EMBEDS for o in text["outputs"])
        drafts = image.get("drafts", "none")
        accept = tuple(image.get("accept", ())) if drafts != "none" else ()
        return Abilities(
            codes,
            classes,
            grid,
            unconditional,
            width,
            int(model["max_positions"]) - grid * grid // int(image.get("window", 1)) ** 2,
            drafts,
            accept,
            image.get("default_accept", accept[0]) if accept else PLAIN,
            int(image.get("draft_length", 5) if drafts == "eagle" else image.get("draft_window", 16)),
            tuple(image.get("certain_drafts", ())),
        )


@dataclass(frozen=True)
class Request:
    """A checked request: one image for each of ``seeds``."""

    seeds: list[int]
    guidance: Guidance
    warp: Warp
    mode: str
    length: int
    """Drafts a round; 0 with plain decoding."""
    prefix: np.ndarray | None
    """int64 [B,n]: codes that are given."""
    progress: Progress

    def part(self, first: int, count: int, tokens: int) -> Request:
        """Of ``count`` images from number ``first`` on, of ``tokens`` codes each; its progress is that of all."""
        whole = len(self.seeds) * tokens
        return replace(
            self,
            seeds=self.seeds[first : first + count],
            prefix=None if self.prefix is None else self.prefix[first : first + count],
            progress=lambda done, _: self.progress(first * tokens + done, whole),
        )

    @property
    def guided(self) -> bool:
        """Whether unconditional rows run."""
        return self.guidance.scale != 1.0


def check_numbers(seed: int, guidance: Guidance, warp: Warp) -> None:
    """Raises RequestError for a number out of its range."""
    _check(
        ("seed", seed, 0 <= seed < WORD, "0 to 2^64 - 1"),
        ("guidance scale", guidance.scale, 0 <= guidance.scale <= 100, "0 to 100"),
        ("guidance interval", guidance.interval, guidance.interval >= -1, "-1 (all codes) or more"),
        ("guidance schedule", guidance.schedule, guidance.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
        ("temperature", warp.temperature, 0 <= warp.temperature <= 100, "0 to 100"),
        ("top_k", warp.top_k, warp.top_k >= 0, "0 (off) or more"),
        ("top_p", warp.top_p, 0 < warp.top_p <= 1, "above 0, at most 1"),
    )


def checked_classes(can: Abilities, classes: Sequence[int] | None) -> np.ndarray:
    """``classes`` int64 [B]. Raises RequestError."""
    if can.text_width:
        raise RequestError(found_wanted("condition", "none", "text_embeds", "the model draws what a text says"))
    classes = [] if classes is None else classes
    bad = next((c for c in classes if not 0 <= c < can.classes), None)
    _check(
        ("number of images", len(classes), 1 <= len(classes) <= MOST_IMAGES, f"1 to {MOST_IMAGES}"),
        ("class", bad, bad is None, f"0 to {can.classes - 1}"),
    )
    return np.array(classes, np.int64)


def checked_text(can: Abilities, classes: Sequence[int] | None, embeds: np.ndarray) -> np.ndarray:
    """Text features float32 [B,T,dc] of ``embeds`` [T,dc] or [B,T,dc]. Raises RequestError."""
    what, fix = "text_embeds", "give features of the text encoder that the model was trained with, without padding"
    if not can.text_width:
        raise RequestError(found_wanted(what, "given", "none: the model draws classes", "give classes"))
    if classes:
        raise RequestError(found_wanted("classes", "given beside text_embeds", "one of the two", "leave classes out"))
    embeds = np.asarray(embeds)
    shape = f"[T,{can.text_width}] or [B,T,{can.text_width}] with T of 1 to {can.condition_rows}"
    if embeds.dtype.kind != "f" or embeds.ndim not in (2, 3):
        raise RequestError(found_wanted(what, f"{embeds.dtype} {list(embeds.shape)}", f"float32 {shape}", fix))
    with np.errstate(over="ignore"):  # what float32 does not hold is refused below
        embeds = (embeds[None] if embeds.ndim == 2 else embeds).astype(np.float32)
    count, rows, width = embeds.shape
    if width != can.text_width or not 1 <= rows <= can.condition_rows or not 1 <= count <= MOST_IMAGES:
        raise RequestError(found_wanted(what, list(embeds.shape), shape, fix))
    if strange := int((~np.isfinite(embeds)).sum()):
        raise RequestError(found_wanted(what, f"{strange} values that are NaN or infinite", "finite numbers", fix))
    return embeds


def checked_mode(can: Abilities, decode: str | None, warp: Warp) -> str:
    """``decode``, or the bundle's default. Raises RequestError."""
    mode = can.default if decode is None else decode
    if mode not in can.modes:
        wanted = f"one of {', '.join(can.modes)}, which the bundle has"
        raise RequestError(found_wanted("decode", repr(mode), wanted, "choose one, or export with drafts"))
    if warp.temperature == 0 and mode in MASSES:
        others = ", ".join(m for m in can.modes if m not in MASSES)
        found = repr(mode) + (", the default of the bundle" if decode is None else "")
        raise RequestError(found_wanted("decode at temperature 0", found, others, "choose one"))
    return mode


def checked_length(can: Abilities, mode: str, window: int | None, length: int | None) -> int:
    """Drafts a round; 0 for plain. Raises RequestError."""
    given = [(n, v) for n, v in (("draft_window", window), ("draft_length", length)) if v is not None]
    name, least = ("draft_length", 1) if can.drafts == "eagle" else ("draft_window", 2)
    most = can.grid * can.grid
    for what, value in given:
        if mode == PLAIN:
            raise RequestError(found_wanted(what, value, "none with plain decoding", "leave it out"))
        if what != name:
            wanted = f"none: the drafts of this bundle ({can.drafts}) have a {name}"
            raise RequestError(found_wanted(what, value, wanted, f"give {name}"))
        if not least <= value <= most:
            raise RequestError(found_wanted(what, value, f"{least} to {most}", "correct it"))
    return 0 if mode == PLAIN else given[0][1] if given else can.draft_length


def _check(*rules: tuple[str, object, bool, str]) -> None:
    for what, found, good, wanted in rules:
        if not good:
            raise RequestError(found_wanted(what, found, wanted, "correct it"))
