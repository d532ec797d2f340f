"""Files of image models: finding the two or three of a folder, opening them weights-only, filling a module with them.

A folder has the autoregressive model and the image tokenizer, whose file name begins with ``vq`` or ``bae``; a file whose name begins
with ``drafter`` is LANTERN's and may lie beside them. Released ``.pt`` files or safetensors. ``config.json`` says what shapes do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, found_wanted

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".th")
WRAPPERS = ("model", "module", "state_dict")
"""Keys under which DDP, DeepSpeed and Lightning put the state_dict; FSDP's files are bare."""

IGNORED = {"freqs_cis", "quantize.codebook_used"}
"""Buffers that some files have and no graph needs."""

DRAFTER = "drafter"
"""How a drafter's file name begins."""


def bad(file: Path, what: str, found: object, wanted: object, fix: str = "") -> CheckpointError:
    """The house sentence about ``what`` of ``file``."""
    return CheckpointError(found_wanted(f"{what} of {file}", found, wanted, fix or "check which model it is of"))


def find_pair(path: Path, prefixes: tuple[str, ...]) -> tuple[Path, Path]:
    """(model, tokenizer) in folder ``path``; the tokenizer's name begins with one of ``prefixes``. Raises CheckpointError."""
    if not path.is_dir():
        raise CheckpointError(
            found_wanted(
                f"checkpoint {path}", "no folder", "a folder with model and tokenizer", "put both files in one"
            )
        )
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(DRAFTER))
    tokenizers = [p for p in files if p.name.startswith(prefixes)]
    models = [p for p in files if p not in tokenizers]
    if len(tokenizers) != 1 or len(models) != 1:
        raise CheckpointError(
            found_wanted(
                f"weights in {path}",
                f"{len(models)} model(s) and {len(tokenizers)} tokenizer(s)",
                f"one of each; the tokenizer's file name begins with {' or '.join(prefixes)}",
                "put the two files of one release there, alone",
            )
        )
    return models[0], tokenizers[0]


def find_drafter(path: Path) -> Path:
    """The drafter: ``path`` itself if it is a file, else the one in that folder. Raises CheckpointError."""
    if path.is_file():
        return path
    files = sorted(path.iterdir()) if path.is_dir() else []
    found = [p for p in files if p.suffix in SUFFIXES and p.name.startswith(DRAFTER)]
    if len(found) != 1:
        raise CheckpointError(
            found_wanted(
                f"drafter in {path}",
                f"{len(found)} files",
                f"one whose name begins with {DRAFTER}",
                "put the trained drafter there, or give its file with --drafter",
            )
        )
    return found[0]


def read_state(file: Path) -> dict[str, Any]:
    """Names and torch tensors of ``file``, all finite; no code of it is run. Raises CheckpointError."""
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many classes here
        raise bad(file, "content", f"not loadable as weights only ({str(error)[:160]})", "a state_dict") from error
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise bad(file, "content", "no state_dict", "names and tensors")
    for name, tensor in loaded.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise bad(file, f"tensor {name}", "not finite", "finite weights")
    return {name: tensor for name, tensor in loaded.items() if name not in IGNORED}


def read_config(folder: Path, example: str) -> dict[str, Any]:
    """The object in ``config.json`` of ``folder``, empty where there is none. Raises CheckpointError, showing ``example``."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    try:
        given = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise bad(file, "content", f"not JSON ({error})", example) from error
    if not isinstance(given, dict):
        raise bad(file, "content", "no object", example)
    return given


def filled(model: Any, tensors: dict[str, Any], file: Path) -> Any:
    """``model`` with exactly ``tensors``, float32, in eval mode. Raises CheckpointError naming what is missing, surplus or misshaped."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for what, names in (("missing", wanted.keys() - tensors.keys()), ("unexpected", tensors.keys() - wanted.keys())):
        if names:
            raise bad(file, "list of tensors", f"{what} {', '.join(sorted(names)[:6])}", "those of the released class")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise bad(file, f"shape of tensor {name}", list(tensors[name].shape), list(shape))
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def need(file: Path, tensors: dict[str, Any], names: Any) -> None:
    """Raise CheckpointError unless ``tensors`` has all of ``names``."""
    if missing := [n for n in names if n not in tensors]:
        raise bad(file, "list of tensors", f"missing {', '.join(missing[:6])}", "those of the released class")


def count(tensors: dict[str, Any], prefix: str) -> int:
    """How many different next parts the names below ``prefix`` have: layers, tables, blocks."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
