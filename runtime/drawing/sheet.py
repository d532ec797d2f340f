"""Several images as one, and as a PNG file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ...errors import MissingDependencyError, RequestError, found_wanted
from .native import core_module


def contact_sheet(pixels: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [rows*H,columns*W,3] of images uint8 [B,H,W,3], row by row; places left over are white."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = pixels
    return sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def write_png(path: str | Path, pixels: np.ndarray, columns: int = 1) -> None:
    """Write images uint8 [B,H,W,3] beside each other as one PNG, by the core where it is built, else by Pillow.

    Raises RequestError where ``path`` cannot be written, MissingDependencyError without both.
    """
    core = core_module()
    data = core.png(np.ascontiguousarray(pixels), columns) if core is not None else _by_pillow(pixels, columns)
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise RequestError(
            found_wanted(f"--out {path}", f"not writable ({error.strerror})", "a place for a PNG", "choose another")
        ) from error


def _by_pillow(pixels: np.ndarray, columns: int) -> bytes:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted("package pillow", "not installed", "installed to write PNG", "pip install 'farthing[images]'")
        ) from error
    file = io.BytesIO()
    Image.fromarray(contact_sheet(pixels, columns)).save(file, format="PNG")
    return file.getvalue()
