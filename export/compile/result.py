"""What `compile_bundle` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.bundle.compiled import open_compiled


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


def engines_in(out: Path, *, cached: bool) -> CompileResult:
    """The result in folder ``out``, checked. Raises BundleError."""
    compiled = open_compiled(out)
    index = compiled.index
    graphs = {
        name: {"file": g["file"], "bytes": index["files"][g["file"]]["bytes"], "seconds": g["seconds"]}
        for name, g in index["graphs"].items()
    }
    return CompileResult(
        path=out,
        target=index["target"],
        graphs=graphs,
        cached=cached,
        warnings=tuple(index["warnings"]),
        notes=index["key"],
    )
