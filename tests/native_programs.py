"""The C and C++ test programs: built once, in one folder, by one test process at a time."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = Path(os.environ.get("FARTHING_TEST_BUILD", ROOT / "build" / "native-tests"))


def build_programs(targets: Sequence[str], needs: str | None = None) -> Path | None:
    """The folder with the programs of ``targets``; None where CMake does not say the line ``needs`` on this machine."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when it is closed
        said = _run("cmake", "-S", ROOT, "-B", BUILD, "-DFARTHING_TESTS=ON", "-DFARTHING_PYTHON=OFF")
        if needs and needs not in said:
            return None
        _run("cmake", "--build", BUILD, "--parallel", "2", "--target", *targets)
    return BUILD / "tests"


def _run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
