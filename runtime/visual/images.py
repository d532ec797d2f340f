"""An image of any kind -> uint8 RGB [H,W,3], or a refusal that says what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, RequestError, found_wanted

MOST_PIXELS = 1 << 26
"""67 megapixels: a phone's photograph has 50. What claims more is refused before it is unpacked."""


def as_rgb(image: Any, what: str = "image") -> np.ndarray:
    """uint8 [H,W,3] of a path, bytes of a file, a PIL image, or an array uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4].

    Turned upright by its EXIF orientation; transparency is dropped as PIL's ``convert("RGB")`` does, grey, palette, CMYK and 16-bit images are
    converted. ``what`` names it in messages. Raises RequestError for what cannot be read, is empty, or has more than MOST_PIXELS.
    """
    if isinstance(image, np.ndarray):
        return _of_array(image, what)
    pil = _pillow()
    if isinstance(image, (str, Path)):
        what, source = f"{what} {image}", Path(image)
        if not source.is_file():
            raise RequestError(found_wanted(what, "missing", "a picture file", "check the path"))
    elif isinstance(image, (bytes, bytearray)):
        source = io.BytesIO(image)  # type: ignore[assignment]
    elif isinstance(image, pil.Image):
        return _of_pil(image, what)
    else:
        kinds = "a path, the bytes of a file, a PIL image or a uint8 array"
        raise RequestError(found_wanted(what, f"a {type(image).__name__}", kinds, "open it with PIL first"))
    try:
        with pil.open(source) as opened:
            return _of_pil(opened, what)
    except RequestError:
        raise
    except pil.DecompressionBombError as error:
        raise RequestError(
            found_wanted(what, str(error)[:120], f"at most {MOST_PIXELS} pixels", "shrink it")
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise RequestError(
            found_wanted(what, f"not readable ({str(error)[:120]})", "a whole PNG, JPEG, WebP ...", "save it again")
        ) from error


def _of_pil(image: Any, what: str) -> np.ndarray:
    from PIL import ImageOps

    _check_size(image.height, image.width, what)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        # PIL clips these at 255; a 16-bit picture wants its high byte.
        values = np.asarray(image, np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return _of_array((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8), what)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def _of_array(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        found = f"{array.dtype} {list(array.shape)}"
        raise RequestError(found_wanted(what, found, "uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4]", "convert it"))
    _check_size(array.shape[0], array.shape[1], what)
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _check_size(height: int, width: int, what: str) -> None:
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        found = f"{height} x {width}"
        raise RequestError(found_wanted(f"size of {what}", found, f"1 to {MOST_PIXELS} pixels", "give another image"))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            found_wanted(
                "package pillow",
                "not installed",
                "installed, to open picture files",
                "pip install pillow, or give arrays",
            )
        ) from error

    return Image


def sample_image(seed: int, height: int, width: int) -> np.ndarray:
    """A made-up picture uint8 [H,W,3], the same everywhere: colour ramps with blocks on them. For vectors and tests."""
    state = np.random.RandomState(seed)  # the only stream that numpy promises to keep
    y, x = np.mgrid[:height, :width]
    ramps = [(y * a + x * b) // 3 + c for a, b, c in state.randint(1, 9, (3, 3))]
    picture = np.stack(ramps, -1) % 256
    for top, left, high, wide, *colour in state.randint(0, 256, (6, 7)):
        rows = slice(top * height // 256, (top + 8 + high // 2) * height // 256)
        columns = slice(left * width // 256, (left + 8 + wide // 2) * width // 256)
        picture[rows, columns] = colour
    return picture.astype(np.uint8)
