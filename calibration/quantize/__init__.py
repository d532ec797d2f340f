"""Quantisation: a bundle with float weights becomes one with int4 or int8 weights and explicit DequantizeLinear nodes.

>>> from farthing.calibration.quantize import Options, quantize          # doctest: +SKIP
>>> quantize("smollm2", "smollm2-int4", Options(weights="int4"))         # doctest: +SKIP
"""

from __future__ import annotations

from .options import Options
from .run import QuantizeResult, quantize

__all__ = ["Options", "QuantizeResult", "quantize"]
