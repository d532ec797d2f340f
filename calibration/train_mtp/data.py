"""Training text as documents of token ids, and random windows of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...errors import RequestError, found_wanted
from ...export.checkpoint import Checkpoint


@dataclass(frozen=True)
class Document:
    """``ids`` int64; no mask is put behind a token before ``start`` - 1 (a user's prompt)."""

    ids: np.ndarray
    start: int


def read_documents(paths: Sequence[str | Path], checkpoint: Checkpoint) -> list[Document]:
    """Documents of text files (one each, UTF-8), and of .jsonl files with {"ids": [...], "prompt": n} or {"text": "..."} a line.

    Raises RequestError for unreadable files, ids outside the vocabulary, and text without a tokenizer.
    """
    tokenizer = _Tokenizer(checkpoint)
    documents = []
    for path in map(Path, paths):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RequestError(
                found_wanted(f"text {path}", f"unreadable ({error.strerror})", "a readable file", "check the path")
            ) from error
        if path.suffix != ".jsonl":
            documents.append(Document(tokenizer.encode(text), 0))
            continue
        for number, line in enumerate(text.splitlines(), 1):
            documents.append(_line(line, f"line {number} of {path}", tokenizer, checkpoint.config.vocab_size))
    documents = [d for d in documents if len(d.ids) - d.start >= 3]
    if not documents:
        raise RequestError(found_wanted("training text", "empty", "documents of 3 tokens or more", "give text files"))
    return documents


def _line(line: str, where: str, tokenizer: _Tokenizer, vocab_size: int) -> Document:
    try:
        entry = json.loads(line)
        ids = np.array(entry["ids"], np.int64) if "ids" in entry else tokenizer.encode(entry["text"])
        start = int(entry.get("prompt", 0))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise RequestError(
            found_wanted(where, f"malformed ({error})", '{"ids": [...], "prompt": n} or {"text": "..."}', "correct it")
        ) from error
    if ids.ndim != 1 or (ids.size and not (ids.min() >= 0 and ids.max() < vocab_size)):
        raise RequestError(
            found_wanted(f"ids of {where}", "outside the vocabulary", f"0 to {vocab_size - 1}", "use this model's ids")
        )
    return Document(ids, max(0, start))


class _Tokenizer:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tokenizer: object | None = None

    def encode(self, text: str) -> np.ndarray:
        if self._tokenizer is None:
            files = self._checkpoint.tokenizer()
            if files is None:
                raise RequestError(
                    found_wanted("tokenizer of the checkpoint", "missing", "one", "give ids in a .jsonl file instead")
                )
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_str(files.json)
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)  # type: ignore[attr-defined]


def split(documents: list[Document], share: float, seed: int) -> tuple[list[Document], list[Document]]:
    """(training, held out): whole documents, held out by lot; both the training set if there is but one document."""
    count = min(len(documents) - 1, max(1, round(share * len(documents)))) if share else 0
    order = np.random.default_rng(seed).permutation(len(documents))
    held = [documents[i] for i in order[:count]]
    return [documents[i] for i in order[count:]], held or documents


@dataclass(frozen=True)
class Batch:
    """ids [B,n] int64, padded with zeros; anchors [B,A] int64, the rows behind which masks stand; valid [B,A,k] bool: mask i
    of an anchor has a label inside its document."""

    ids: torch.Tensor
    anchors: torch.Tensor
    valid: torch.Tensor


def draw(
    documents: list[Document], rng: np.random.Generator, batch: int, length: int, density: float, masks: int
) -> Batch:
    """Random windows of ``length`` tokens, documents by their length, and in each about density * length random anchors."""
    sizes = np.array([len(d.ids) - d.start for d in documents], np.float64)
    count = max(1, round(density * length))
    ids = np.zeros((batch, length), np.int64)
    anchors, valid = np.zeros((batch, count), np.int64), np.zeros((batch, count, masks), bool)
    for b, which in enumerate(rng.choice(len(documents), batch, p=sizes / sizes.sum())):
        document = documents[which]
        first = int(rng.integers(0, max(1, len(document.ids) - length + 1)))
        first = max(0, min(first, len(document.ids) - 3))
        window = document.ids[first : first + length]
        ids[b, : len(window)] = window
        # Anchor j is served if its first mask has a label, row j + 2; the prompt's last token is an anchor.
        allowed = np.arange(max(0, document.start - 1 - first), len(window) - 2)
        if not len(allowed):
            continue
        chosen = np.sort(rng.permutation(allowed)[:count])
        anchors[b, : len(chosen)] = chosen
        valid[b, : len(chosen)] = chosen[:, None] + 2 + np.arange(masks) < len(window)
    return Batch(torch.from_numpy(ids), torch.from_numpy(anchors), torch.from_numpy(valid))
