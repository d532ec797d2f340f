"""The front door for what others exported: a plain ONNX file becomes a bundle, the weights beside the graph, the answers recorded."""

from __future__ import annotations

from .build import write_network
from .read import Source, read_onnx
from .run import ImportResult, import_onnx, verify_against_onnx

__all__ = ["ImportResult", "Source", "import_onnx", "read_onnx", "verify_against_onnx", "write_network"]
