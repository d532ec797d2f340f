"""farthing: compile token-efficient models to ONNX bundles and run them on small devices."""

from __future__ import annotations

__version__ = "0.1.0"
