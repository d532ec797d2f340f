"""Recorded calls of the graphs that stand beside a step: inputs by recipes, so that a file of vectors stays small, and some outputs.

Whole numbers must be equal, but for an encoder's codes: where two codes are about as near to a latent, another machine may take the
other, so one of 16 may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import BundleError, found_wanted
from .bundle import Bundle
from .drawing.uniforms import uniforms
from .image_tensors import VQ_ENCODE

DIFFERENT = 1 / 16
"""Largest part of an encoder's codes that may differ."""


def made_input(spec: dict[str, Any]) -> np.ndarray:
    """The array of a recipe: ``shape`` and one of ``values`` (with ``dtype``), ``uniform`` [seed, low, high], ``whole`` [seed, below],
    ``peaked`` seed (rows of unlike probabilities) or ``zeros``. Raises KeyError, ValueError, TypeError for one that is none.
    """
    shape = tuple(int(n) for n in spec["shape"])
    size = int(np.prod(shape))
    if "values" in spec:
        return np.array(spec["values"], spec["dtype"]).reshape(shape)
    if "zeros" in spec:
        return np.zeros(shape, np.float32)
    if "uniform" in spec:
        seed, low, high = spec["uniform"]
        return (low + (high - low) * uniforms(seed, 0, size)).astype(np.float32).reshape(shape)
    if "whole" in spec:
        seed, below = spec["whole"]
        return np.floor(uniforms(seed, 0, size).astype(np.float64) * below).astype(np.int64).reshape(shape)
    weights = uniforms(spec["peaked"], 0, size).astype(np.float64).reshape(shape) ** 8
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]


def calls_failure(bundle: Bundle, recorded: Any, opened: Callable[[str], Any], tolerance: float) -> str | None:
    """The house sentence about the first of the ``recorded`` calls that gives something else, or None.

    ``opened`` gives the session of a graph by name. Raises BundleError for a call that cannot be made.
    """
    for call in recorded:
        try:
            name, outputs = call["graph"], list(call["outputs"])
            feeds = {n: made_input(s) for n, s in call["inputs"].items()}
            made = opened(name).run(outputs, feeds)
            for output, found in zip(outputs, made, strict=True):
                sentence = _failure(name, output, found, call["outputs"][output], tolerance)
                if sentence:
                    return sentence
        except BundleError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise BundleError(
                found_wanted(
                    f"recorded call in {bundle.path / bundle.manifest['vectors']}",
                    f"unusable ({str(error)[:200]})",
                    "inputs that its graph takes",
                    "export the bundle again",
                )
            ) from error
    return None


def _failure(graph: str, output: str, found: np.ndarray, recorded: dict[str, Any], tolerance: float) -> str | None:
    fix = "see docs/verify.md for what may cause it"
    if list(found.shape) != recorded["shape"]:
        return found_wanted(f"shape of {output} of graph {graph}", list(found.shape), recorded["shape"], fix)
    flat = found.reshape(-1)
    values = np.array(recorded["values"], found.dtype)
    taken = flat[np.array(recorded["ids"], np.int64)]
    if found.dtype == np.int64:
        different = int((taken != values).sum())
        allowed = int(DIFFERENT * values.size) if graph == VQ_ENCODE else 0
        if different > allowed:
            wanted = f"at most {allowed} of {values.size}"
            return found_wanted(
                f"values of {output} of graph {graph} that are not the recorded ones", different, wanted, fix
            )
        return None
    allowed_error = tolerance * max(1.0, float(np.abs(values).max()))
    error = float(np.nan_to_num(np.abs(taken - values).max(), nan=np.inf))
    l2_error = float(np.nan_to_num(abs(np.linalg.norm(flat.astype(np.float64)) - recorded["l2"]), nan=np.inf))
    for what, wrong, bound in (
        (output, error, allowed_error),
        (f"the norm of {output}", l2_error, allowed_error * flat.size**0.5),
    ):
        if not wrong <= bound:
            return found_wanted(
                f"difference of {what} of graph {graph} from the recorded", f"{wrong:.3g}", f"at most {bound:.3g}", fix
            )
    return None
