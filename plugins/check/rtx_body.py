"""The bodies built by TensorRT-RTX for compute capabilities 8.6, 8.9 and 12.0, in a process and an environment of its own.

Bodies with Attention are built in float16: for more than one row TensorRT-RTX 1.7 has no Attention in float32 (`farthing compile`
decomposes it there). An engine file proves that the graph is legal, typed and shaped as TensorRT wants it; nothing is run. One row of each kind is built
(same inputs, dtypes and string attributes, same integer attributes being zero), the largest: others differ in numbers alone,
and TensorRT has no attention for heads of 8 or 10 features.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import operator
from ..case import Case
from .face import Face, Mismatch, Skip, halved
from .native import ladder_folder

DYNAMIC = ("...", "B", "S")
"""Symbols whose sizes are dynamic in an engine: batch and rows. TensorRT wants heads, features and capacity fixed."""

TIMEOUT = 240
"""Seconds for all engines; one takes a tenth of a second to a second on one core."""


class RtxBody(Face):
    """Bodies in TensorRT-RTX."""

    name = "rtx_body"
    doc = "body built into an engine by TensorRT-RTX for SM 86, 89 and 120 (not run)"

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}

    @staticmethod
    def _python() -> Path:
        return ladder_folder() / "bin" / "python"

    def unavailable(self) -> str | None:
        """Needs the environment that `make ladder` makes."""
        return None if self._python().is_file() else "tensorrt-rtx is not installed (make ladder)"

    def prepare(self, cases: Sequence[Case]) -> None:
        """Write one model of each kind and build them all in one process."""
        largest: dict[tuple, Case] = {}
        for case in cases:
            if case.refuses is None and self.name not in case.skips:
                known = largest.setdefault(_kind(case), case)
                if _bytes(case) > _bytes(known):
                    largest[_kind(case)] = case
        chosen = list(largest.values())
        with tempfile.TemporaryDirectory() as folder:
            for i, case in enumerate(chosen):
                _write(case, Path(folder) / f"{i:04}")
            done = subprocess.run(
                [str(self._python()), "-I", str(Path(__file__).with_name("rtx_builder.py")), folder],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        for line in done.stdout.splitlines():
            answer = json.loads(line)
            self.answers[id(chosen[int(answer["file"])])] = answer
        for case in chosen[len(self.answers) :]:
            # The library ends the process on some graphs; those behind it were not reached.
            message = f"builder ended with {done.returncode}: {done.stderr.strip()[-300:]}"
            self.answers[id(case)] = {"ok": False, "message": message}

    def run(self, case: Case) -> None:
        """What was built of this row."""
        if case.refuses is not None:
            raise Skip("an engine is built of good graphs only")
        if id(case) not in self.answers:
            raise Skip("same graph as a row that is built, but for numbers")
        answer = self.answers[id(case)]
        if not answer["ok"]:
            raise Mismatch(answer["message"])


def _kind(case: Case) -> tuple:
    inputs = tuple(None if a is None else (str(a.dtype), a.ndim) for a in case.inputs)
    attributes = tuple(
        (name, value if isinstance(value, str) else value == 0) for name, value in sorted(case.attributes.items())
    )
    return case.operator, inputs, attributes, case.outputs


def _bytes(case: Case) -> int:
    return sum(a.nbytes for a in case.inputs if a is not None)


def _write(case: Case, stem: Path) -> None:
    """The model with dynamic sizes, and beside it the profile: one row up to the sizes of the case."""
    import onnx.inliner

    from .graph import model

    proto = model(case, dynamic=DYNAMIC)
    if any(node.op_type == "Attention" for function in proto.functions for node in function.node):
        proto = model(replace(case, inputs=halved(case)), dynamic=DYNAMIC)
    given = [a is not None for a in case.inputs]
    if given != sorted(given, reverse=True):
        # The parser refuses a call of a function with a hole among its inputs; inlined, the hole is gone.
        proto = onnx.inliner.inline_local_functions(proto)
    ranges = {}
    for port in proto.graph.input:
        sizes = port.type.tensor_type.shape.dim
        array = next(
            a
            for p, a in zip(operator(case.operator).inputs, case.inputs, strict=False)
            if p.name == port.name and a is not None
        )
        most = list(array.shape)
        least = [1 if d.dim_param else n for d, n in zip(sizes, most, strict=True)]
        if most:
            ranges[port.name] = [least, most, most]
    stem.with_suffix(".onnx").write_bytes(proto.SerializeToString())
    stem.with_suffix(".json").write_text(json.dumps(ranges), encoding="utf-8")
