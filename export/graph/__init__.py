"""Writing ONNX graphs directly, node by node and tensor by tensor."""

from __future__ import annotations

from .decoder import write_decoder
from .writer import GraphWriter, Progress, TensorInfo, no_progress

__all__ = ["GraphWriter", "Progress", "TensorInfo", "no_progress", "write_decoder"]
