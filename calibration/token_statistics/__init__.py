"""The language of visual tokens: statistics of a stream of image codes, and what they say about decoding it (Chan et al. 2024, arXiv 2411.05001).

Needs numpy and tokenizers; neither torch nor onnx. Codes of pictures need onnxruntime and Pillow, plots matplotlib, attention torch.
"""

from __future__ import annotations

from ...runtime.code_storage import pack_codes, unpack_codes
from .recommend import Recommendation, recommend
from .report import Analysis, analyze_tokens
from .stream import Stream, read_codes, stream_of

__all__ = [
    "Analysis",
    "Recommendation",
    "Stream",
    "analyze_tokens",
    "pack_codes",
    "read_codes",
    "recommend",
    "stream_of",
    "unpack_codes",
]
