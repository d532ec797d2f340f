"""Tiny random GAMs: checkpoints and bundles, made once per process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from farthing.export.gam import export_gam
from farthing.models.gam import Gam, GamConfig

CONFIG = GamConfig(
    vocab_size=256, hidden_size=40, intermediate_size=72, layers=3, slots=70, kernel_size=3, max_positions=96
)
"""Neither the channels nor the slots are a multiple of a vector of 16; a row sees 3 * 2 + 1 = 7 tokens."""

PROMPT = [71, 97, 109, 32, 104, 97, 115, 32, 110, 111, 32, 99, 97, 99, 104, 101]


@functools.cache
def folder() -> Path:
    """A folder for this process; removed at its end."""
    folder.keep = tempfile.TemporaryDirectory(prefix="farthing-gam-")  # type: ignore[attr-defined]
    return Path(folder.keep.name)  # type: ignore[attr-defined]


@functools.cache
def model(seed: int = 0, config: GamConfig = CONFIG) -> Gam:
    """Random weights. Norms and biases are not 1 and 0, so that mixing them up shows; embeddings are large, so that choices are clear."""
    torch.manual_seed(seed)
    made = Gam(config, initialisation="author")
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            if name == "token_embedding.weight":
                parameter *= 8
    return made.eval()


@functools.cache
def checkpoint(seed: int = 0, config: GamConfig = CONFIG) -> Path:
    """`model` as a safetensors file."""
    path = folder() / f"gam-{seed}-{abs(hash(config))}.safetensors"
    save_file({k: v.contiguous() for k, v in model(seed, config).state_dict().items()}, path)
    return path


@functools.cache
def bundle(seed: int = 0, config: GamConfig = CONFIG, dtype: str = "float32") -> Path:
    """`checkpoint`, exported and compared with the reference. Do not change it: others use it too."""
    return export_gam(checkpoint(seed, config), folder() / f"b-{seed}-{abs(hash(config))}-{dtype}", dtype=dtype).path


def greedy(count: int, prompt: list[int], seed: int = 0, **_: Any) -> list[int]:
    """Greedy ids by full recomputation: every step runs the whole text through the reference, from zeros."""
    ids = list(prompt)
    with torch.no_grad():
        for _step in range(count):
            logits, _ = model(seed)(torch.tensor([ids]))
            ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]
