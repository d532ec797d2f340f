"""From the states of training to checkpoint folders in the layout that `farthing export` reads: float16 safetensors and config.json."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from image_models import KINDS, SIZES
from safetensors.torch import save_file

SHIPPED = ("plain8", "elm8", "nar16", "shuffle16", "plain16")
INSIDE = {"vq8": "vq.", "vq16": "vq.", "bae8": "bae.", "drafter": "drafter."}
"""Prefix of the module that is shipped in the state of its trainer."""


def state(out: Path, stage: str) -> dict[str, torch.Tensor]:
    """float16 tensors of a finished ``stage`` under the model's own names."""
    tensors = torch.load(out / f"{stage}.pt", weights_only=True)["model"]
    prefix = INSIDE.get(stage, "")
    return {
        n.removeprefix(prefix): (t.half() if t.is_floating_point() else t).contiguous()
        for n, t in tensors.items()
        if n.startswith(prefix)
    }


def write(out: Path, folder: Path, name: str) -> None:
    """One checkpoint: the model, its tokenizer beside it, and what shapes do not say."""
    kind = KINDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(out, name), folder / "model.safetensors")
    save_file(state(out, kind.tokenizer), folder / f"{kind.tokenizer}.safetensors")
    (folder / "config.json").write_text(json.dumps({"heads": SIZES["heads"], "grid": kind.grid}) + "\n")
    if name == "plain8" and (out / "drafter.pt").exists():
        save_file(state(out, "drafter"), folder / "drafter.safetensors")


def ship(out: Path, examples: Path, names: tuple[str, ...] = SHIPPED) -> None:
    """Every finished one of ``names``, and the classifier."""
    for name in names:
        if (out / f"{name}.pt").exists():
            write(out, examples / name, name)
    if (out / "judge.pt").exists():
        (examples / "judge").mkdir(parents=True, exist_ok=True)
        save_file(state(out, "judge"), examples / "judge" / "classifier.safetensors")
