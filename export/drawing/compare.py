"""Comparing graphs with PyTorch before a bundle is committed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import VerificationError, found_wanted

TOLERANCE = 1e-4
"""Largest allowed difference from PyTorch, times the largest value where that exceeds 1: the order of sums only."""

_FIX = "this is a defect of the exporter for this model, please report it; nothing was written"


class Compare:
    """Collects the worst difference. Every method raises VerificationError at the first that is too large."""

    def __init__(self) -> None:
        self.worst, self.allowed, self.rows = 0.0, TOLERANCE, 0

    def close(self, what: str, found: np.ndarray, wanted: np.ndarray, rows: int = 0) -> None:
        """Values float32 of equal shape; ``rows`` counts rows of logits."""
        if found.shape != wanted.shape:
            raise VerificationError(found_wanted(f"shape of {what}", list(found.shape), list(wanted.shape), _FIX))
        error = float(np.nan_to_num(np.abs(found - wanted).max(), nan=np.inf))
        bound = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        if not error <= bound:
            raise VerificationError(
                found_wanted(
                    f"largest difference of {what} between graph and PyTorch reference",
                    f"{error:.3g}",
                    f"at most {bound:.3g}",
                    _FIX,
                )
            )
        if error / bound >= self.worst / self.allowed:
            self.worst, self.allowed = error, bound
        self.rows += rows

    def equal(self, what: str, found: np.ndarray, wanted: np.ndarray) -> None:
        """Whole numbers."""
        if found.shape != wanted.shape or (found != wanted).any():
            raise VerificationError(
                found_wanted(f"{what} of the graph", found.tolist(), f"{wanted.tolist()} as in PyTorch", _FIX)
            )

    def report(self) -> dict[str, Any]:
        """As `ExportResult.check` has it."""
        return {"max_abs": self.worst, "allowed": self.allowed, "rows": self.rows}
