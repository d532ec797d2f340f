"""Lowering: the same graph for an older or newer TensorRT.

    lowered = lower(model, "10.3")                       # what JetPack 6.2 reads
    lowered = lower(model, "10.16", plugins={"Linear"})  # our plugin there, bodies elsewhere

Graphs are written once, in opset 24. What a TensorRT generation cannot read is decomposed here, node by node.
"""

from __future__ import annotations

from .generations import GENERATIONS, Generation, generation
from .pin import pin
from .run import lower

__all__ = ["GENERATIONS", "Generation", "generation", "lower", "pin"]
