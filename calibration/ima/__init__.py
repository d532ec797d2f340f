"""How near images come to text inside a frozen language model, and what their rows can leave out (Shukor and Cord 2024, arXiv 2405.16700).

Runs the PyTorch reference of a checkpoint, one layer in memory at a time.
"""

from __future__ import annotations

from .report import ImaReport, ima_report

__all__ = ["ImaReport", "ima_report"]
