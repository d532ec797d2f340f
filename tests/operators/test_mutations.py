"""The parity table notices a wrong line: five of them, one at a time, in kernel, body, CUDA kernel, plugin and reference.

Each works on a copy of the package with one operator, in which one line is replaced and only what depends on it is built again. Those that
need the CUDA side run after `make ladder`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farthing.plugins import library_path

ROOT = Path(__file__).parents[2]
OPERATOR = "SwiGLU"
NATIVE = library_path() is not None and shutil.which("cmake") is not None
LADDER = (ROOT / "build" / "cuda" / "libfarthing_tensorrt.so").exists() and (ROOT / "build" / "rtx").exists()
needs_ladder = pytest.mark.skipif(not LADDER, reason="the CUDA side is not built (make ladder)")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package whose only operator is SwiGLU."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    operators = {p.parent.name for p in (ROOT / "plugins").glob("*/operator.py")} - {"swiglu"}
    for name in filter(None, names):
        parts = Path(name).parts
        if parts[0] in ("tests", "docs", "examples", "benchmarks") or (parts[0] == "plugins" and parts[1] in operators):
            continue
        target = tmp_path / "farthing" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return tmp_path / "farthing"


def mutate(tree: Path, file: str, line: str, by: str) -> None:
    path = tree / file
    text = path.read_text()
    assert text.count(line) == 1, (
        f"{line!r} occurs {text.count(line)} times in {file}, expected once; choose another line"
    )
    path.write_text(text.replace(line, by))


def check(tree: Path, face: str) -> tuple[int, list[str]]:
    """Exit code of `farthing ops check` in the copy, and the rows that failed. Some row must have passed or failed."""
    environment = {**os.environ, "PYTHONPATH": str(tree.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "farthing.cli", "ops", "check", "-o", OPERATOR, "-f", face, "--json"]
    done = subprocess.run(command, cwd=tree.parent, env=environment, capture_output=True, text=True, check=False)
    (found,) = json.loads(done.stdout)
    assert (found["operator"], found["face"]) == (OPERATOR, face), done.stderr
    assert found["passed"] or found["failed"], found
    return done.returncode, [row for row, _ in found["failed"]]


def build(source: Path, out: Path, *targets: str) -> None:
    """Configure and build; after a mutation only what depends on it."""
    commands = [["cmake", "-S", source, "-B", out, "-DFARTHING_PYTHON=OFF", f"-DPython3_EXECUTABLE={sys.executable}"]]
    commands.append(["cmake", "--build", out, "--parallel", "2", "--target", *targets])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def expect(tree: Path, face: str, *, good: bool) -> None:
    code, failed = check(tree, face)
    assert (code == 0 and not failed) if good else (code == 5 and failed)


def test_a_body(tree: Path) -> None:
    expect(tree, "body", good=True)
    mutate(tree, "plugins/swiglu/operator.py", 'writer.node("Swish", [gate])', 'writer.node("Sigmoid", [gate])')
    expect(tree, "body", good=False)


def test_a_reference(tree: Path) -> None:
    expect(tree, "body", good=True)
    mutate(tree, "plugins/swiglu/operator.py", "gate, up = gate_up.chunk", "up, gate = gate_up.chunk")
    expect(tree, "body", good=False)


@pytest.mark.skipif(not NATIVE, reason="needs the native build and CMake")
def test_a_cpu_kernel(tree: Path) -> None:
    for good in (True, False):
        if not good:
            mutate(tree, "plugins/swiglu/kernel.cc", "(splat(1.0f) + exp(-x))", "(splat(1.0f) + exp(x))")
        build(tree, tree / "build" / "native", "farthing_ops")
        library = tree / "build" / "native" / "plugins" / "libfarthing_ops.so"
        shutil.copyfile(library, tree / "plugins" / library.name)
        expect(tree, "cpu_kernel", good=good)


@needs_ladder
def test_a_cuda_kernel(tree: Path) -> None:
    for good in (True, False):
        if not good:
            mutate(tree, "plugins/swiglu/kernel.cuh", "expf(-gate)) * up);", "expf(-gate)) + up);")
        build_cuda(tree, "farthing_cuda_harness")
        expect(tree, "cuda_harness", good=good)


@needs_ladder
def test_a_plugins_shape_function(tree: Path) -> None:
    for good in (True, False):
        if not good:
            line = "leading.assign(inputs[i].d + axis, inputs[i].d + axis + spare)"
            mutate(tree, "plugins/tensorrt/convert.h", line, line.replace(" + spare", ""))
        build_cuda(tree, "farthing_tensorrt", "farthing_tensorrt_driver")
        expect(tree, "tensorrt_plugin", good=good)


def build_cuda(tree: Path, *targets: str) -> None:
    """As `make ladder` does, with the headers and compilers that it fetched."""
    fetched = tree / "build" / "rtx"
    if not fetched.exists():
        fetched.parent.mkdir(exist_ok=True)
        fetched.symlink_to(ROOT / "build" / "rtx")
    build(tree / "plugins" / "cuda", tree / "build" / "cuda", *targets)
