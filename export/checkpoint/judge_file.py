"""Reading and writing judges: a linear head in one safetensors file, and arrays of scikit-learn's LogisticRegression as .npz.

Tensors of the safetensors file: weight, mean, scale float32 [D], bias float32 [1]. Its metadata, under ``judge.``: polarity, layer, delta,
target_sha256, target, and whatever the trainer measured. A .npz has coef_, intercept_, mean_, scale_ (as the fitted objects call them)
and polarity, and optionally delta. No pickles: reading one runs code of whoever wrote it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CheckpointError, found_wanted
from . import PICKLES, pickle_refusal
from .base import Checkpoint
from .safetensors_file import SafetensorsFile, write_safetensors

if TYPE_CHECKING:
    from ...models.judge import Judge

NOTE = "judge."
"""Prefix of our entries in the file's metadata."""

_VECTORS = ("weight", "mean", "scale")
_FIELDS = ("polarity", "layer", "delta", "target_sha256")
_SKLEARN = {"coef_": "weight", "intercept_": "bias", "mean_": "mean", "scale_": "scale"}


def open_judge(path: str | Path, target: Checkpoint, *, delta: float | None = None) -> Judge:
    """The judge in file ``path``, checked against ``target``; ``delta`` replaces the file's threshold.

    Raises CheckpointError: not a judge, no polarity, pickled, of another width or another target, damaged.
    """
    path = Path(path)
    if path.suffix in (*PICKLES, ".pickle", ".joblib"):
        raise CheckpointError(pickle_refusal(path).replace("checkpoint", "judge", 1))
    if not path.is_file():
        raise CheckpointError(found_wanted(f"judge {path}", "missing", "a .safetensors or .npz file", "check the path"))
    arrays, notes = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    return _judge(path, arrays, notes, target, delta)


def save_judge(path: Path, judge: Judge, target: Checkpoint) -> None:
    """Write ``judge`` of ``target`` to ``path``, a safetensors file."""
    tensors = {n: np.asarray(getattr(judge, n), np.float32) for n in _VECTORS} | {
        "bias": np.array([judge.bias], np.float32)
    }
    notes = {
        "polarity": judge.polarity,
        "layer": judge.layer,
        "delta": repr(float(judge.delta)),
        "target": target.name,
        "target_sha256": target.sha256(),
        **judge.notes,
    }
    write_safetensors(path, tensors, {NOTE + name: value for name, value in notes.items()})


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    file = SafetensorsFile(path)
    for name in (*_VECTORS, "bias"):
        if name not in file.names():
            raise _bad(path, f"tensor {name}", "missing", "weight, bias, mean and scale", "give a judge's file")
    arrays = {n: file.read(n).astype(np.float32) for n in (*_VECTORS, "bias")}
    return arrays, {n[len(NOTE) :]: v for n, v in file.metadata.items() if n.startswith(NOTE)}


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _bad(
            path,
            "content",
            f"unreadable ({error})",
            "plain arrays",
            "save coef_, intercept_, mean_, scale_ by numpy.savez",
        ) from error
    arrays = {}
    for name, ours in _SKLEARN.items():
        if name not in found:
            raise _bad(path, f"array {name}", "missing", ", ".join(_SKLEARN), "save all of them by numpy.savez")
        if found[name].dtype.kind not in "fiu":
            raise _bad(path, f"dtype of {name}", found[name].dtype, "numbers", "save the fitted arrays")
        arrays[ours] = found[name].astype(np.float32).reshape(-1)
    return arrays, {n: str(found[n]) for n in _FIELDS if n in found}


def _judge(
    path: Path, arrays: dict[str, np.ndarray], notes: dict[str, str], target: Checkpoint, delta: float | None
) -> Judge:
    from ...models.judge import POLARITIES, POST_NORM, Judge

    width = target.config.hidden_size
    for name, array in arrays.items():
        wanted = (1,) if name == "bias" else (width,)
        if array.shape != wanted:
            raise _bad(
                path,
                f"shape of {name}",
                list(array.shape),
                f"{list(wanted)} by the target",
                "use the target it was trained on",
            )
        if not np.isfinite(array).all():
            raise _bad(path, f"tensor {name}", "not finite", "finite numbers", "train the judge again")
    if not (arrays["scale"] > 0).all():
        raise _bad(path, "scale", float(arrays["scale"].min()), "numbers above 0", "leave out constant features")
    polarity, layer = notes.get("polarity"), notes.get("layer", POST_NORM)
    if polarity not in POLARITIES:
        raise _bad(
            path,
            "polarity",
            repr(polarity) if polarity else "not in the file",
            " or ".join(POLARITIES),
            "say whether its probability means a good token or an important mismatch; the wrong one accepts all mistakes",
        )
    if layer != POST_NORM:
        raise _bad(path, "layer", repr(layer), POST_NORM, "train on the state after the last norm")
    trained_on = notes.get("target_sha256", "")
    if trained_on and trained_on != target.sha256():
        raise _bad(
            path,
            "target",
            f"{notes.get('target', 'another')} ({trained_on[:12]})",
            f"{target.name} ({target.sha256()[:12]})",
            "use the checkpoint it was trained on",
        )
    return Judge(
        arrays["weight"],
        float(arrays["bias"][0]),
        arrays["mean"],
        arrays["scale"],
        polarity,
        _threshold(path, notes, delta),
        layer,
        trained_on,
        {n: v for n, v in notes.items() if n not in (*_FIELDS, "target")},
    )


def _threshold(path: Path, notes: dict[str, str], given: float | None) -> float:
    try:
        value = float(notes.get("delta", 0.5)) if given is None else float(given)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        found: Any = notes.get("delta") if given is None else given
        raise _bad(path, "delta", found, "0 to 1", "give --delta")
    return value


def _bad(path: Path, what: str, found: object, wanted: object, fix: str) -> CheckpointError:
    return CheckpointError(found_wanted(f"{what} of judge {path}", found, wanted, fix))
