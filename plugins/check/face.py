"""What a face is to the table, and how its results are compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import folders, operator
from ..case import Case


class Skip(Exception):
    """Raised by a face that cannot run a row; the text is the reason."""


class Mismatch(AssertionError):
    """A result that is not what the reference says."""


class Face:
    """One column of the table. Subclasses set the names and define `run`."""

    name: ClassVar[str]
    doc: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    """Files that an operator's folder needs for this face."""

    def unavailable(self) -> str | None:
        """Why this face cannot run on this machine at all; None when it can."""
        return None

    def lacks(self, name: str) -> str | None:
        """Why operator ``name`` has no such face; None when it has."""
        missing = [f for f in self.files if not (folders()[name] / f).is_file()]
        installed = any(Path(folders()[name]).glob("*.cc"))
        if missing and installed:
            return f"no {missing[0]} in plugins/{folders()[name].name}"
        return None

    def prepare(self, cases: Sequence[Case]) -> None:
        """Called once with all rows that are to be run, for faces that do them in one process."""

    def run(self, case: Case) -> None:
        """Run one row. Returns when it holds; raises Skip with a reason, or anything else as a failure."""
        raise NotImplementedError


@lru_cache(maxsize=1)  # the faces of one row follow each other
def _wanted(key: _Key) -> dict[str, np.ndarray]:
    import torch

    tensors = [
        None if a is None else torch.from_numpy(a).double() if a.dtype.kind == "f" else torch.from_numpy(a)
        for a in key.inputs
    ]
    return named_outputs(key.case, call_reference(key.case, tensors))


class _Key:
    """A case and its inputs, hashed by identity of the case and dtype of the inputs."""

    def __init__(self, case: Case, inputs: Sequence[np.ndarray | None]) -> None:
        self.case, self.inputs = case, inputs
        self.key = (id(case), tuple(None if a is None else str(a.dtype) for a in inputs))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.key == other.key


def wanted(case: Case, inputs: Sequence[np.ndarray | None] | None = None) -> dict[str, np.ndarray]:
    """Outputs by name as the PyTorch reference computes them in float64: the yardstick, not one more rounding.

    ``inputs`` replaces those of the case, e.g. by the same rounded to float16.
    """
    return _wanted(_Key(case, case.inputs if inputs is None else inputs))


def call_reference(case: Case, tensors: Sequence[Any]) -> Any:
    """The reference on torch tensors; attributes that it takes from shapes instead are left out."""
    import inspect

    reference = operator(case.operator).reference
    known = inspect.signature(reference).parameters
    return reference(*tensors, **{k: v for k, v in case.attributes.items() if k in known})


def named_outputs(case: Case, result: Any) -> dict[str, np.ndarray]:
    """Tensors of a reference as arrays by output name, only those that the case asks for."""
    ports = operator(case.operator).outputs
    tensors = result if isinstance(result, (tuple, list)) else (result,)
    named = {p.name: t.detach().cpu().numpy() for p, t in zip(ports, tensors, strict=True) if t is not None}
    return {n: named[n] for n in (case.outputs or tuple(named))}


def output_dtypes(case: Case, inputs: Sequence[np.ndarray | None] | None = None) -> dict[str, str]:
    """The dtype that the contract gives each wanted output, by the dtypes of the inputs.

    Ports of float32 alone are float16 on a device, all together: outputs of that kind follow the inputs of that kind.
    """
    contract = operator(case.operator)
    arrays = case.inputs if inputs is None else inputs
    pairs = [(p, str(a.dtype)) for p, a in zip(contract.inputs, arrays, strict=False) if a is not None]
    given = {p.name: dtype for p, dtype in pairs}
    follow = next((dtype for p, dtype in pairs if p.dtypes == ("float32",)), "float32")
    return {
        p.name: given[p.like] if p.like else follow if p.dtypes == ("float32",) else p.dtypes[0]
        for p in contract.outputs
        if case.outputs is None or p.name in case.outputs
    }


def halved(case: Case) -> list[np.ndarray | None]:
    """The inputs with those of float32 alone as float16; what is too large becomes infinite."""
    ports = operator(case.operator).inputs
    with np.errstate(over="ignore"):
        return [
            a.astype(np.float16) if a is not None and p.dtypes == ("float32",) else a
            for p, a in zip(ports, case.inputs, strict=False)
        ]


def compare(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Raise Mismatch unless every wanted output is there, in shape, and near enough (integers and bools: equal)."""
    for name, expected in want.items():
        have = got[name]
        if have.shape != expected.shape:
            raise Mismatch(f"shape of {name} is {list(have.shape)}, expected {list(expected.shape)}")
        if expected.dtype.kind != "f":
            wrong = np.flatnonzero(have.ravel() != expected.ravel())
            if wrong.size:
                at, n = int(wrong[0]), wrong.size
                raise Mismatch(
                    f"{name}[{at}] is {have.ravel()[at]}, expected {expected.ravel()[at]} ({n} of {have.size} differ)"
                )
            continue
        limits = np.finfo(have.dtype)
        with np.errstate(over="ignore"):
            expected = expected.astype(have.dtype).astype(np.float64)  # what has no finite value in half is infinite
        finite = np.isfinite(expected)
        size = max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
        same = (have == expected) | (np.isnan(have) & np.isnan(expected))
        near = np.abs(have.astype(np.float64) - np.where(finite, expected, 0.0)) <= tolerance * size
        # The largest number and infinity are neighbours: half a unit of rounding decides between them.
        edge = np.isinf(expected) & (np.abs(have.astype(np.float64)) >= (1 - tolerance) * limits.max)
        wrong = np.flatnonzero(~(same | (near & finite) | edge))
        if wrong.size:
            at, n = int(wrong[0]), wrong.size
            raise Mismatch(
                f"{name}[{at}] is {have.ravel()[at]:.8g}, expected {expected.ravel()[at]:.8g} within {tolerance:g} * {size:.4g} "
                f"({n} of {have.size} differ)"
            )


def must_refuse(case: Case, action: Callable[[], Any]) -> None:
    """Call ``action`` and raise Mismatch unless it raises an error with the text that the case wants."""
    try:
        action()
    except Exception as error:
        texts = (case.refuses,) if isinstance(case.refuses, str) else case.refuses or ()
        if any(text in str(error) for text in texts):
            return
        raise Mismatch(f"refusal is {str(error)[:300]!r}, expected a text with {case.refuses!r}") from error
    raise Mismatch(f"bad input is accepted, expected a refusal with {case.refuses!r}")
