"""Counting the tri-grams of a corpus: p(c | a, b) = count(a, b, c) / count(a, b), the 12 likeliest of each pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, RequestError, found_wanted
from ...runtime.bundle import open_bundle
from .file import MOST, RECORD, Table, write

Progress = Callable[[str, int, int], None]
PIECE = 1 << 20
"""Characters that are tokenised at once: bounds memory, and a cut loses no more than a few tri-grams a million."""
HELD = 1 << 22
"""Tri-grams that are held before they are counted: 32 MB, and as much again for sorting."""
_VOCABULARY = 1 << 21
"""Largest vocabulary of which three ids fit 63 bits."""


@dataclass(frozen=True)
class BuildResult:
    """What was built: files and tokens read, pairs and tri-grams kept, bytes of the table."""

    path: str
    files: int
    tokens: int
    pairs: int
    trigrams: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def build(
    corpus: str | Path, bundle: str | Path, out: str | Path, *, min_count: int = 2, progress: Progress | None = None
) -> BuildResult:
    """Count the tri-grams of ``corpus``, a file or folder of UTF-8 text, and write the table of ``bundle``'s tokenizer to ``out``.

    Tri-grams seen fewer than ``min_count`` times are left out (their count stays in the denominator: what is left out is likely none
    of those kept). No tri-gram crosses the end of a file. Files that are not UTF-8 are skipped. Raises RequestError, BundleError.
    """
    if min_count < 1:
        raise RequestError(found_wanted("--min-count", min_count, "at least 1", "2 leaves out what occurred once"))
    opened = open_bundle(bundle)
    entry = opened.manifest["tokenizer"]
    if entry is None:
        raise RequestError(
            found_wanted(f"tokenizer of {bundle}", "missing", "one", "draft tables are for bundles of text")
        )
    vocab_size = opened.manifest["model"]["vocab_size"]
    tokenizer = _tokenizer(opened.text(entry["file"]))
    paths = _files(Path(corpus))
    counted = _Counter(vocab_size)
    read = 0
    for number, path in enumerate(paths):
        text = _text(path)
        if text is not None:
            read += 1
            for start in range(0, len(text), PIECE):
                ids = tokenizer.encode(text[start : start + PIECE], add_special_tokens=False).ids
                counted.add(np.array(ids, np.uint64))
        if progress:
            progress("count", number + 1, len(paths))
    table = counted.table(opened.manifest["files"][entry["file"]]["sha256"], min_count)
    if not len(table.keys):
        raise RequestError(
            found_wanted(
                f"corpus {corpus}",
                f"{counted.tokens} tokens in {read} files without a tri-gram seen {min_count} times",
                "text that repeats itself",
                "give more text, or --min-count 1",
            )
        )
    size = write(table, out)
    return BuildResult(str(out), read, table.tokens, len(table.keys), int(table.successors["count"].sum()), size)


class _Counter:
    """Tri-grams as one number ((a V + b) V + c), with their counts, merged whenever HELD new ones have come."""

    def __init__(self, vocab_size: int) -> None:
        if vocab_size > _VOCABULARY:
            raise RequestError(found_wanted("vocabulary", vocab_size, f"at most {_VOCABULARY}", "no table for it"))
        self.tokens, self._vocab = 0, np.uint64(vocab_size)
        self._new: list[np.ndarray] = []
        self._held = 0
        self._grams, self._counts = np.empty(0, np.uint64), np.empty(0, np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Count the tri-grams of ids uint64 [N]."""
        self.tokens += len(ids)
        if len(ids) < 3:
            return
        self._new.append((ids[:-2] * self._vocab + ids[1:-1]) * self._vocab + ids[2:])
        self._held += len(ids) - 2
        if self._held >= HELD:
            self._merge()

    def _merge(self) -> None:
        if not self._new:
            return
        grams, counts = np.unique(np.concatenate(self._new), return_counts=True)
        both, where = np.unique(np.concatenate([self._grams, grams]), return_inverse=True)
        total = np.zeros(len(both), np.int64)
        np.add.at(total, where, np.concatenate([self._counts, counts]))
        self._grams, self._counts, self._new, self._held = both, total, [], 0

    def table(self, tokenizer: str, min_count: int) -> Table:
        """The likeliest MOST successors of every pair."""
        self._merge()
        pairs, third = self._grams // self._vocab, self._grams % self._vocab
        _, where = np.unique(pairs, return_inverse=True)
        share = (self._counts / np.bincount(where, self._counts, minlength=1)[where]).astype(np.float32)
        keep = self._counts >= min_count
        pairs, third, share = pairs[keep], third[keep], share[keep]
        order = np.lexsort((third, -share, pairs))
        pairs, third, share = pairs[order], third[order], share[order]
        unique, start, count = np.unique(pairs, return_index=True, return_counts=True)
        row = np.repeat(np.arange(len(unique)), count)
        column = np.arange(len(pairs)) - start[row]
        kept = column < MOST
        successors = np.zeros(len(unique), RECORD)
        successors["ids"][row[kept], column[kept]] = third[kept]
        successors["scores"][row[kept], column[kept]] = share[kept]
        successors["count"] = np.minimum(count, MOST)
        keys = (unique // self._vocab) << np.uint64(32) | unique % self._vocab
        return Table(int(self._vocab), tokenizer, self.tokens, min_count, keys, successors)


def _tokenizer(text: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package tokenizers", "not installed", "installed to count", "pip install tokenizers")
        ) from error
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    return tokenizer


def _files(corpus: Path) -> list[Path]:
    if corpus.is_file():
        return [corpus]
    found = sorted(_plain(corpus.rglob("*"))) if corpus.is_dir() else []
    if not found:
        raise RequestError(
            found_wanted(f"corpus {corpus}", "no file and no folder with files", "text", "check the path")
        )
    return found


def _plain(paths: Iterable[Path]) -> Iterator[Path]:
    return (p for p in paths if p.is_file() and not p.name.startswith("."))


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise RequestError(found_wanted(str(path), "unreadable", "a readable file", "check it")) from error
