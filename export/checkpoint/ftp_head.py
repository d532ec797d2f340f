"""The file of a trained FTP head: safetensors with the names of `farthing.models.ftp.FtpHead`, sizes in its metadata."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import CheckpointError, found_wanted
from .base import Checkpoint
from .safetensors_file import SafetensorsFile, write_safetensors

if TYPE_CHECKING:
    from ...models.ftp import FtpHead

NOTE = "ftp."
"""Prefix of our entries in the file's metadata."""

_FIX = "give the head that was trained for this checkpoint"


def save_head(path: Path, head: FtpHead, base: Checkpoint, *, details: dict[str, str] | None = None) -> None:
    """Write ``head`` of ``base`` to ``path``, float16."""
    notes = {**{k: repr(v) for k, v in asdict(head.config).items()}, "base_sha256": base.sha256(), **(details or {})}
    tensors = {n: t.detach().numpy().astype(np.float16) for n, t in head.state_dict().items()}
    write_safetensors(path, tensors, {NOTE + name: value for name, value in notes.items()})


def open_head(path: str | Path, base: Checkpoint) -> FtpHead:
    """The head in file ``path``, checked against ``base``. Raises CheckpointError (pickle, no head, another base, damaged)."""
    import torch

    from ...models.ftp import FtpConfig, FtpHead

    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        found = "missing" if not path.exists() else f"a {path.suffix or 'nameless'} file"
        raise CheckpointError(
            found_wanted(f"head {path}", found, "a .safetensors file", "check the path; pickles are never opened")
        )
    file = SafetensorsFile(path)
    notes = {k.removeprefix(NOTE): v for k, v in file.metadata.items() if k.startswith(NOTE)}
    try:
        sizes = {
            name: int(notes[name])
            for name in ("hidden_size", "memory", "horizon", "layers", "heads", "intermediate_size")
        }
        config = FtpConfig(**sizes, norm_epsilon=float(notes["norm_epsilon"]))
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            found_wanted(f"sizes in {path}", f"missing or bad ({error})", "those of an FTP head", _FIX)
        ) from error
    if config.hidden_size != base.config.hidden_size:
        raise CheckpointError(found_wanted(f"hidden_size of {path}", config.hidden_size, base.config.hidden_size, _FIX))
    if notes.get("base_sha256") != base.sha256():
        raise CheckpointError(
            found_wanted(f"base of {path}", str(notes.get("base_sha256"))[:12], base.sha256()[:12], _FIX)
        )
    wanted = {n: tuple(t.shape) for n, t in FtpHead(config).state_dict().items()}
    found_shapes = {n: file.shape(n) for n in file.names()}
    if found_shapes != wanted:
        odd = sorted(n for n in wanted | found_shapes if wanted.get(n) != found_shapes.get(n))[0]
        raise CheckpointError(
            found_wanted(f"tensor {odd} of {path}", found_shapes.get(odd, "missing"), wanted.get(odd, "absent"), _FIX)
        )
    arrays = {n: np.array(file.read(n), np.float32) for n in wanted}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(
                found_wanted(f"tensor {name} of {path}", "not finite", "finite weights", "train the head again")
            )
    return FtpHead.from_tensors(config, {n: torch.from_numpy(a) for n, a in arrays.items()})
