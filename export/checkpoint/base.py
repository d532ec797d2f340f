"""The interface every checkpoint format implements, and the checks that do not depend on the format."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, found_wanted
from ...models.config import DecoderConfig, expected_tensors
from ...runtime.bundle.read import sha256_of
from .tokenizer import TokenizerFiles


class Checkpoint(ABC):
    """A model on disk. Opening reads headers only; `tensor` reads one tensor and keeps nothing.

    Tensor names are those of `farthing.models.config`, whatever the file calls them.
    """

    kind: str
    """``huggingface`` or ``gguf``."""

    path: Path
    name: str
    """For people, e.g. the folder's name. Never used as a path."""

    config: DecoderConfig

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Read configuration and headers of the checkpoint at ``path``. Raises CheckpointError, OSError."""

    @abstractmethod
    def names(self) -> list[str]:
        """Canonical names of all tensors the model uses."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header. Raises KeyError."""

    @abstractmethod
    def source(self, name: str) -> str:
        """``<file>: <name in that file>``, for messages."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """The tensor as float32, or float16 where it is stored so. May be a read-only view of the mapped file."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The weight files."""

    @abstractmethod
    def tokenizer(self) -> TokenizerFiles | None:
        """The tokenizer, checked against the vocabulary; None if the checkpoint has none."""

    def tensor(self, name: str) -> np.ndarray:
        """The tensor ``name``, float32 or float16, C order, every value finite. Raises CheckpointError, KeyError."""
        array = self.read(name)
        # min and max hand on a NaN and need no array of flags; a model must not be exported to produce NaN much later.
        with np.errstate(invalid="ignore"):
            low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = np.flatnonzero(~np.isfinite(array.reshape(-1)))
            raise CheckpointError(
                found_wanted(
                    f"tensor {self.source(name)}",
                    f"not finite in {bad.size} of {array.size} values (first at index {bad[0]})",
                    "finite weights",
                    "fetch or train the checkpoint again",
                )
            )
        return array

    def sha256(self) -> str:
        """Hex SHA-256 over the sorted lines ``<file name> <sha256>`` of the weight files."""
        lines = sorted(f"{p.name} {sha256_of(p)}\n" for p in self.files())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check(self) -> None:
        """Compare the tensors with what the configuration implies. Raises CheckpointError listing every difference."""
        wanted = expected_tensors(self.config)
        found = {name: self.shape(name) for name in self.names()}
        self._refuse_list("missing", (n for n in wanted if n not in found), "every tensor its configuration implies")
        self._refuse_list("unexpected", (n for n in found if n not in wanted), "only tensors its configuration implies")
        for name, shape in wanted.items():
            if found[name] != shape:
                raise CheckpointError(
                    found_wanted(
                        f"shape of tensor {self.source(name)}",
                        list(found[name]),
                        f"{list(shape)} by the configuration",
                        "configuration and weights belong to different models; fetch both from one place",
                    )
                )

    def _refuse_list(self, what: str, names: Iterable[str], wanted: str) -> None:
        listed = list(names)
        if not listed:
            return
        shown = ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
        raise CheckpointError(
            found_wanted(
                f"list of tensors of {self.path}",
                f"{what} {shown}",
                wanted,
                "check the configuration, or that all files are there and belong to one model",
            )
        )
