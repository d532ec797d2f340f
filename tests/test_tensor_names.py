"""Tensor names are spelled once for Python and once for C++; the two must agree."""

from __future__ import annotations

import re
from pathlib import Path

from farthing.runtime import tensors

HEADER = Path(__file__).parent.parent / "runtime" / "core" / "tensors.h"


def test_python_and_cpp_agree() -> None:
    cpp = dict(re.findall(r'inline const std::string k(\w+) = "([^"]+)"', HEADER.read_text(encoding="utf-8")))
    python = {name: value for name, value in vars(tensors).items() if name.isupper() and name != "HIDDEN"}
    # PAST_K = "past_k.{}" is kPastK = "past_k." and a number behind it.
    spelled = {
        "".join(part.title() for part in name.split("_")): value.replace("{}", "") for name, value in python.items()
    }
    assert cpp == spelled
