"""Weights in 4 or 8 bits for networks that are run once per input; activations stay float32.

>>> from farthing.calibration.network_int4 import WeightOptions, quantize_weights     # doctest: +SKIP
>>> quantize_weights("minilm", "minilm-int4", WeightOptions())                        # doctest: +SKIP
"""

from __future__ import annotations

from .options import ROUNDINGS, WeightOptions
from .run import WeightResult, quantize_weights

__all__ = ["ROUNDINGS", "WeightOptions", "WeightResult", "quantize_weights"]
