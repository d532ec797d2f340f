"""Exporting image models: one writer for all methods, and what a method adds to it (`method.DrawingMethod`)."""

from __future__ import annotations

from .method import DrawingMethod
from .run import DTYPES, export_drawing

__all__ = ["DTYPES", "DrawingMethod", "export_drawing"]
