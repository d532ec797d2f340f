"""The parity table: every operator's cases on every face, against the reference in float64.

``faces()`` are the columns, ``plugins.cases()`` the rows; `run` fills the matrix. ``farthing ops check`` prints it, and the
tests assert on the same results. A face that cannot run here, or cannot run a row, says why and is never counted as passed.
"""

from .face import Face, Mismatch, Skip
from .faces import faces
from .table import Cell, run

__all__ = ["Cell", "Face", "Mismatch", "Skip", "faces", "run"]
