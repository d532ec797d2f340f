"""Recorded inputs and outputs of a bundle: made here by running its graph, replayed later by `farthing verify`."""

from __future__ import annotations

from .check import check_against_reference
from .record import Case, Recording, record_decoder

__all__ = ["Case", "Recording", "check_against_reference", "record_decoder"]
