"""A Hugging Face folder with more than a decoder in it: the decoder as any `Checkpoint`, and the other tensors under names of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ...errors import CheckpointError, found_wanted
from .huggingface import HuggingFaceCheckpoint
from .safetensors_file import SafetensorsFile


class SeeingFolder(HuggingFaceCheckpoint):
    """Base of folders with a vision tower. A subclass sorts tensors by `_own_name`, putting those beside the decoder away with `_put`."""

    _others: dict[str, tuple[SafetensorsFile, str]]
    """Our name -> file and the name in it. Made by a subclass before the shards are read."""

    def _put(self, file: SafetensorsFile, theirs: str, ours: str) -> None:
        """Keep tensor ``theirs`` of ``file`` as ``ours``. Raises CheckpointError for one that is there already."""
        if ours in self._others:
            raise CheckpointError(
                found_wanted(f"tensor {theirs} of {file.path}", "there twice", "once", "remove the stale weight files")
            )
        self._others[ours] = (file, theirs)

    def _check_others(self, wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
        """Compare what was put away with ``wanted`` (name -> shape); ``what`` it makes up. Raises CheckpointError."""
        self._refuse_list("missing", (n for n in wanted if n not in self._others), f"every tensor of {what}")
        self._refuse_list("unexpected", (n for n in self._others if n not in wanted), "only tensors the model uses")
        for name, shape in wanted.items():
            file, theirs = self._others[name]
            if file.shape(theirs) != shape:
                raise CheckpointError(
                    found_wanted(
                        f"shape of tensor {file.path}: {theirs}",
                        list(file.shape(theirs)),
                        f"{list(shape)} by the configuration",
                        "configuration and weights belong to different models; fetch both from one place",
                    )
                )

    def visual(self, name: str) -> np.ndarray:
        """float32 tensor ``tower.<name>`` and so on. Raises CheckpointError where it is not finite, KeyError."""
        file, theirs = self._others[name]
        array = np.asarray(file.read(theirs), np.float32)
        if not np.isfinite(array).all():
            raise CheckpointError(
                found_wanted(
                    f"tensor {file.path}: {theirs}",
                    "not finite",
                    "finite weights",
                    "fetch or train the checkpoint again",
                )
            )
        return array

    @property
    def visual_parameters(self) -> int:
        """Weights beside the decoder's."""
        return sum(math.prod(f.shape(n)) for f, n in self._others.values())
