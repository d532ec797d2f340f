"""What a sequence keeps between the passes of the portable engine: a key/value cache, or a recurrent state of constant size."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from . import tensors as names
from .cache_dtype import empty_cache


class Memory(Protocol):
    """Buffers that a pass reads and writes, and the way back."""

    def bind(self, binding: Any, rows: int) -> None:
        """Bind inputs and outputs for a pass of ``rows`` rows."""

    def ran(self, start: int, rows: int) -> None:
        """A pass took tokens ``start`` to ``start + rows``."""

    def rewind(self, length: int) -> int:
        """Go back to ``length`` tokens; returns the token from which the caller must run again (``length`` if from none)."""

    def parts(self, length: int) -> list[np.ndarray]:
        """What a saved file holds for ``length`` tokens, as views."""

    def loaded(self, length: int) -> None:
        """`parts` were overwritten by a saved file's."""


def memory_of(manifest: dict[str, Any], capacity: int, chunk: int) -> Memory:
    """The memory that the graph of this manifest carries. ``capacity`` in tokens, ``chunk`` rows a pass at most."""
    return StateMemory(manifest["state"], chunk) if "state" in manifest else KvMemory(manifest["kv"], capacity)


class KvMemory:
    """Keys and values of all layers, [Hkv,C,dh] each in the dtype of the manifest, written in place. Going back is free: slots are overwritten later."""

    def __init__(self, kv: dict[str, Any], capacity: int) -> None:
        self._caches = [empty_cache(kv, capacity)[0] for _ in range(2 * kv["layers"])]

    def bind(self, binding: Any, rows: int) -> None:
        """The same buffer as input and output."""
        for i, cache in enumerate(self._caches):
            past, present = ((names.PAST_K, names.PRESENT_K), (names.PAST_V, names.PRESENT_V))[i % 2]
            place = ("cpu", 0, cache.dtype, (1, *cache.shape), cache.ctypes.data)
            binding.bind_input(past.format(i // 2), *place)
            binding.bind_output(present.format(i // 2), *place)

    def ran(self, start: int, rows: int) -> None:
        """Nothing to do: the rows are in the cache."""

    def rewind(self, length: int) -> int:
        """Nothing has to run again."""
        return length

    def parts(self, length: int) -> list[np.ndarray]:
        """Keys, values of layer 0, 1, ...: [Hkv,length,dh] as they are cached."""
        return [cache[:, :length] for cache in self._caches]

    def loaded(self, length: int) -> None:
        """Nothing to do."""


class StateMemory:
    """The last ``rows`` rows of every layer, float32 [rows,width], and the window of the last pass, which is the way back inside it.

    Farther back the state follows from the last ``layers * rows`` tokens alone: a row of layer l depends on l * rows rows before it.
    """

    def __init__(self, state: dict[str, Any], chunk: int) -> None:
        self._rows, self._width = state["rows"], state["width"]
        layers = state["layers"]
        self._replay = layers * self._rows
        self._states = [np.zeros((self._rows, self._width), np.float32) for _ in range(layers)]
        self._windows = [np.zeros((self._rows + chunk, self._width), np.float32) for _ in range(layers)]
        self._start = self._ran = 0

    def bind(self, binding: Any, rows: int) -> None:
        """State in, window out: two buffers, since the graph reads one while it writes the other."""
        for i, (state, window) in enumerate(zip(self._states, self._windows, strict=True)):
            shapes = (1, *state.shape), (1, self._rows + rows, self._width)
            binding.bind_input(names.CONV_STATE.format(i), "cpu", 0, np.float32, shapes[0], state.ctypes.data)
            binding.bind_output(names.CONV_WINDOW.format(i), "cpu", 0, np.float32, shapes[1], window.ctypes.data)

    def ran(self, start: int, rows: int) -> None:
        """The state becomes the end of the window."""
        self._start, self._ran = start, rows
        self._take(rows)

    def rewind(self, length: int) -> int:
        """Inside the last pass: rows of its window. Else from zeros, and the caller runs the last layers * rows tokens again."""
        if self._start <= length <= self._start + self._ran and self._ran:
            self._take(length - self._start)
            return length
        self._ran = 0
        for state in self._states:
            state[:] = 0
        return max(0, length - self._replay)

    def parts(self, length: int) -> list[np.ndarray]:
        """The states, float32 [rows,width] per layer, whatever the length."""
        return self._states

    def loaded(self, length: int) -> None:
        """The window belongs to another sequence."""
        self._start, self._ran = length, 0

    def _take(self, accepted: int) -> None:
        for state, window in zip(self._states, self._windows, strict=True):
            state[:] = window[accepted : accepted + self._rows]
