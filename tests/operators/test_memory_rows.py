"""The memory operators' kernels: a row's result is the same bits whatever rows stand beside it, for every width, bank and storage type."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from farthing.plugins import DOMAIN, DOMAIN_VERSION, library_path, operator
from farthing.plugins.assoc_memory_read.bench import stored
from farthing.plugins.contract import IR_VERSION, OPSET

pytestmark = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")

WIDTHS = st.one_of(st.integers(1, 70), st.sampled_from([96, 112, 192, 208, 224, 250, 512]))
"""Both sides of the depths at which each instruction set's long tile begins (48, 96 and 192), with and without a tail."""


def session(op: str, constants: dict[str, np.ndarray], rows: str, state: int = 0) -> onnxruntime.InferenceSession:
    """One operator over inputs ``rows`` [1, r, C] (and a state of ``state`` rows), everything else initialisers."""
    width = constants["mem"].shape[1]
    given = {rows: ["b", "r", width], **({"conv_state": ["b", state, width]} if state else {})}
    ports = operator(op)
    names = [p.name if p.name in given or p.name in constants else "" for p in ports.inputs]
    attributes = {"kernel_size": state + 1} if state else {}
    graph = helper.make_graph(
        [helper.make_node(op, names, [p.name for p in ports.outputs], domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()],
        [onnx.ValueInfoProto(name=p.name) for p in ports.outputs],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        functions=[ports.body(attributes, [bool(name) for name in names])],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(str(library_path()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bank(rng: np.random.Generator, slots: int, width: int, dtype: str) -> dict[str, np.ndarray]:
    return dict(zip(("mem", "mem_scale"), stored(rng.standard_normal((slots, width)).astype(np.float32), dtype)))


@settings(max_examples=60, deadline=None)
@given(
    slots=st.one_of(st.integers(1, 70), st.sampled_from([256, 257, 400, 600])),
    width=WIDTHS,
    rows=st.one_of(st.integers(2, 20), st.sampled_from([48, 49, 97])),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    seed=st.integers(0, 99),
)
def test_rows_of_a_read_do_not_know_of_each_other(slots: int, width: int, rows: int, dtype: str, seed: int) -> None:
    """Many rows, each row alone, and the formula in float64; a row with NaN is NaN and stays alone with it."""
    rng = np.random.default_rng(seed)
    memory = bank(rng, slots, width, dtype)
    x = rng.standard_normal((1, rows, width)).astype(np.float32) * np.float32(width**-0.5)
    sick = rows // 2
    x[0, sick, width // 2] = np.nan
    run = session("AssocMemoryRead", memory, "x")
    (y,) = run.run(None, {"x": x})
    for r in range(rows):
        np.testing.assert_array_equal(y[:, r : r + 1], run.run(None, {"x": x[:, r : r + 1]})[0])
    assert np.isnan(y[0, sick]).all()
    wide = memory["mem"].astype(np.float64) * memory.get("mem_scale", np.ones(slots))[:, None]
    scores = np.delete(x[0], sick, axis=0).astype(np.float64) @ wide.T
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    wanted = shares / shares.sum(axis=1, keepdims=True) @ wide
    np.testing.assert_allclose(np.delete(y[0], sick, axis=0), wanted, rtol=2e-5, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(
    slots=st.sampled_from([1, 70, 300]),
    width=WIDTHS,
    rows=st.one_of(st.integers(2, 20), st.sampled_from([48, 49, 97])),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 99),
)
def test_rows_of_the_gated_memory_do_not_know_of_each_other(
    slots: int, width: int, rows: int, dtype: str, seed: int
) -> None:
    """A chunk gives bit for bit what its rows give one by one, the convolution's state handed on."""
    rng = np.random.default_rng(seed)
    gates = (rng.standard_normal((2 * width, width)) * width**-0.5).astype(dtype)
    taps = rng.standard_normal((width, 3)).astype(np.float32)
    run = session("GatedAssocMemory", {"conv_w": taps, "gate_w": gates, **bank(rng, slots, width, dtype)}, "n", state=2)
    n = rng.standard_normal((1, rows, width)).astype(np.float32)
    state = rng.standard_normal((1, 2, width)).astype(np.float32)
    f, last = run.run(None, {"n": n, "conv_state": state})
    for r in range(rows):
        one, state = run.run(None, {"n": n[:, r : r + 1], "conv_state": state})
        np.testing.assert_array_equal(f[:, r : r + 1], one)
    np.testing.assert_array_equal(last, state)
