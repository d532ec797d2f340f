"""Fashion-MNIST (Xiao et al. 2017, MIT licence) as the image models see it: 32x32, three equal channels, -1 to 1.

From the Debian package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`), or `--data` with its four files.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import numpy as np
import torch

FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = {"train": "train", "test": "t10k"}
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SIDE, BORDER = 32, 2
"""28 pixels and 2 black ones on each side: a power of two, which the tokenizers halve."""


def _idx(file: Path, header: int) -> np.ndarray:
    """uint8 values of an IDX file behind its header. Raises SystemExit with the remedy."""
    if not file.is_file():
        raise SystemExit(
            f"{file} is missing, expected Fashion-MNIST; apt-get install dataset-fashion-mnist or give --data"
        )
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


@functools.cache
def load(split: str, folder: Path = FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """(grey uint8 [N,32,32], labels int64 [N]) of ``split`` train (60,000) or test (10,000)."""
    name = FILES[split]
    grey = _idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _idx(folder / f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int64)
    return np.pad(grey, ((0, 0), (BORDER, BORDER), (BORDER, BORDER))), labels


def pixels(grey: np.ndarray) -> torch.Tensor:
    """float32 [N,3,32,32] in [-1,1] of grey uint8 [N,32,32]."""
    one = torch.from_numpy(np.asarray(grey, np.float32) / 127.5 - 1)
    return one[:, None].expand(-1, 3, -1, -1).contiguous()


def grey(drawn: np.ndarray) -> np.ndarray:
    """uint8 [N,32,32] of drawn pixels uint8 [N,32,32,3]: their mean, rounded."""
    return np.rint(drawn.astype(np.float32).mean(-1)).astype(np.uint8)
