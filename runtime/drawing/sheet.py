"""Several images as one."""

from __future__ import annotations

import numpy as np


def contact_sheet(pixels: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [rows*H,columns*W,3] of images uint8 [B,H,W,3], row by row; places left over are white."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = pixels
    return sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
