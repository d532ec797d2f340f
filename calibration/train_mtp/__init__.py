"""Training masks, gated adapters and sampler head for a frozen decoder (Samragh et al. 2025, arXiv 2507.11851).

>>> from farthing.calibration.train_mtp import Options, train                                  # doctest: +SKIP
>>> train("SmolLM2-135M-Instruct.Q4_1.gguf", ["book.txt"], "mtp.safetensors", Options())       # doctest: +SKIP
"""

from __future__ import annotations

from .options import Options
from .run import TrainResult, train

__all__ = ["Options", "TrainResult", "train"]
