"""Pictures with questions: a folder, and a file of JSON lines {"image": "a.png", "question": "...", "answer": "..."}."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError, found_wanted
from ..bundle.read import sha256_of

LONGEST_LINE = 1 << 20
"""Bytes. A question is a few hundred; a line beyond this is some other file."""


@dataclass(frozen=True)
class Item:
    """A question about ``image``, with the answers that count as right; none where it has none. ``line``: its number in the file, from 1."""

    line: int
    image: Path
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """What is measured on. ``found``: different questions in the file, of which ``items`` are all or a drawn part; ``repeated`` were left out.

    ``sha256``: over the bytes of the file, and the names and bytes of the pictures of ``items``.
    """

    name: str
    items: tuple[Item, ...]
    found: int
    repeated: int
    sha256: str

    @property
    def answered(self) -> int:
        """Items that have an answer."""
        return sum(bool(item.answers) for item in self.items)

    @property
    def pictures(self) -> int:
        """Different pictures of the items."""
        return len({item.image for item in self.items})

    def __str__(self) -> str:
        part = (
            f"{len(self.items)} items" if len(self.items) == self.found else f"{len(self.items)} of {self.found} items"
        )
        repeated = f" ({self.repeated} repeated, left out)" if self.repeated else ""
        return f"{self.name}: {part}{repeated}, {self.pictures} pictures, sha256 {self.sha256[:12]}"


def read_data(images: str | Path, questions: str | Path, *, items: int | None = None, seed: int = 0) -> Data:
    """Items of the file ``questions`` about pictures in the folder ``images``; ``items`` None = all, else so many drawn with ``seed``.

    The file is read line by line, and every line is checked, drawn or not. Of lines with the same picture and question the first counts.
    Raises RequestError: no such folder or file, nothing in it, a malformed line (by its number), a picture that is not there.
    """
    folder, file = Path(images), Path(questions)
    if not folder.is_dir():
        raise RequestError(found_wanted(f"--images {folder}", "no folder", "a folder of pictures", "check the path"))
    if items is not None and items < 1:
        raise RequestError(found_wanted("--items", items, "1 or more", "leave it out to take all"))
    draw = random.Random(seed)
    known: set[bytes] = set()
    there: set[str] = set()
    chosen: list[Item] = []
    repeated, digest = 0, hashlib.sha256()
    for number, line in _lines(file):
        digest.update(line)
        if not line.strip():
            continue
        item = _item(line, number, folder, file, there)
        key = hashlib.blake2b(f"{item.image}\0{item.question}".encode("utf-8", "replace"), digest_size=16).digest()
        if key in known:
            repeated += 1
            continue
        known.add(key)
        # Reservoir sampling (Vitter's algorithm R): every item is equally likely to stay, and only those that stay are held.
        if items is None or len(chosen) < items:
            chosen.append(item)
        elif (place := draw.randrange(len(known))) < items:
            chosen[place] = item
    if not chosen:
        found = "empty" if not known else "without a question"
        raise RequestError(
            found_wanted(
                f"--questions {file}",
                found,
                'lines such as {"image": "a.png", "question": "How many?", "answer": "two"}',
                "add some",
            )
        )
    chosen.sort(key=lambda item: item.line)
    for image in dict.fromkeys(item.image for item in chosen):
        digest.update(f"{image.relative_to(folder).as_posix()} {sha256_of(image)}\n".encode("utf-8", "replace"))
    return Data(file.name, tuple(chosen), len(known), repeated, digest.hexdigest())


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each line."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise _malformed(file, number, f"longer than {LONGEST_LINE} bytes")
                yield number, line
    except OSError as error:
        raise RequestError(
            found_wanted(
                f"--questions {file}", f"not readable ({error.strerror})", "a file of JSON lines", "check the path"
            )
        ) from error


def _item(line: bytes, number: int, folder: Path, file: Path, there: set[str]) -> Item:
    """The item of a line. ``there``: names that were looked for and found, added to."""
    try:
        told: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError, too
        raise _malformed(file, number, f"not JSON ({str(error)[:80]})") from error
    if not isinstance(told, dict):
        raise _malformed(file, number, f"a {type(told).__name__}")
    for field in ("image", "question"):
        value = told.get(field)
        if not isinstance(value, str) or not value.strip():
            found = f"without {field!r}" if field not in told else f"with {field} {json.dumps(value)[:60]}"
            raise _malformed(file, number, found)
    answers = told.get("answer", told.get("answers", []))
    answers = [answers] if isinstance(answers, str) else [] if answers is None else answers
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise _malformed(file, number, f"with answer {json.dumps(answers)[:60]}")
    name = told["image"]
    inside = Path(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name:
        raise RequestError(
            found_wanted(
                f"image of line {number} of {file}", repr(name[:80]), f"a path below {folder}", "name it from there"
            )
        )
    if name not in there:
        if not (folder / inside).is_file():
            raise RequestError(
                found_wanted(f"image of line {number} of {file}", f"missing ({folder / inside})", "a picture", "add it")
            )
        there.add(name)
    return Item(number, folder / inside, told["question"], tuple(answers))


def _malformed(file: Path, number: int, found: str) -> RequestError:
    wanted = 'an object with "image" and "question", texts, and perhaps "answer", a text or a list of texts'
    return RequestError(found_wanted(f"line {number} of {file}", found, wanted, "correct it"))
