"""The Python example is a program that runs; the C++ one is built and compared in test_native_core.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import engines

import farthing


def test_python_example() -> None:
    """It streams the text that `generate` gives, and shows three alternatives."""
    script = Path(__file__).parents[1] / "examples/python/generate.py"
    command = [sys.executable, script, engines.bundle(), "the farthing", "--raw", "--tokens", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with farthing.load(engines.bundle(), threads=1) as model:
        wanted = model.generate("the farthing", raw=True, max_new_tokens=8, greedy=True).text
    assert done.stdout.startswith(wanted + "\n") and done.stdout.count("  logit ") == 3
