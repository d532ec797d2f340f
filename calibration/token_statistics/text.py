"""Text beside the images: the same shape, as many tokens, and where nobody brings a tokenizer, as many symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from .stream import LEAST_IMAGES, Stream, stream_of


def read_texts(path: str | Path) -> list[str]:
    """The UTF-8 texts of a file, or of all files of a folder by name; others are skipped. Raises RequestError where there is none."""
    root = Path(path)
    if not root.exists():
        raise RequestError(found_wanted(f"--text {path}", "missing", "a text file or a folder of them", "check it"))
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    texts = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip() and "\0" not in text:
            texts.append(text)
    if not texts:
        raise RequestError(found_wanted(f"--text {path}", "without text", "UTF-8 text", "give other files"))
    return texts


def open_tokenizer(path: str | Path) -> Any:
    """Of a tokenizer.json. Raises RequestError."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise RequestError(
            found_wanted(f"--tokenizer {path}", f"not readable ({str(error)[:80]})", "a tokenizer.json", "check it")
        ) from error


def train_tokenizer(texts: list[str], vocab: int) -> Any:
    """Byte-level BPE of ``vocab`` symbols, learnt from ``texts``; bytes that do not occur take none of them.

    Raises RequestError where the text has more different bytes than ``vocab``, or too few words for so many symbols.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=[], special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab:
        found = f"{tokenizer.get_vocab_size()} symbols learnt from it"
        fix = "give more text or --tokenizer"
        raise RequestError(found_wanted("text", found, f"the {vocab} of the codebook", fix))
    return tokenizer


def text_stream(texts: list[str], tokenizer: Any, grid: tuple[int, int], pieces: int | None = None) -> Stream:
    """``texts`` in pieces of the grid's number of tokens, without the rest at a text's end; pieces of one text are one unit.

    ``pieces``: at most so many, whole texts drawn in a fixed random order until there are enough. Raises RequestError for fewer than LEAST_IMAGES.
    """
    size = grid[0] * grid[1]
    order = np.random.default_rng(0).permutation(len(texts))
    cut: list[np.ndarray] = []
    units: list[int] = []
    for number in order:
        if pieces is not None and len(cut) >= pieces:
            break
        ids = np.array(tokenizer.encode(texts[number], add_special_tokens=False).ids, np.int64)
        whole = ids[: len(ids) // size * size].reshape(-1, *grid)
        cut.extend(whole)
        units.extend([int(number)] * len(whole))
    if len(cut) < LEAST_IMAGES:
        found, fix = f"{len(cut)} pieces of {size} tokens", "give more text"
        raise RequestError(found_wanted("--text", found, f"at least {LEAST_IMAGES}", fix))
    kept = slice(None, pieces)
    found_units = np.array(units[kept])
    # One long text is no independent pieces, but there is nothing else to draw from.
    return stream_of(
        np.array(cut[kept]),
        tokenizer.get_vocab_size(),
        units=None if len(np.unique(found_units)) < 20 else found_units,
        what="text tokens",
    )


def beside(
    images: Stream, path: str | Path, tokenizer: str | Path | None = None, seed: int = 0
) -> tuple[Stream, Stream]:
    """(images, text) with as many tokens of both: where the text is short, fewer images are drawn. Figures that depend on the length are never compared
    between streams of different length.

    ``tokenizer``: a tokenizer.json, None = one is learnt with as many symbols as the codebook has. Raises RequestError.
    """
    texts = read_texts(path)
    known = train_tokenizer(texts, images.vocab) if tokenizer is None else open_tokenizer(tokenizer)
    grid = (int(images.codes.shape[1]), int(images.codes.shape[2]))
    words = text_stream(texts, known, grid, images.images)
    return (images if words.images == images.images else images.drawn(words.images, seed)), words
