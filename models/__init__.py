"""PyTorch reference models, one file per method, built from shared blocks. `config` itself needs no torch."""

from __future__ import annotations

from .config import DecoderConfig, Rope, expected_tensors

__all__ = ["DecoderConfig", "Rope", "expected_tensors"]
