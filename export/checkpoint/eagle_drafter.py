"""A drafter of EAGLE's kind for a LlamaGen model: names of the released class (see `farthing.models.eagle`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...models.eagle import Drafter
from ...models.llamagen import LlamaGenConfig
from .image_files import bad, filled, find_drafter, need, read_state

GATE = "layers.0.mlp.gate_proj.weight"


def read_drafter(path: Path, target: LlamaGenConfig) -> tuple[Path, Drafter]:
    """The file at ``path`` (or in that folder) and the drafter in it, which must fit ``target``. Raises CheckpointError."""
    file = find_drafter(path)
    tensors = read_state(file)
    need(file, tensors, ("embed_tokens.weight", "fc.weight", GATE))
    codes, width = tensors["embed_tokens.weight"].shape
    for what, found, wanted in (
        ("width", width, target.hidden_size),
        ("codes", codes, target.codes),
    ):
        if found != wanted:
            raise bad(file, what, found, f"{wanted}, as the model has", "take the drafter that was trained for it")
    config = replace(target, intermediate_size=tensors[GATE].shape[0], layers=1)
    return file, filled(Drafter(config), tensors, file)
