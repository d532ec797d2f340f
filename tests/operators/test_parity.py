"""The parity table: every operator on every face that runs on this machine. The same code as `farthing ops check`."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from farthing.plugins import cases, library_path, operator, operators
from farthing.plugins.check import faces, run
from farthing.plugins.check.face import wanted
from farthing.plugins.check.onnxruntime_faces import execute

needs_kernels = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")


@pytest.mark.parametrize("face", list(faces()))
@pytest.mark.parametrize("name", list(operators()))
def test_face_agrees_with_reference(name: str, face: str) -> None:
    (cell,) = run([name], [face])
    assert not cell.failed, "\n".join(f"{row}: {message}" for row, message in cell.failed)
    if not cell.passed:
        pytest.skip("; ".join(cell.skipped))


@needs_kernels
@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_every_instruction_set(isa: str) -> None:
    """The kernels of narrower processors, in a process that is told to use them."""
    command = [sys.executable, "-m", "farthing.cli", "ops", "check", "--face", "cpu_kernel"]
    done = subprocess.run(
        command, env={**os.environ, "FARTHING_MAX_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


@needs_kernels
@pytest.mark.parametrize("name", list(operators()))
def test_kernel_runs_in_place_of_a_body(name: str) -> None:
    """The graph's function is emptied of sense (its outputs are all wrong): only our kernel can give the right numbers."""
    from onnx import helper

    case = next(c for c in cases(name) if c.refuses is None and c.outputs is None)
    function = operator(name).body(operator(name).with_defaults(case.attributes), [a is not None for a in case.inputs])
    del function.node[:]
    function.node.append(helper.make_node("Sub", [function.input[0]] * 2, ["nought"], name="nought"))
    like = list(function.input)
    for i, output in enumerate(function.output):
        function.node.append(
            helper.make_node("Identity", ["nought" if i == 0 else like[0]], [output], name=f"wrong{i}")
        )
    want = wanted(case)
    got = execute(case, kernels=True, function=function)
    for key, expected in want.items():
        size = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got[key] / size, expected / size, atol=case.tolerance, rtol=0)


def test_every_operator_has_rows_that_compute_and_rows_that_are_refused() -> None:
    for name in operators():
        rows = cases(name)
        assert len({row.name for row in rows}) == len(rows), f"{name}: names of rows repeat"
        assert any(row.refuses for row in rows), f"{name}: no row of bad input"
        assert any(row.refuses is None for row in rows), f"{name}: no row that computes"
