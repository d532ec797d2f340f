"""What an import says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImportResult:
    """What was written; ``max_error`` is the largest difference from the file itself over the recorded inputs."""

    path: Path
    parameters: int
    bytes: int
    nodes: int
    seconds: float
    max_error: float
    method: str = "import"
    """``import`` for a network that is run once per input, ``decoder`` for a decoder with past."""

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}
