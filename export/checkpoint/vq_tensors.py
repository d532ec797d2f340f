"""Sizes of a VQ tokenizer and of a binary autoencoder, read off the shapes of their tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...models.bae import SHORTCUT, BaeConfig
from ...models.conv_blocks import GROUPS
from ...models.vq import VqConfig
from .image_files import bad, need

UNUSED = re.compile(r"^generator\.logsigma\.")
"""Of a released binary autoencoder: for its likelihood only."""


def vq_config(file: Path, tensors: dict[str, Any]) -> VqConfig:
    """Sizes of a VQ tokenizer. Raises CheckpointError."""
    need(file, tensors, ("quantize.embedding.weight", "encoder.conv_in.weight", "encoder.conv_out.weight"))
    codes, dim = tensors["quantize.embedding.weight"].shape
    channels = tensors["encoder.conv_in.weight"].shape[0]
    levels = {int(m[1]) for n in tensors if (m := re.match(r"encoder\.conv_blocks\.(\d+)\.", n))}
    firsts = [f"encoder.conv_blocks.{i}.res.0.conv1.weight" for i in range(len(levels))]
    need(file, tensors, firsts)
    blocks = {m[1] for n in tensors if (m := re.match(r"encoder\.conv_blocks\.0\.res\.(\d+)\.", n))}
    return VqConfig(
        codes=codes,
        code_dim=dim,
        channels=channels,
        multipliers=_multipliers(file, channels, [tensors[name].shape[0] for name in firsts]),
        latent=tensors["encoder.conv_out.weight"].shape[0],
        blocks=len(blocks),
    )


def bae_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    """``tensors`` of a released file with the names of `Bae`: no prefix ``ae.``, no skip that no block uses, nothing of the training."""
    if any(name.startswith("ae.") for name in tensors):
        tensors = {name[3:]: t for name, t in tensors.items() if name.startswith("ae.")}
    kept = {}
    for name, tensor in tensors.items():
        stem = name.rpartition(f".{SHORTCUT}.")[0]
        first = tensors.get(f"{stem}.conv1.weight") if stem else None
        idle = first is not None and first.shape[0] == first.shape[1]  # the released class makes it anyway
        if not idle and not UNUSED.match(name):
            kept[name] = tensor
    return kept


def bae_config(file: Path, tensors: dict[str, Any]) -> BaeConfig:
    """Sizes of a binary autoencoder, from the kinds of blocks in its two flat lists. Raises CheckpointError."""
    need(file, tensors, ("quantize.proj.0.weight", "quantize.embed.weight", "encoder.blocks.0.weight"))
    bits, latent = tensors["quantize.proj.0.weight"].shape[:2]
    channels = tensors["encoder.blocks.0.weight"].shape[0]
    encoder, generator = (_blocks(tensors, f"{half}.blocks.") for half in ("encoder", "generator"))
    widths: list[int] = []
    per_level: list[int] = [0]
    for kind, width in encoder:
        if kind == "scale":
            per_level.append(0)
        elif kind == "res":
            per_level[-1] += 1
            widths[len(per_level) - 1 :] = [width]
    if not widths or len(widths) != len(per_level):
        raise bad(file, "blocks of the encoder", [k for k, _ in encoder], "residual blocks on every level")
    last_level = [k for k, _ in generator][::-1]
    behind = last_level.index("scale") if "scale" in last_level else len(last_level)
    made = last_level[:behind].count("res")
    return BaeConfig(
        bits=bits,
        channels=channels,
        multipliers=_multipliers(file, channels, widths),
        latent=latent,
        # the last level of the encoder has the two of the middle as well; of a single level so has the generator
        blocks=per_level[0] - (2 if len(per_level) == 1 else 0),
        generator_blocks=made - (2 if len(per_level) == 1 else 0),
        norm_first=bool(generator and generator[0][0] == "norm"),
    )


def _blocks(tensors: dict[str, Any], prefix: str) -> list[tuple[str, int]]:
    """(kind, width it makes) of each entry of a flat list of blocks."""
    numbers = {int(n[len(prefix) :].split(".")[0]) for n in tensors if re.match(re.escape(prefix) + r"\d+\.", n)}
    found = []
    for i in sorted(numbers):
        p = f"{prefix}{i}."
        if f"{p}conv1.weight" in tensors:
            found.append(("res", int(tensors[f"{p}conv1.weight"].shape[0])))
        elif f"{p}q.weight" in tensors:
            found.append(("attention", int(tensors[f"{p}q.weight"].shape[0])))
        elif f"{p}conv.weight" in tensors:
            found.append(("scale", int(tensors[f"{p}conv.weight"].shape[0])))
        elif f"{p}weight" in tensors:
            found.append(("conv" if tensors[f"{p}weight"].ndim == 4 else "norm", int(tensors[f"{p}weight"].shape[0])))
    return found


def _multipliers(file: Path, channels: int, widths: list[int]) -> tuple[int, ...]:
    if not widths or any(w % channels for w in widths) or channels % GROUPS:
        raise bad(file, "channels of its levels", [channels, *widths], f"multiples of the first, itself of {GROUPS}")
    return tuple(w // channels for w in widths)
