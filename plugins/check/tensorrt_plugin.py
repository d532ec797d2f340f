"""The TensorRT plugins, as far as they go without a device: a C++ program (plugins/tensorrt/driver) loads the library into the
registry of each TensorRT that is there, makes a plugin per row, and asks for types, shapes, formats, clones and serialised fields.

``enqueue`` needs a device and is untested on GPU; what it launches is what the face cuda_harness runs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .. import folders, operator
from ..case import Case
from .face import Face, Mismatch, Skip, wanted
from .native import build_folder, ladder_folder, missing

TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "bool": 4, "int64": 8}
"""Numbers of ``nvinfer1::DataType``."""

TIMEOUT = 120
"""Seconds for all rows in one registry: they take about one."""


def registries() -> list[Path]:
    """The libraries with a plugin registry: tensorrt-lean's, one per generation of TensorRT."""
    return sorted(ladder_folder().glob("**/libnvinfer_lean.so.*"))


class TensorrtPlugin(Face):
    """Plugins in NVIDIA's registry."""

    name = "tensorrt_plugin"
    doc = (
        "TensorRT plugin: registered, created, asked for types, shapes, formats, serialisation; enqueue untested on GPU"
    )
    files = ("launch.cu",)

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[str, str]]] = {}

    def unavailable(self) -> str | None:
        """Needs nvcc, TensorRT's headers and a registry; `make ladder` gets the last two."""
        for file in ("libfarthing_tensorrt.so", "farthing_tensorrt_driver"):
            if reason := missing(build_folder() / file):
                return reason
        return None if registries() else "tensorrt-lean is not installed (make ladder)"

    def prepare(self, cases: Sequence[Case]) -> None:
        """Ask all rows in one process per registry."""
        text = "".join(self._row(case, half) for case in cases if self._absent(case) is None for half in (False, True))
        build = build_folder()
        for library in registries():
            command = [str(build / "farthing_tensorrt_driver"), str(library), str(build / "libfarthing_tensorrt.so")]
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
            version, *lines = done.stdout.splitlines() or [""]
            if done.returncode or not version.startswith("registry "):
                raise RuntimeError(f"{library.name}: driver ended with {done.returncode}: {done.stderr[-500:]}")
            for line in lines:
                row, _, answer = line.partition(" ")
                self.answers.setdefault(row, []).append((f"TensorRT {version.split()[1]}", answer))

    def run(self, case: Case) -> None:
        """What every registry answered, for float32 and float16."""
        if reason := self._absent(case):
            raise Skip(reason)
        if case.refuses is not None and case.stage == "values":
            raise Skip("values are on the device when a plugin runs")
        for half in (False, True):
            answers = self.answers.get(self._name(case, half), [])
            if len(answers) != len(registries()):
                raise Mismatch(f"{len(answers)} answers of {len(registries())} registries, expected one each")
            for version, answer in answers:
                self._judge(case, version, answer, half)

    @staticmethod
    def _judge(case: Case, version: str, answer: str, half: bool) -> None:
        kind, _, text = answer.partition(" ")
        if case.refuses is not None:
            texts = (case.refuses,) if isinstance(case.refuses, str) else case.refuses
            if kind != "refused" or not any(t in text for t in texts):
                raise Mismatch(f"{version}: {answer!r}, expected a refusal with {case.refuses!r}")
        elif kind != "ok":
            # Types that launch.cu leaves out are out; without such a rule every type of the contract has to be taken.
            narrowed = "bool supports(" in (folders()[case.operator] / "launch.cu").read_text(encoding="utf-8")
            if not (half and narrowed and "format of tensor" in text):
                raise Mismatch(f"{version}{' with float16' if half else ''}: {answer}")

    @staticmethod
    def _absent(case: Case) -> str | None:
        given = [a is not None for a in case.inputs]
        if given != sorted(given, reverse=True):
            return "an optional input in the middle is absent: TensorRT leaves out only the last ones"
        return None

    @staticmethod
    def _name(case: Case, half: bool) -> str:
        return f"{case.operator}/{case.name}{'/half' if half else ''}".replace(" ", "_")

    def _row(self, case: Case, half: bool) -> str:
        """The case in the words of driver/cases.h. ``half``: tensors of float32 alone are float16."""
        contract = operator(case.operator)
        arrays = [a for a in case.inputs if a is not None]
        follow = "float16" if half else "float32"
        types: dict[str, str] = {}
        lines = [f"case {self._name(case, half)} {case.operator}"]
        kinds = {a.name: a.kind for a in contract.attributes}
        lines += [f"attribute {kinds[name]} {name} {value}" for name, value in case.attributes.items()]
        seen = False
        for port, array in zip(contract.inputs, arrays, strict=False):
            follows = port.dtypes == ("float32",)
            types[port.name] = follow if follows and str(array.dtype) == "float32" else str(array.dtype)
            first = follows and not seen
            allowed = ("float32", "float16") if first else (types[port.name],) if follows else port.dtypes
            seen |= follows
            lines.append(_tensor("in", types[port.name], allowed, array.shape))
        shapes = {} if case.refuses is not None else {n: a.shape for n, a in wanted(case).items()}
        for port in contract.outputs:
            follows = port.dtypes == ("float32",) and port.like is None
            dtype = types[port.like] if port.like else (follow if seen else "float32") if follows else port.dtypes[0]
            allowed = port.dtypes if len(port.dtypes) > 1 and not port.like else (dtype,)
            lines.append(_tensor("out", dtype, allowed, shapes.get(port.name)))
        names = [p.name for p in contract.inputs]
        lines += [f"alias {i} {names.index(p.alias)}" for i, p in enumerate(contract.outputs) if p.alias]
        return "\n".join([*lines, "end", ""])


def _tensor(side: str, dtype: str, allowed: Sequence[str], shape: Sequence[int] | None) -> str:
    dims = "?" if shape is None else ",".join(map(str, shape)) or "-"
    numbers = ",".join(str(TYPES[d]) for d in allowed)
    return f"tensor {side} {TYPES[dtype]} {numbers} {dims}"
