"""The front door for what others exported: a plain ONNX file becomes a bundle, the weights beside the graph, the answers recorded.

A network that is run once per input keeps its graph (`run.py`, `build.py`); a decoder with past gives up its weights (`roles.py`,
`decoder_checkpoint.py`) to our own step graph (`decoder.py`), which is compared with the original (`original.py`).
"""

from __future__ import annotations

from .build import write_network
from .decoder import import_decoder, verify_decoder_against_onnx
from .decoder_checkpoint import OnnxCheckpoint
from .read import Source, read_onnx
from .result import ImportResult
from .run import import_onnx, verify_against_onnx

__all__ = [
    "ImportResult",
    "OnnxCheckpoint",
    "Source",
    "import_decoder",
    "import_onnx",
    "read_onnx",
    "verify_against_onnx",
    "verify_decoder_against_onnx",
    "write_network",
]
