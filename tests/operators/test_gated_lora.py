"""GatedLora: rows without the gate are copies whatever the adapter holds, rows do not influence each other, cost follows the gate."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from farthing.plugins import library_path
from farthing.plugins.case import Case, floats
from farthing.plugins.check.graph import model
from farthing.plugins.check.onnxruntime_faces import execute
from farthing.plugins.gated_lora.operator import reference, rows_of

KERNELS = pytest.param(
    True,
    id="kernel",
    marks=pytest.mark.skipif(library_path() is None, reason="installed without the native operator library"),
)
needs_kernels = KERNELS.marks[0]


def _run(inputs: list[np.ndarray | None], *, kernels: bool, scale: float = 0.7) -> np.ndarray:
    return execute(Case("GatedLora", "property", inputs, {"scale": scale}), kernels=kernels)["y"]


@pytest.mark.parametrize("kernels", [pytest.param(False, id="body"), KERNELS])
@settings(max_examples=25, deadline=None)
@given(
    gate=st.lists(st.booleans(), min_size=1, max_size=40),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20)),
    poison=st.sampled_from([None, np.nan, np.inf]),
    half=st.booleans(),
)
def test_rows_without_the_gate_are_copies(kernels, gate, sizes, poison, half) -> None:
    k, n, rank = sizes
    rng = np.random.default_rng(len(gate) * 1000 + k)
    a, b = floats(rng, rank, k), floats(rng, n, rank)
    if poison is not None:
        a[0, 0] = b[-1, 0] = poison
    stored = np.float16 if half else np.float32
    x, base = floats(rng, len(gate), k), floats(rng, len(gate), n)
    base[0, 0] = -0.0
    y = _run([x, base, a.astype(stored), b.astype(stored), rows_of(np.array(gate))], kernels=kernels)
    shut = ~np.array(gate)
    assert y[shut].tobytes() == base[shut].tobytes()
    if poison is None and any(gate) and np.abs(a).max() > 0:
        assert not np.array_equal(y[gate], base[gate])


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(
    rows=st.sets(st.integers(0, 29), min_size=2, max_size=30),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 50), st.integers(1, 40)),
)
def test_rows_do_not_influence_each_other(rows, sizes) -> None:
    k, n, rank = sizes
    rng = np.random.default_rng(k * 100 + n)
    weights = [floats(rng, rank, k), floats(rng, n, rank)]
    x, base = floats(rng, 30, k), floats(rng, 30, n)
    listed = np.array(sorted(rows), np.int64)
    together = _run([x, base, *weights, listed], kernels=True)
    for row in (listed[0], listed[-1]):
        alone = _run([x[row : row + 1], base[row : row + 1], *weights, np.zeros(1, np.int64)], kernels=True)
        assert alone[0].tobytes() == together[row].tobytes()


def test_equals_the_formula_with_a_gate() -> None:
    import torch

    rng = np.random.default_rng(3)
    x, base, a, b = (torch.from_numpy(floats(rng, *shape)) for shape in ((2, 7, 12), (2, 7, 9), (4, 12), (9, 4)))
    gate = torch.from_numpy(rng.integers(0, 2, (2, 7)))
    y = reference(x, base, a, b, torch.from_numpy(rows_of(gate.numpy())), scale=2.0)
    torch.testing.assert_close(y, base + gate[..., None] * 2.0 * ((x @ a.T) @ b.T))


def test_gates_that_are_no_switches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gate is 0\.5, expected 0 or 1"):
        rows_of(np.array([0, 0.5, 1]))


def _seconds(total: int, count: int) -> float:
    """CPU seconds of a call with ``count`` of ``total`` rows gated, base and result in one buffer: the best of several."""
    rng = np.random.default_rng(0)
    k = n = 1024
    arrays = [floats(rng, total, k), floats(rng, total, n), floats(rng, 64, k), floats(rng, n, 64)]
    arrays.append(np.linspace(0, total - 1, count).astype(np.int64))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(library_path()))
    case = Case("GatedLora", "cost", list(arrays), {"scale": 1e-6})
    proto = model(case, function=False)
    for i in (3, 2):  # the adapter is constant, packed once
        del proto.graph.input[i]
        proto.graph.initializer.append(numpy_helper.from_array(arrays[i], "ab"[i - 2]))
    running = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = running.io_binding()
    for name, i in (("x", 0), ("base", 1), ("rows", 4)):
        value = onnxruntime.OrtValue.ortvalue_from_numpy(arrays[i])
        binding.bind_ortvalue_input(name, value)
        if name == "base":
            binding.bind_ortvalue_output("y", value)
    best = float("inf")
    for _ in range(7):
        start = time.process_time()
        for _ in range(20):
            running.run_with_iobinding(binding)
        best = min(best, (time.process_time() - start) / 20)
    return best


@needs_kernels
def test_cost_follows_the_gated_rows() -> None:
    """8 of 256 rows cost 8/64 of 64 of them, and as much as 8 of 16: rows without the gate are not even read."""
    few, many, small = _seconds(256, 8), _seconds(256, 64), _seconds(16, 8)
    assert many / few > 4, f"64 rows take {many / few:.2f} times as long as 8, expected about 8"
    assert few / small < 1.6, f"8 of 256 rows take {few / small:.2f} times as long as 8 of 16, expected about 1"
