"""Exporting vision-language models: one writer for all methods, and what a method adds to it (`reduction.Reduction`)."""

from __future__ import annotations

from .reduction import Level, Reduction
from .run import export_visual

__all__ = ["Level", "Reduction", "export_visual"]
