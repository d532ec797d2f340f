"""Codes of pictures, by the graph `vq_encode` of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BundleError, MissingDependencyError, RequestError, found_wanted
from ...plugins import library_path
from ...runtime.bundle import Bundle, open_bundle
from ...runtime.image_tensors import CODES, PIXELS, VQ_ENCODE
from ...runtime.visual.images import as_rgb

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
BATCH = 16


def encode_pictures(
    bundle: str | Path,
    folder: str | Path,
    *,
    native: bool = True,
    threads: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, int]:
    """(codes int64 [N,g,g] of the pictures of ``folder`` by name, size of the codebook). Raises BundleError, RequestError, MissingDependencyError."""
    opened = open_bundle(bundle)
    told = _image_codes(opened)
    size, grid = int(told["size"]), int(told["grid"])
    # A code of ELM is several ids of the model; the encoder gives the whole code.
    codes = 1 << told["sub_bits"] * told["per_step"] if "sub_bits" in told else int(told["codes"])
    low, high = told.get("pixel_range", (-1, 1))
    files = pictures_of(folder)
    session = _session(opened, native, threads)
    made = []
    for start in range(0, len(files), BATCH):
        batch = np.stack([fitted(as_rgb(file), size) for file in files[start : start + BATCH]])
        pixels = (batch.astype(np.float32) / 255 * (high - low) + low).transpose(0, 3, 1, 2)
        made.append(session.run([CODES], {PIXELS: np.ascontiguousarray(pixels)})[0])
        if progress:
            progress("encoding pictures", min(start + BATCH, len(files)), len(files))
    return np.concatenate(made).astype(np.int64).reshape(len(files), grid, grid), codes


def pictures_of(folder: str | Path) -> list[Path]:
    """Files below ``folder`` that are named like pictures, in order. Raises RequestError."""
    root = Path(folder)
    if not root.is_dir():
        raise RequestError(found_wanted(f"--images {folder}", "no folder", "a folder of pictures", "check the path"))
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not files:
        raise RequestError(found_wanted(f"--images {folder}", "without pictures", "PNG, JPEG, WebP ...", "add some"))
    return files


def fitted(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size,size,3]: the middle square of ``picture`` uint8 [H,W,3], resized (bicubic, with antialiasing where it shrinks)."""
    height, width, _ = picture.shape
    if (height, width) == (size, size):
        return picture
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package pillow", "not installed", "installed to resize pictures", "pip install pillow")
        ) from error
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(picture[top : top + side, left : left + side])  # Pillow's own box looks beyond itself
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC))


def _image_codes(opened: Bundle) -> dict[str, Any]:
    manifest = opened.manifest
    if "image_codes" not in manifest or VQ_ENCODE not in manifest["graphs"]:
        raise BundleError(
            found_wanted(
                f"graph {VQ_ENCODE} of {opened.path}",
                "missing",
                "an image model with its tokenizer's encoder",
                "export it again, or give codes as .npy",
            )
        )
    found: dict[str, Any] = manifest["image_codes"]
    return found


def _session(opened: Bundle, native: bool, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    library = library_path()
    if native and library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(opened.graph(VQ_ENCODE)), options, providers=["CPUExecutionProvider"])
