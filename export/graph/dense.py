"""Layers of encoders and vision towers in standard operators: matrices with biases, and layer norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .writer import GraphWriter


class DenseLayers:
    """Writes into ``graph`` what ``read`` gives by name, as float32. Matrices are stored [inputs, outputs], as MatMul takes them."""

    def __init__(self, graph: GraphWriter, read: Callable[[str], np.ndarray], epsilon: float) -> None:
        self._graph, self._read, self._epsilon = graph, read, epsilon

    def weight(self, name: str, *parts: np.ndarray) -> str:
        """The initializer ``name``, of ``parts`` side by side."""
        array = np.concatenate([np.asarray(p, np.float32) for p in parts], axis=-1)
        self._graph.weight(name, array.shape, "float32", [array])
        return name

    def dense(self, x: str, out: str, *names: str) -> str:
        """out = x W + b, of the tensors ``names`` side by side."""
        self.weight(f"{out}.weight", *(np.asarray(self._read(f"{n}.weight")).T for n in names))
        self.weight(f"{out}.bias", *(self._read(f"{n}.bias") for n in names))
        self._graph.node("MatMul", [x, f"{out}.weight"], [f"{out}.product"])
        self._graph.node("Add", [f"{out}.product", f"{out}.bias"], [out])
        return out

    def norm(self, x: str, name: str, out: str) -> str:
        """The layer norm ``name`` of x."""
        for kind in ("weight", "bias"):
            self.weight(f"{name}.{kind}", self._read(f"{name}.{kind}"))
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        self._graph.node("LayerNormalization", inputs, [out], axis=-1, epsilon=self._epsilon)
        return out
