"""Every operator case on every face that runs on this machine, against the float64 reference."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from farthing.plugins import library_path, operators

from .cases import Case, all_cases
from .faces import onnxruntime_face, reference

CASES = all_cases()
needs_kernels = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")


def _compare(case: Case, got: list[np.ndarray], want: list[np.ndarray]) -> None:
    for have, expected in zip(got, want, strict=True):
        size = max(1.0, float(np.abs(expected).max()))
        assert have.shape == expected.shape
        np.testing.assert_allclose(have / size, expected / size, atol=case.tolerance, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_equals_reference(case: Case) -> None:
    want = reference(case)
    _compare(case, onnxruntime_face(case, want, kernels=False), want)


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_reference(case: Case) -> None:
    want = reference(case)
    _compare(case, onnxruntime_face(case, want, kernels=True), want)


@needs_kernels
@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_every_instruction_set(isa: str) -> None:
    """The kernels of narrower processors, in a process that is told to use them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "test_kernel_equals_reference", __file__]
    done = subprocess.run(
        command, env={**os.environ, "FARTHING_MAX_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_operator_has_cases() -> None:
    assert {case.operator for case in CASES} == set(operators())
