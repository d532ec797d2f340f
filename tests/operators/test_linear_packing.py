"""Linear keeps constant weights in an order of its own: same numbers, whatever the rows and wherever the weight lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from farthing.plugins import DOMAIN, DOMAIN_VERSION, library_path, operator
from farthing.plugins.contract import IR_VERSION, OPSET

pytestmark = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")


def session(weight: np.ndarray, folder: Path | None = None, *, constant: bool = True) -> onnxruntime.InferenceSession:
    """One Linear whose weight is an initialiser (in a mapped file beside the graph, with ``folder``) or an input."""
    kind = TensorProto.FLOAT if weight.dtype == np.float32 else TensorProto.FLOAT16
    info = helper.make_tensor_value_info
    inputs = [info("x", TensorProto.FLOAT, ["r", weight.shape[1]])]
    graph = helper.make_graph(
        [helper.make_node("Linear", ["x", "w"], ["y"], domain=DOMAIN)],
        "one",
        inputs if constant else [*inputs, info("w", kind, list(weight.shape))],
        [info("y", TensorProto.FLOAT, ["r", weight.shape[0]])],
        initializer=[numpy_helper.from_array(weight, "w")] if constant else [],
    )
    model = helper.make_model(
        graph,
        functions=[operator("Linear").body({}, [True, True])],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(str(library_path()))
    if folder is None:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if not (folder / "m.onnx").exists():
        onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return onnxruntime.InferenceSession(folder / "m.onnx", options, providers=["CPUExecutionProvider"])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.one_of(st.integers(1, 50), st.sampled_from([512, 1024])),
    rows=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.float16]),
    seed=st.integers(0, 99),
)
def test_rows_do_not_know_of_each_other(n: int, k: int, rows: int, dtype: type, seed: int) -> None:
    """A pass over many rows gives bit for bit what passes over one row give; constant and computed weights too."""
    rng = np.random.default_rng(seed)
    weight, x = rng.standard_normal((n, k)).astype(dtype), rng.standard_normal((rows, k)).astype(np.float32)
    packed = session(weight)
    together = packed.run(None, {"x": x})[0]
    apart = np.concatenate([packed.run(None, {"x": row[None]})[0] for row in x])
    assert np.array_equal(together, apart)
    assert np.array_equal(together, session(weight, constant=False).run(None, {"x": x, "w": weight})[0])
    np.testing.assert_allclose(together, x @ weight.astype(np.float32).T, atol=5e-4)


def test_mapped_weights_are_given_back_unharmed(tmp_path: Path) -> None:
    """The pages of the file are released after packing: a second session on it, and the file, still have them."""
    rng = np.random.default_rng(5)
    weight, x = rng.standard_normal((1030, 4099)).astype(np.float32), rng.standard_normal((3, 4099)).astype(np.float32)
    first = session(weight, tmp_path)
    before = (tmp_path / "m.data").read_bytes()
    want = first.run(None, {"x": x})[0]
    second = session(weight, tmp_path)
    del first
    assert np.array_equal(second.run(None, {"x": x})[0], want)
    assert (tmp_path / "m.data").read_bytes() == before
    np.testing.assert_allclose(want, x @ weight.T, atol=2e-3)


def anonymous() -> int:
    """Bytes of this process that are no pages of a file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_equal_weights_are_packed_once(tmp_path: Path) -> None:
    """Sessions on one file share what was packed, and it lives until the last of them."""
    rng = np.random.default_rng(6)
    weight, x = rng.standard_normal((4096, 4096)).astype(np.float32), rng.standard_normal((2, 4096)).astype(np.float32)
    sessions = [session(weight, tmp_path)]
    before = anonymous()
    sessions += [session(weight, tmp_path) for _ in range(3)]
    assert anonymous() - before < weight.nbytes / 4
    want = sessions[0].run(None, {"x": x})[0]
    del sessions[:3]
    assert np.array_equal(sessions[0].run(None, {"x": x})[0], want)


def test_weights_that_differ_in_one_value_are_not_shared() -> None:
    """Neither in the last value, nor by sign of zero."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((515, 257)).astype(np.float32)
    weight[7, 7] = 0.0
    first = session(weight)
    for row, column, value in ((514, 256, 9.0), (300, 100, -9.0), (7, 7, -0.0)):
        other = weight.copy()
        other[row, column] = value
        x = np.zeros((1, 257), np.float32)
        x[0, column] = 1.0
        found = session(other).run(None, {"x": x})[0]
        assert found[0, row] == value and (value == 0 or first.run(None, {"x": x})[0][0, row] != value)
