"""The self-test for a GPU, as far as it goes without one: order, report, exit codes. What the steps do on a device is untested."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import engines
import pytest

from farthing.calibration.selftest import PLAN, selftest_gpu
from farthing.calibration.selftest.rows import fill
from farthing.calibration.selftest.run import CLEAR, Report, _Failed, _Later, first_wrong, run_steps
from farthing.errors import BundleError
from farthing.plugins import cases
from farthing.plugins.check.face import Skip
from farthing.plugins.check.table import Cell


@pytest.fixture
def without_gpu() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("this machine has an NVIDIA driver; what this tests is its absence")


def test_without_a_device_it_says_what_it_would_do(without_gpu, tmp_path):
    report = selftest_gpu(engines.bundle("llama"))
    assert report.exit_code == 6 and [s.name for s in report.steps] == [name for name, _ in PLAN]
    assert report.steps[0].status == "failed" and "number of CUDA devices is 0" in report.steps[0].detail
    for step, (_, doc) in zip(report.steps[1:], PLAN[1:], strict=True):
        assert step.status == "skipped" and doc in step.detail and "there is no device" in step.detail


def test_the_command_writes_the_report(without_gpu, tmp_path):
    file = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "farthing.cli", "selftest", "--gpu", "--report", str(file)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6 and "number of CUDA devices is 0" in done.stdout and "Traceback" not in done.stderr
    report = json.loads(file.read_text())
    assert set(report["versions"]) >= {"python", "machine", "onnx", "tensorrt"} and len(report["steps"]) == len(PLAN)
    done = subprocess.run([sys.executable, "-m", "farthing.cli", "selftest"], capture_output=True, text=True)
    assert done.returncode == 2 and "--gpu is not given" in done.stderr


def _raise(error: Exception):
    raise error


def _good():
    return "good", {}


def test_a_failure_is_kept_and_the_rest_runs_where_it_can():
    # Operators wrong, no plugins given: the bundle is tried all the same.
    steps = run_steps(
        [_good, _good, lambda: _raise(_Later("none")), lambda: _raise(_Failed("wrong", {"a": 1})), *[_good] * 3]
    )
    assert [s.status for s in steps] == ["passed", "passed", "skipped", "failed", "passed", "passed", "passed"]
    assert steps[3].data == {"a": 1} and Report(steps, {}).exit_code == 5
    # No engine: nothing to decode with.
    steps = run_steps([*[_good] * 4, lambda: _raise(BundleError("refused")), _good, _good])
    assert [s.status for s in steps[4:]] == ["failed", "skipped", "skipped"] and "not built" in steps[5].detail
    # A defect of ours is a failure of its step, with its class.
    steps = run_steps([_good, lambda: _raise(KeyError("x")), *[_good] * 5])
    assert steps[1].detail == "KeyError: 'x'" and {s.status for s in steps[2:]} == {"skipped"}
    assert Report(run_steps([_good] * 7), {}).exit_code == 0


def test_a_narrow_choice_may_go_the_other_way():
    assert first_wrong([1, 2, 3], [1, 2, 3], [1.0] * 3) is None
    assert first_wrong([1, 9, 3], [1, 2, 3], [1.0] * 3) == 1
    assert first_wrong([1, 9, 8], [1, 2, 3], [1.0, CLEAR / 2, 1.0]) is None  # nothing after it can be compared


def test_rows_are_counted_as_the_table_does():
    cell = Cell("Linear", "tensorrt_body")
    outcomes = iter([None, Skip("not here"), ValueError("wrong")])

    def action(case):
        if outcome := next(outcomes):
            raise outcome

    fill(cell, cases("Linear")[:3], action)
    assert (cell.passed, dict(cell.skipped), cell.status) == (1, {"not here": 1}, "failed")
    assert cell.failed[0][1] == "ValueError: wrong"
