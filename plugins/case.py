"""One row of the parity table: what is fed to every face of an operator, and how near the result must be.

Each operator keeps its rows beside it, in ``plugins/<operator>/cases.py``, a function ``cases()``. This module and those
import numpy only, so that the table can be read where neither torch nor onnx is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HALF_TOLERANCE = 2e-3
"""Bound for faces that read and write float16: its unit roundoff is 2^-11 = 4.9e-4, and inputs and outputs are rounded."""

STAGES = ("attributes", "shapes", "values")
"""The moments at which bad input can be seen: when a node is made, when shapes are known, when the data is there."""


@dataclass(frozen=True)
class Case:
    """One row. Floating-point outputs are compared after division by max(1, max |wanted|); all others must be equal.

    Args:
        operator: ONNX name.
        name: unique within the operator; ``operator-name`` is the id of the row.
        inputs: arrays in the operator's order; None for an optional input that is absent, trailing ones may be left out.
        attributes: of the node, all that have no default.
        outputs: names of the outputs that are asked for; None for all.
        tolerance: bound for float32 faces against the reference in float64.
        half_tolerance: bound where float inputs and outputs are float16 and arithmetic is float32; None when rounding the
            inputs changes the question (then ``half_reason`` says why).
        refuses: every face must refuse the input with a message that contains this text (or one of these texts, where
            faces rightly blame either of two tensors). Outputs are then not compared.
        stage: for ``refuses``: the moment at which the fault can be seen, one of STAGES.
        skips: face -> the reason why this row cannot run on it.
        constants: names of inputs that are initializers of graphs, as weights are.
        nibbles: (name, int4 or uint4) of those constants, int8 or uint8 here, that graphs store in 4 bits.
    """

    operator: str
    name: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    tolerance: float = 2e-5
    half_tolerance: float | None = HALF_TOLERANCE
    half_reason: str = ""
    refuses: str | tuple[str, ...] | None = None
    stage: str = "shapes"
    skips: Mapping[str, str] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    nibbles: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(
                f"stage of {self} is {self.stage!r}, expected one of {', '.join(STAGES)}; correct the case"
            )
        if self.half_tolerance is None and not self.half_reason:
            raise ValueError(f"half_reason of {self} is empty, expected a reason; say why float16 is not compared")

    def __str__(self) -> str:
        return f"{self.operator}-{self.name}"


def floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers of this shape."""
    return (rng.standard_normal(shape) * scale).astype(np.float32)
