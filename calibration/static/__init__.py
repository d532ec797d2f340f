"""Static int8 for networks that are run once per input: weights and activations, as explicit Q/DQ nodes."""

from __future__ import annotations

from .options import RANGES, StaticOptions
from .run import StaticResult, quantize_network

__all__ = ["RANGES", "StaticOptions", "StaticResult", "quantize_network"]
