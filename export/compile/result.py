"""What `compile_bundle` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CompileResult:
    """``path`` is the folder of the result (or of the plan, if ``planned``). ``graphs``: name -> bytes and seconds.

    ``cached``: it was there already. ``warnings``: what the compiler said. ``commands``: what to type on the device, for a plan.
    """

    path: Path
    target: str
    graphs: dict[str, dict[str, Any]]
    cached: bool = False
    planned: bool = False
    warnings: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {
            "path": str(self.path),
            "target": self.target,
            "graphs": self.graphs,
            "cached": self.cached,
            "planned": self.planned,
            "warnings": list(self.warnings),
            "commands": list(self.commands),
            "notes": self.notes,
        }
