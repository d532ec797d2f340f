"""Prompts with images: which images, where they stand, and messages as chat templates of vision-language models want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import RequestError, found_wanted
from .images import as_rgb
from .spans import AskedImage
from .spec import VisionSpec

_SOURCES = ("image", "path")
"""Fields of a message's image part that hold it."""


def asked_images(
    spec: VisionSpec | None, images: Sequence[Any] | None, level: str | None, where: str
) -> list[AskedImage]:
    """``images`` opened and checked. Raises RequestError, also for a bundle without eyes (``where`` names it)."""
    if images is None:
        images = []
    if isinstance(images, (str, bytes, Mapping)) or not isinstance(images, Sequence):
        raise RequestError(
            found_wanted("images", f"a {type(images).__name__}", "a list of images", "put the one image into a list")
        )
    if spec is None:
        if len(images) or level is not None:
            what = "images" if len(images) else "level"
            raise RequestError(
                found_wanted(what, f"given to {where}, which reads text only", "none", "export a vision-language model")
            )
        return []
    chosen = str(spec.level(level)["id"])
    return [AskedImage(as_rgb(image, f"image {i + 1}"), chosen) for i, image in enumerate(images)]


def user_message(prompt: str, images: int, marker: str) -> dict[str, Any]:
    """The message of a user who shows ``images`` images and asks ``prompt``. Images come first unless the prompt has ``marker`` in it."""
    if marker and marker in prompt:
        return {"role": "user", "content": split_markers(prompt, marker)}
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": prompt}]}


BRACKETS = ("<|vision_start|>", "<|vision_end|>")
"""What Qwen's template writes around an image; where a prompt has them already they would stand twice."""


def split_markers(text: str, marker: str) -> list[dict[str, str]]:
    """Parts of a message: the text between markers, and an image for each of them. BRACKETS around a marker are the template's affair."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(text.replace(BRACKETS[0] + marker + BRACKETS[1], marker).split(marker)):
        if i:
            parts.append({"type": "image"})
        if piece.strip():
            parts.append({"type": "text", "text": piece.removeprefix("\n") if i else piece})
    return parts


def visual_messages(
    messages: Sequence[Mapping[str, Any]], images: Sequence[Any] | None
) -> tuple[list[dict[str, Any]], list[Any]]:
    """(messages whose contents are lists of parts, all images in order).

    A part {"type": "image"} may hold its image as ``image`` or ``path``; those that do not take the next of ``images``.
    Raises RequestError where images are left over, missing, or only a ``url``.
    """
    waiting, found, told = list(images or []), [], []
    for message in messages:
        if not isinstance(message, Mapping) or isinstance(message.get("content"), str) or "content" not in message:
            text = message.get("content") if isinstance(message, Mapping) else None
            told.append({**message, "content": [{"type": "text", "text": text}]} if isinstance(text, str) else message)
            continue
        parts = []
        for part in message["content"]:
            if not isinstance(part, Mapping) or part.get("type") != "image":
                parts.append(part)
                continue
            held = [part[name] for name in _SOURCES if name in part]
            if not held and "url" in part:
                raise RequestError(
                    found_wanted(
                        "image of a message", f"a url ({str(part['url'])[:60]})", "a path or an image", "fetch it"
                    )
                )
            if not held and not waiting:
                raise RequestError(
                    found_wanted(
                        "images",
                        len(list(images or [])),
                        "one for every image part of the messages",
                        "give more images",
                    )
                )
            found.append(held[0] if held else waiting.pop(0))
            parts.append({"type": "image"})
        told.append({**message, "content": parts})
    if waiting:
        raise RequestError(
            found_wanted(
                "images",
                f"{len(waiting)} more than image parts",
                "one for each part",
                'add {"type": "image"} to a message',
            )
        )
    return told, found  # type: ignore[return-value]
