"""One row of the parity table on the device: an engine of one node, by its plugin or by its lowered body. Untested on GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...export.compile.build_engine import build, make_logger
from ...export.lower import lower
from ...plugins import cases as all_cases
from ...plugins import operator, operators
from ...plugins.case import Case
from ...plugins.check.face import Skip, compare, output_dtypes, wanted
from ...plugins.check.graph import model
from ...plugins.check.table import Cell
from .memory import DeviceMemory


def run_table(trt: Any, plugins: tuple[str, ...]) -> Iterator[Cell]:
    """Every operator by its body, and by its plugin where ``plugins`` names it; one cell of the table each."""
    logger = make_logger(trt)
    for name in operators():
        for by in ("body", "plugin"):
            cell = Cell(name, f"tensorrt_{by}")
            if by == "plugin" and name not in plugins:
                cell.skipped["the plugin library does not have it"] += 1
            else:
                fill(cell, all_cases(name), lambda case, by=by: run_row(trt, logger, case, plugin=by == "plugin"))  # type: ignore[misc]
            yield cell


def fill(cell: Cell, cases: list[Case], action: Callable[[Case], None]) -> None:
    """Run ``action`` over ``cases`` and count; an exception other than Skip is a failure of its row."""
    for case in cases:
        try:
            action(case)
        except Skip as reason:
            cell.skipped[str(reason)] += 1
        except Exception as error:
            cell.failed.append((case.name, f"{type(error).__name__}: {error}"[:500]))
        else:
            cell.passed += 1


def run_row(trt: Any, logger: Any, case: Case, *, plugin: bool) -> None:
    """Build, run and compare. Raises Skip, Mismatch, or what TensorRT raises."""
    if case.refuses:
        raise Skip("bad input: asked of the plugin by the face tensorrt_plugin")
    expected = wanted(case)
    lowered = lower(
        model(case, {n: a.shape for n, a in expected.items()}),
        trt.__version__,
        plugins=[case.operator] if plugin else [],
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "g.onnx").write_bytes(lowered.SerializeToString())
        graph = {"name": case.name, "file": "g.onnx", "profiles": []}
        engine_bytes = build(trt, logger, {"aliased_io": plugin}, graph, folder, None)
    contract, dtypes = operator(case.operator), output_dtypes(case)
    aliases = {p.name: p.alias for p in contract.outputs if p.alias} if plugin else {}
    runtime = trt.Runtime(logger)
    context = runtime.deserialize_cuda_engine(engine_bytes).create_execution_context()
    with DeviceMemory() as memory:
        places = {
            port.name: memory.put(array)
            for port, array in zip(contract.inputs, case.inputs, strict=False)
            if array is not None
        }
        blank = {n: np.zeros(a.shape, dtypes[n]) for n, a in expected.items()}
        for output, array in blank.items():
            shared = aliases.get(output)
            places[output] = places[shared] if shared in places else memory.put(array)
        for tensor, address in places.items():
            context.set_tensor_address(tensor, address)
        if not context.execute_async_v3(0):
            raise RuntimeError("; ".join(logger.lines[-3:]) or "TensorRT stopped without a word")
        got = {n: memory.get(places[n], a) for n, a in blank.items()}
    compare(got, expected, case.tolerance)
