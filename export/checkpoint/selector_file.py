"""Reading a learned token selector (VisionSelector's, which IDPruner takes too): a folder of config.json and one file of weights.

    {"architecture": "TransformerScorer", ...}       known architectures are mapped by name
    *.safetensors, or *.bin read as plain tensors     q_proj and k_proj, weight [H,D] and bias [H]; nothing else

Such folders also carry a .py with the class, which their own loader runs: here nothing of a checkpoint is run. That loader ignores
tensors it does not know; here a missing or surplus one is an error, since a scorer with random weights selects at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, found_wanted
from .json_file import Fields
from .safetensors_file import SafetensorsFile

ARCHITECTURES = ("TransformerScorer",)
DEFAULT_ARCHITECTURE = "TransformerScorer"
"""What the authors' loader assumes where config.json names none."""

PREFIXES = ("module.", "visual.importance_scorer.", "_orig_mod.")
"""What training frameworks put before the names, in any order."""

TENSORS = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")


@dataclass(frozen=True)
class Selector:
    """Weights of a linear query/key scorer, float32: weights [H,D], biases [H]."""

    q_weight: np.ndarray
    q_bias: np.ndarray
    k_weight: np.ndarray
    k_bias: np.ndarray
    architecture: str
    files: tuple[Path, ...]
    """config.json and the weights, for the manifest's hash."""

    @property
    def hidden(self) -> int:
        """H, e.g. 1792."""
        return int(self.q_weight.shape[0])

    def weights(self) -> dict[str, np.ndarray]:
        """As `add_linear_scorer` takes them."""
        return {n: getattr(self, n) for n in ("q_weight", "q_bias", "k_weight", "k_bias")}


def open_selector(path: str | Path, width: int) -> Selector:
    """The selector in folder ``path`` for embeddings of ``width`` numbers.

    Raises CheckpointError: no folder, no or several files of weights, unknown architecture, tensors missing, surplus, misshapen or not
    finite, another width, damaged files.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            found_wanted(
                f"selector {folder}",
                "a file" if folder.exists() else "missing",
                "a folder of config.json and one .safetensors file",
                "check the path",
            )
        )
    config = Fields.load(folder / "config.json")
    architecture = config.text("architecture", DEFAULT_ARCHITECTURE)
    if architecture not in ARCHITECTURES:
        raise config.bad(
            "architecture", architecture, f"one of {', '.join(ARCHITECTURES)}", "other scorers are not supported"
        )
    file = _weights_file(folder)
    arrays = _stripped(file, _read(file))
    hidden = arrays["q_proj.weight"].shape[0] if arrays["q_proj.weight"].ndim == 2 else "H"
    for name, array in arrays.items():
        wanted = [hidden, width] if name.endswith("weight") else [hidden]
        if list(array.shape) != wanted:
            raise _bad(
                file,
                f"shape of {name}",
                list(array.shape),
                f"{wanted}: the embeddings have {width} numbers",
                "use a selector that was trained for this model",
            )
        if not np.isfinite(array).all():
            raise _bad(file, f"tensor {name}", "not finite", "finite numbers", "fetch or train the selector again")
    q_weight, q_bias, k_weight, k_bias = (arrays[name] for name in TENSORS)
    return Selector(q_weight, q_bias, k_weight, k_bias, architecture, (folder / "config.json", file))


def _weights_file(folder: Path) -> Path:
    """The one .safetensors, or where there is none the one .bin."""
    for suffix in (".safetensors", ".bin"):
        found = sorted(p for p in folder.glob(f"*{suffix}") if p.is_file() and p.name != "training_args.bin")
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                found_wanted(
                    f"weights of selector {folder}",
                    ", ".join(p.name for p in found),
                    f"one {suffix} file",
                    "remove the stale ones",
                )
            )
    raise CheckpointError(
        found_wanted(f"weights of selector {folder}", "missing", "one .safetensors file", "fetch the folder again")
    )


def _read(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".safetensors":
        try:
            stored = SafetensorsFile(file)
        except OSError as error:
            raise _bad(file, "content", f"unreadable ({error})", "a safetensors file", "check its rights") from error
        return {name: stored.read(name).astype(np.float32) for name in stored.names()}
    import torch

    try:
        # weights_only: a reader for tensors in containers and nothing else; whatever would run code is refused by it.
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # its reader raises a dozen kinds
        raise _bad(
            file, "content", f"not plain tensors ({str(error)[:120]})", "a state_dict", "convert it to safetensors"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise _bad(file, "content", type(loaded).__name__, "a state_dict of tensors", "save model.state_dict()")
    return {str(name): tensor.float().numpy() for name, tensor in loaded.items()}


def _stripped(file: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The four tensors under their own names."""
    found: dict[str, np.ndarray] = {}
    for full, array in arrays.items():
        name = full
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if name in found:
            raise _bad(file, f"tensor {name}", "there twice, under two prefixes", "there once", "save one state_dict")
        found[name] = array
    missing, surplus = sorted(set(TENSORS) - set(found)), sorted(set(found) - set(TENSORS))
    if missing or surplus:
        shown = "; ".join(
            f"{what} {', '.join(names[:6])}" for what, names in (("missing", missing), ("surplus", surplus)) if names
        )
        raise _bad(file, "list of tensors", shown, f"exactly {', '.join(TENSORS)}", "give a selector's own folder")
    return {name: found[name] for name in TENSORS}


def _bad(file: Path, what: str, found: object, wanted: object, fix: str) -> CheckpointError:
    return CheckpointError(found_wanted(f"{what} of selector {file}", found, wanted, fix))
