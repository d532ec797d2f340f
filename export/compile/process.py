"""Running build_engine.py in a process of its own, and turning what it says into our errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ...errors import BundleError, FarthingError, MissingDependencyError, found_wanted


def build_in_subprocess(python: str, plan: Path, out: Path) -> dict[str, Any]:
    """Build the plan in folder ``plan`` into ``out``; returns the index. Raises BundleError, MissingDependencyError."""
    command = [python, str(plan / "build_engine.py"), str(plan), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else {}
    except ValueError:
        answer = {}
    if answer.get("ok"):
        return dict(answer["index"])
    if "error" in answer:
        kind: type[FarthingError] = MissingDependencyError if answer.get("code") == 6 else BundleError
        raise kind(answer["error"])
    raise BundleError(
        found_wanted(
            "TensorRT's process",
            f"ended by status {done.returncode} ({done.stderr.strip()[-600:]})",
            "an answer",
            "this is a defect of TensorRT or of this graph; report it with the bundle's manifest",
        )
    )
