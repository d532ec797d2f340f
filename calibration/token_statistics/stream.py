"""A stream of codes that was checked: images of codes, or text cut to the same shape."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import RequestError, found_wanted
from ...runtime.code_storage import MAGIC, unpack_codes
from ...runtime.huffman import MOST_SYMBOLS

LEAST_IMAGES = 100
"""Fewer say nothing about a tokenizer: the interval of nearly every figure is then as wide as what methods differ by."""


@dataclass(frozen=True)
class Stream:
    """``codes`` int64 [N,H,W] from 0 to ``vocab`` - 1; rows are read left to right, nothing crosses their ends.

    ``units`` int64 [N] from 0 on: what is drawn together when intervals are made and held out together. An image is a unit; the pieces of one text
    file are one, since they depend on each other.
    """

    codes: np.ndarray
    vocab: int
    units: np.ndarray

    @property
    def images(self) -> int:
        """N."""
        return len(self.codes)

    @property
    def tokens(self) -> int:
        """N * H * W."""
        return int(self.codes.size)

    @property
    def sha256(self) -> str:
        """Of the codes as little-endian int64 in their order, and of their sizes."""
        digest = hashlib.sha256(repr((self.codes.shape, self.vocab)).encode())
        digest.update(self.codes.astype("<i8").tobytes())
        return digest.hexdigest()

    def first(self, images: int) -> Stream:
        """The first ``images`` of it."""
        _, units = np.unique(self.units[:images], return_inverse=True)
        return Stream(self.codes[:images], self.vocab, units)

    def drawn(self, images: int, seed: int) -> Stream:
        """``images`` of it, drawn without replacement, in their order."""
        chosen = np.sort(np.random.default_rng(seed).choice(self.images, images, replace=False))
        _, units = np.unique(self.units[chosen], return_inverse=True)
        return Stream(self.codes[chosen], self.vocab, units)

    def shuffled(self, seed: int) -> Stream:
        """The codes of each image in random places of it: what an image holds stays, its order goes."""
        flat = self.codes.reshape(self.images, -1)
        mixed = np.random.default_rng(seed).permuted(flat, axis=1)
        return Stream(mixed.reshape(self.codes.shape), self.vocab, self.units)


def stream_of(
    codes: np.ndarray,
    vocab: int,
    grid: tuple[int, int] | None = None,
    units: np.ndarray | None = None,
    what: str = "codes",
) -> Stream:
    """A checked stream of ``codes`` int [N,H,W], or [N,H*W] with ``grid`` (H, W); ``units`` int [N], None = every image for itself.

    Raises RequestError: no integers, another shape than ``grid``, ids below 0 or from ``vocab`` on, fewer than LEAST_IMAGES images or units, the same
    image over and over.
    """
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        fix = "write ids, not embeddings or pixels"
        raise RequestError(found_wanted(f"type of {what}", codes.dtype, "integers", fix))
    if not 2 <= vocab <= MOST_SYMBOLS:
        raise RequestError(found_wanted("--codebook", vocab, f"2 to {MOST_SYMBOLS}", "give the tokenizer's size"))
    codes = _shaped(codes, grid, what)
    if len(codes) < LEAST_IMAGES:
        found, fix = f"{len(codes)} images", "give more images; a thousand are better"
        raise RequestError(found_wanted(what, found, f"at least {LEAST_IMAGES}", fix))
    low, high = int(codes.min()), int(codes.max())
    if low < 0:
        fix = "remove padding and other marks first"
        raise RequestError(found_wanted(f"smallest id of {what}", low, "0 or more", fix))
    if high >= vocab:
        fix = "give the size of this tokenizer's codebook, and remove classes, line ends and padding first"
        raise RequestError(found_wanted(f"largest id of {what}", high, f"below --codebook {vocab}", fix))
    codes = np.array(codes, np.int64, order="C")  # no longer mapped
    if not (codes[1:] != codes[:1]).any():
        found = f"one image, {len(codes)} times"
        raise RequestError(found_wanted(what, found, "different images", "check how they were made"))
    if units is None:
        return Stream(codes, vocab, np.arange(len(codes)))
    _, numbered = np.unique(units, return_inverse=True)
    if numbered.shape != (len(codes),):
        raise RequestError(found_wanted("units", f"{list(numbered.shape)}", f"[{len(codes)}]", "one for each image"))
    return Stream(codes, vocab, numbered)


def _shaped(codes: np.ndarray, grid: tuple[int, int] | None, what: str) -> np.ndarray:
    shape = list(codes.shape)
    if codes.ndim == 3 and min(shape) > 0:
        if grid is None or grid == codes.shape[1:]:
            return codes
    elif codes.ndim == 2 and min(shape) > 0:
        if grid is None:
            raise RequestError(found_wanted("--grid", "missing", f"rows and columns of {what} {shape}", "add --grid"))
        if grid[0] * grid[1] == codes.shape[1]:
            return codes.reshape(len(codes), *grid)
    else:
        raise RequestError(found_wanted(f"shape of {what}", shape, "[N,H,W] or [N,H*W]", "reshape them"))
    wanted = f"[N,{grid[0]},{grid[1]}] or [N,{grid[0] * grid[1]}] by --grid"
    raise RequestError(found_wanted(f"shape of {what}", shape, wanted, "correct --grid, or reshape them"))


def read_codes(path: str | Path) -> tuple[np.ndarray, int | None]:
    """(array, vocabulary or None) of a .npy file, which holds none, or of a packed one. No pickles. Raises RequestError."""
    file = Path(path)
    try:
        with file.open("rb") as opened:
            start = opened.read(len(MAGIC))
        if start == MAGIC:
            return unpack_codes(file.read_bytes())
        if not start.startswith(b"\x93NUMPY"):
            raise ValueError("neither .npy nor packed")
        # Mapped: a header that claims more than the file has is refused, not allocated.
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise RequestError(
            found_wanted(f"file {path}", f"not readable ({error.strerror or error})", "codes", "check the path")
        ) from error
    except RequestError:
        raise
    except Exception as error:
        # A damaged header makes numpy raise ValueError, EOFError, SyntaxError, TokenError, OverflowError, ...
        raise RequestError(
            found_wanted(f"file {path}", f"no codes ({str(error)[:80]})", "a .npy of integers", "numpy.save writes one")
        ) from error
    return array, None
