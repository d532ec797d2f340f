"""Between codes and pixels: the two graphs of the image tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import RequestError, found_wanted
from .. import image_tensors as names
from .clock import PIXELS, Clock


class Pixels:
    """``open_graph`` opens a graph of the bundle by name; ``image`` is ``image_codes`` of its manifest."""

    def __init__(self, open_graph: Callable[[str], Any], image: dict[str, Any]) -> None:
        self._open = open_graph
        self.tokens = int(image["grid"]) ** 2
        self.size = int(image["size"])
        self.values = int(image["codes"])
        """Codes are 0 to ``values`` - 1: those of m sub-ids joined, where a code has several."""
        if "sub_bits" in image:
            self.values = 2 ** (int(image["sub_bits"]) * int(image.get("per_step", 1)))
        self._low, self._high = (float(v) for v in image.get("pixel_range", (-1, 1)))

    def decode(self, codes: np.ndarray, clock: Clock | None = None) -> np.ndarray:
        """uint8 [B,H,W,3] of codes int64 [B,g*g]. Raises RequestError."""
        codes = self.checked(codes, self.tokens)
        pixels = self._run(names.VQ_DECODE, names.PIXELS, names.CODES, codes, clock)
        inside = np.fmin(np.fmax(pixels, self._low), self._high)  # a NaN is low, as in C++
        whole = (inside - self._low) * np.float32(255 / (self._high - self._low))
        return np.rint(whole).astype(np.uint8).transpose(0, 2, 3, 1)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Codes int64 [B,g*g] of images uint8 [B,H,W,3]. Raises RequestError."""
        wanted = ("B", self.size, self.size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != wanted[1:] or not len(pixels):
            found = f"{pixels.dtype} {list(pixels.shape)}"
            shape = f"uint8 [B,{self.size},{self.size},3]"
            raise RequestError(found_wanted("pixels", found, shape, "resize the pictures"))
        scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) * np.float32((self._high - self._low) / 255)
        return self._run(names.VQ_ENCODE, names.CODES, names.PIXELS, scaled + np.float32(self._low))

    def checked(self, codes: np.ndarray, length: int) -> np.ndarray:
        """``codes`` as int64 [B,length], all of them codes. Raises RequestError."""
        codes, wanted = np.asarray(codes), f"whole numbers [B,{length}] of 0 to {self.values - 1}"
        if codes.dtype.kind not in "iu" or codes.ndim != 2 or codes.shape[1] != length or not len(codes):
            raise RequestError(found_wanted("codes", f"{codes.dtype} {list(codes.shape)}", wanted, "check them"))
        if codes.size and (codes.min() < 0 or codes.max() >= self.values):
            raise RequestError(found_wanted("codes", f"{codes.min()} to {codes.max()}", wanted, "check them"))
        return codes.astype(np.int64)

    def _run(self, graph: str, output: str, given: str, values: np.ndarray, clock: Clock | None = None) -> np.ndarray:
        """One image after the other: the widest layer of one is memory enough, and more at once are no faster."""
        session = self._open(graph)
        with (clock or Clock()).running(PIXELS):
            made = [
                session.run([output], {given: np.ascontiguousarray(values[i : i + 1])})[0] for i in range(len(values))
            ]
        return np.concatenate(made)
