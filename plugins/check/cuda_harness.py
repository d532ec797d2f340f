"""The CUDA kernels run on the CPU: launch.cu and kernel.cuh compiled by the C++ compiler (plugins/cuda/harness).

Each row runs four times: inputs as they are and with float32 as float16, each with the threads of a block in both orders. Both
orders must give the same bits, or a barrier is missing. Outputs stand between guard elements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .. import operator
from ..case import Case
from .face import Face, Mismatch, Skip, compare, halved, must_refuse, output_dtypes, wanted
from .native import build_folder, missing

TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "int64": 4, "bool": 5}
"""Numbers of ``farthing::cuda::Type``."""

GUARD = 64
"""Elements before and after each output that must stay as they are."""

KERNEL_TOLERANCE = 1e-5
"""For float32, relative to the largest wanted value; a row's own tolerance applies where it is wider than the usual 2e-5."""


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("present", ctypes.c_int64),
        ("dims", ctypes.c_int64 * 8),
    ]


class _Attribute(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("integer", ctypes.c_int64),
        ("real", ctypes.c_float),
        ("text", ctypes.c_char_p),
    ]


class Refusal(Exception):
    """What the operator's device half says of bad input."""


class Forbidden(Exception):
    """Types that launch.cu does not take."""


def _tensor(array: np.ndarray | None) -> _Tensor:
    if array is None:
        return _Tensor()
    dims = (ctypes.c_int64 * 8)(*array.shape)
    return _Tensor(array.ctypes.data, TYPES[str(array.dtype)], array.ndim, 1, dims)


class _Guarded:
    """An output array between guard elements."""

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        count = int(np.prod(shape))
        self.whole = np.frombuffer(
            bytearray(b"\xa5" * ((count + 2 * GUARD) * np.dtype(dtype).itemsize)), np.dtype(dtype)
        )
        self.array = self.whole[GUARD : GUARD + count].reshape(shape)

    def check(self, name: str) -> None:
        edge = np.concatenate([self.whole[:GUARD], self.whole[self.whole.size - GUARD :]])
        if set(edge.tobytes()) != {0xA5}:
            raise Mismatch(f"{name} is written outside its bounds")


class CudaHarness(Face):
    """CUDA kernels on the CPU."""

    name = "cuda_harness"
    doc = "CUDA kernel run on the CPU, thread by thread, float32 and float16; the same source that nvcc compiles"
    files = ("kernel.cuh", "launch.cu")

    def unavailable(self) -> str | None:
        """The library is part of the ladder's build."""
        return missing(build_folder() / "libfarthing_cuda_harness.so")

    @cached_property
    def _library(self) -> Any:
        return ctypes.CDLL(str(build_folder() / "libfarthing_cuda_harness.so"))

    def run(self, case: Case) -> None:
        """float32 (or as the case says), then float16, each in both orders of threads."""
        if case.refuses is not None:
            if case.stage == "values":
                raise Skip("a device kernel cannot refuse values: it has nobody to tell")
            must_refuse(case, lambda: self._call(case, case.inputs, self._shapes_or_guess(case), False))
            return
        half_given = any(a is not None and str(a.dtype) == "float16" for a in case.inputs)
        limit = case.tolerance if case.tolerance > 2e-5 else KERNEL_TOLERANCE
        stored_half = half_given and any(d == "float16" for d in output_dtypes(case).values())
        self._compare(case, case.inputs, max(limit, case.half_tolerance or 0) if stored_half else limit)
        if case.half_tolerance is not None:
            halves = halved(case)
            pairs = [(a, b) for a, b in zip(case.inputs, halves, strict=True) if a is not None and b is not None]
            if any(a.dtype.kind == "f" and not np.array_equal(np.isfinite(a), np.isfinite(b)) for a, b in pairs):
                return  # a number of the case has no float16
            try:
                self._compare(case, halves, case.half_tolerance)
            except Forbidden:
                return

    def _compare(self, case: Case, inputs: Sequence[np.ndarray | None], tolerance: float) -> None:
        want = wanted(case, inputs)
        shapes = {n: a.shape for n, a in want.items()}
        got = self._call(case, inputs, shapes, False)
        compare(got, want, tolerance)
        again = self._call(case, inputs, shapes, True)
        for name in want:
            if got[name].tobytes() != again[name].tobytes():
                raise Mismatch(f"{name} depends on the order of threads, expected the same bits; a barrier is missing")
        if any(p.alias for p in operator(case.operator).outputs):
            compare(self._call(case, inputs, shapes, False, in_place=True), want, tolerance)

    def _shapes_or_guess(self, case: Case) -> dict[str, tuple[int, ...]]:
        return {p.name: (1,) * len(p.shape) for p in operator(case.operator).outputs}

    def _call(
        self,
        case: Case,
        inputs: Sequence[np.ndarray | None],
        shapes: dict[str, tuple[int, ...]],
        backward: bool,
        in_place: bool = False,
    ) -> dict[str, np.ndarray]:
        contract = operator(case.operator)
        given = [None if a is None else np.ascontiguousarray(a) for a in inputs]
        dtypes = output_dtypes(case, given)
        held = {p.name: _Guarded(shapes[p.name], dtypes[p.name]) for p in contract.outputs if p.name in shapes}
        if in_place:
            # The shared buffer is the guarded output, which starts as the input.
            for port in contract.outputs:
                at = next((i for i, p in enumerate(contract.inputs) if p.name == port.alias), None)
                if at is not None and at < len(given) and given[at] is not None:
                    held[port.name].array[...] = given[at]
                    given[at] = held[port.name].array
        given += [None] * (len(contract.inputs) - len(given))
        ins = (_Tensor * len(given))(*[_tensor(a) for a in given])
        outs = (_Tensor * len(contract.outputs))(
            *[_tensor(held[p.name].array if p.name in held else None) for p in contract.outputs]
        )
        kinds = {a.name: a.kind for a in contract.attributes}
        attributes = (_Attribute * max(1, len(case.attributes)))(
            *[_attribute(n, kinds[n], v) for n, v in case.attributes.items()]
        )
        forbidden = ctypes.c_int()
        message = ctypes.create_string_buffer(1024)
        failed = self._library.farthing_harness_run(
            case.operator.encode(), ins, len(given), outs, len(outs), attributes, len(case.attributes), int(backward),
            ctypes.byref(forbidden), message, ctypes.c_size_t(len(message)),
        )  # fmt: skip
        if failed:
            raise (Forbidden if forbidden.value else Refusal)(message.value.decode())
        for name, output in held.items():
            output.check(name)
        return {name: output.array for name, output in held.items()}


def _attribute(name: str, kind: str, value: Any) -> _Attribute:
    if kind == "string":
        return _Attribute(name.encode(), 2, 0, 0.0, value.encode())
    if kind == "float":
        return _Attribute(name.encode(), 1, 0, value, b"")
    return _Attribute(name.encode(), 0, value, 0.0, b"")
