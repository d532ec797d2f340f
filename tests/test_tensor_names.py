"""Tensor names are spelled once for Python and once for C++; the two must agree."""

from __future__ import annotations

import re
from pathlib import Path

from farthing.runtime import image_tensors, tensors

HEADER = Path(__file__).parent.parent / "runtime" / "core" / "tensors.h"


def test_python_and_cpp_agree() -> None:
    cpp = dict(re.findall(r'inline const std::string k(\w+) = "([^"]+)"', HEADER.read_text(encoding="utf-8")))
    named = {**vars(tensors), **vars(image_tensors)}
    python = {name: value for name, value in named.items() if name.isupper() and name != "HIDDEN"}
    # PAST_K = "past_k.{}" is kPastK = "past_k." and a number behind it.
    spelled = {
        "".join(part.title() for part in name.split("_")): value.replace("{}", "") for name, value in python.items()
    }
    assert cpp == spelled


def test_a_name_that_both_modules_have_is_the_same() -> None:
    shared = {n for n in vars(tensors) if n.isupper()} & {n for n in vars(image_tensors) if n.isupper()}
    assert {"PIXELS", "FEATURES"} <= shared
    assert all(getattr(tensors, n) == getattr(image_tensors, n) for n in shared)
