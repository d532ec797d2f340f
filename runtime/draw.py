"""Drawing with a class-conditional image model: codes one by one under classifier-free guidance, then pixels.

Guidance (Ho and Salimans 2022): logits = u + scale * (c - u), c with the class, u without. After ``interval`` codes only c is used,
as in LlamaGen; the pass keeps its 2B rows, so equal positions stay equal. Ids are drawn by `sampling.choose`, so the k-th best is cut
by rank: LlamaGen keeps ties with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, RequestError, found_wanted
from ..plugins import library_path
from .bundle import Bundle, open_bundle
from .image_tensors import AR_STEP, CODES, PIXELS, VQ_DECODE
from .sampling import Sampling, choose
from .stepper import Stepper

_WORD = 2**64


@dataclass(frozen=True)
class Guidance:
    """``scale`` 1 = none, and then no unconditional rows run. ``schedule`` ``constant``, or ``linear`` from 1 up to scale at the last code."""

    scale: float = 4.0
    interval: int = -1
    """Codes that are guided; -1 = all."""
    schedule: str = "constant"

    def at(self, code: int, codes: int) -> float:
        """The scale for code number ``code`` of ``codes``."""
        if 0 <= self.interval <= code:
            return 1.0
        if self.schedule == "linear":
            return 1.0 + (self.scale - 1.0) * (code + 1) / codes
        return self.scale


@dataclass(frozen=True)
class Drawn:
    """``codes`` int64 [B,g*g]; ``pixels`` uint8 [B,H,W,3]; ``passes`` of the step graph."""

    codes: np.ndarray
    pixels: np.ndarray
    passes: int


class Drawer:
    """An open bundle that draws. ``native`` False keeps to standard operators. Raises BundleError.

    >>> drawn = Drawer("bundle").draw([207, 207], seed=1)            # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, threads: int = 0, native: bool = True) -> None:
        self.bundle: Bundle = open_bundle(path)
        manifest = self.bundle.manifest
        if "image_codes" not in manifest:
            raise BundleError(
                found_wanted(
                    f"method of {path}",
                    repr(manifest["method"]["id"]),
                    "a model that draws",
                    "export llamagen, or use farthing run",
                )
            )
        image = manifest["image_codes"]
        self.codes, self.classes, self.grid = (int(image[n]) for n in ("codes", "classes", "grid"))
        self._check_manifest()
        self._native = native and library_path() is not None
        self._step = self._open(AR_STEP, threads)
        self._pixels = self._open(VQ_DECODE, threads)

    @property
    def tokens(self) -> int:
        """Codes of an image."""
        return self.grid * self.grid

    def draw(
        self,
        classes: Sequence[int],
        *,
        seed: int = 0,
        guidance: Guidance | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Drawn:
        """One image for each of ``classes``; image i is drawn under seed + i, whatever stands beside it.

        ``temperature`` 0 takes the best code. Raises RequestError.
        """
        guidance = guidance or Guidance()
        self._check(classes, seed, guidance, temperature, top_k, top_p)
        how = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        hows = [replace(how, seed=(seed + i) % _WORD) for i in range(len(classes))]
        conditions = [self.codes + c for c in classes]
        guided = guidance.scale != 1.0
        if guided:
            conditions += [self.codes + self.classes] * len(classes)
        stepper = Stepper(self._step, self.bundle.manifest, len(conditions), 1 + self.tokens)
        ids = np.array(conditions, np.int64)[:, None]
        codes = np.zeros((len(classes), self.tokens), np.int64)
        for i in range(self.tokens):
            logits = stepper.step(ids)
            if guided:
                with_class, without = np.split(logits, 2)
                scale = np.float32(guidance.at(i, self.tokens))
                logits = with_class if scale == 1 else without + scale * (with_class - without)
            codes[:, i] = [choose(row, each, i) for row, each in zip(logits, hows, strict=True)]
            ids = np.tile(codes[:, i : i + 1], (2 if guided else 1, 1))
            if progress:
                progress(i + 1, self.tokens)
        return Drawn(codes, self.decode(codes), self.tokens)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [B,H,W,3] of codes int64 [B,g*g]. Raises RequestError."""
        if codes.ndim != 2 or codes.shape[1] != self.tokens or codes.min() < 0 or codes.max() >= self.codes:
            raise RequestError(
                found_wanted("codes", list(codes.shape), f"[B,{self.tokens}] of 0 to {self.codes - 1}", "check them")
            )
        pixels = self._pixels.run([PIXELS], {CODES: codes})[0]
        whole = np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)
        return whole.transpose(0, 2, 3, 1)  # type: ignore[no-any-return]

    def _open(self, graph: str, threads: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # TensorScatter warns about every cache that is not bound in place
        if self._native:
            options.register_custom_ops_library(str(library_path()))
        return onnxruntime.InferenceSession(str(self.bundle.graph(graph)), options, providers=["CPUExecutionProvider"])

    def _check_manifest(self) -> None:
        model = self.bundle.manifest["model"]
        for field, wanted in (
            ("max_positions", 1 + self.tokens),
            ("vocab_size", self.codes + self.classes + 1),
        ):
            if model[field] != wanted:
                raise BundleError(
                    found_wanted(
                        f"model.{field} of {self.bundle.path}",
                        model[field],
                        f"{wanted} by image_codes",
                        "export the bundle again",
                    )
                )

    def _check(
        self, classes: Sequence[int], seed: int, guidance: Guidance, temperature: float, top_k: int, top_p: float
    ) -> None:
        bad = next((c for c in classes if not 0 <= c < self.classes), None)
        rules: tuple[tuple[str, object, bool, str], ...] = (
            ("number of images", len(classes), len(classes) >= 1, "1 or more"),
            ("class", bad, bad is None, f"0 to {self.classes - 1}"),
            ("seed", seed, 0 <= seed < _WORD, "0 to 2^64 - 1"),
            ("guidance scale", guidance.scale, 0 <= guidance.scale <= 100, "0 to 100"),
            ("guidance interval", guidance.interval, guidance.interval >= -1, "-1 (all codes) or more"),
            ("guidance schedule", guidance.schedule, guidance.schedule in ("constant", "linear"), "constant or linear"),
            ("temperature", temperature, 0 <= temperature <= 100, "0 to 100"),
            ("top_k", top_k, top_k >= 0, "0 (off) or more"),
            ("top_p", top_p, 0 < top_p <= 1, "above 0, at most 1"),
        )
        for what, found, good, wanted in rules:
            if not good:
                raise RequestError(found_wanted(what, found, wanted, "correct it"))


def contact_sheet(pixels: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [rows*H,columns*W,3] of images uint8 [B,H,W,3], row by row; places left over are white."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = pixels
    return sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
