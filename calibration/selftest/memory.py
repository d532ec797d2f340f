"""Device memory by libcudart through ctypes: no further package is needed on a board. Untested on GPU."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, found_wanted

_TO_DEVICE, _TO_HOST = 1, 2
"""cudaMemcpyHostToDevice and cudaMemcpyDeviceToHost."""

_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")


class DeviceMemory:
    """Copies of arrays on the device, freed together. A context manager."""

    def __init__(self) -> None:
        self._cuda = _load()
        self._pointers: list[ctypes.c_void_p] = []

    def __enter__(self) -> DeviceMemory:
        return self

    def __exit__(self, *_: object) -> None:
        for pointer in self._pointers:
            self._cuda.cudaFree(pointer)

    def put(self, array: np.ndarray) -> int:
        """Copy ``array`` to the device; returns the address. Empty arrays get one byte: TensorRT wants an address."""
        pointer = ctypes.c_void_p()
        self._check(self._cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(max(array.nbytes, 1))), "cudaMalloc")
        self._pointers.append(pointer)
        source = np.ascontiguousarray(array)
        self._copy(pointer.value or 0, source.ctypes.data, source.nbytes, _TO_DEVICE)
        return pointer.value or 0

    def get(self, address: int, like: np.ndarray) -> np.ndarray:
        """The device's array at ``address``, of the shape and dtype of ``like``."""
        result = np.empty_like(like)
        self._check(self._cuda.cudaDeviceSynchronize(), "the kernel")
        self._copy(result.ctypes.data, address, result.nbytes, _TO_HOST)
        return result

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        if size:
            arguments = (ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), kind)
            self._check(self._cuda.cudaMemcpy(*arguments), "cudaMemcpy")

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status:
            raise RuntimeError(f"status of {what} is {status}, expected 0; see cudaError_t")


def _load() -> Any:
    names = [os.environ["FARTHING_CUDART"]] if os.environ.get("FARTHING_CUDART") else _NAMES
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reason = error
    raise MissingDependencyError(
        found_wanted("CUDA's runtime", f"not found ({reason})", names[-1], "install CUDA, or set FARTHING_CUDART")
    )
