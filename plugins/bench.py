"""One row of the speed table: an operator at a size that models use, and the least work it could do there.

Each operator keeps its rows beside it, in ``plugins/<operator>/bench.py``, a function ``rows()``. `benchmarks/operators.py` finds
them and times body and kernel. numpy only, like `case`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Bench:
    """One row.

    Args:
        operator: ONNX name.
        name: the size in words, unique within the operator.
        inputs: arrays in the operator's order; None for an optional input that is absent.
        flops: multiplications and additions that the result needs at least (a fused multiply-add is 2).
        bytes: what must at least be read and written, if nothing is in a cache.
        attributes: of the node.
        constants: names of inputs that are initializers of the graph, as weights are. Outputs that have an alias in the contract
            are bound to that input's buffer, as the runtime does with a KV cache.
        nibbles: (name, int4 or uint4) of constants, int8 or uint8 here, that the graph stores in 4 bits.
        least: how many times faster than the body the kernel must be; the benchmark fails below.
        note: said under the table.
    """

    operator: str
    name: str
    inputs: list[np.ndarray | None]
    flops: float
    bytes: float
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    nibbles: tuple[tuple[str, str], ...] = ()
    least: float = 1.0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.operator} {self.name}"
