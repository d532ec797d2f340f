"""What this machine can do, and how near the graphs of a bundle come (Williams et al. 2009, "Roofline").

A decode step reads every weight once, so memory bounds it; a pass over many rows multiplies, so arithmetic does.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, RequestError, found_wanted
from ..plugins import library_path
from ..runtime import tensors as names
from ..runtime.bundle import Bundle

READ_BYTES = 256 << 20
"""What is read to measure memory: many times the caches of a small machine."""

SQUARE = 1536
"""Size of the matrices whose product measures arithmetic: 7.2 GFLOP, 28 MB."""


@dataclass(frozen=True)
class Peaks:
    """``bandwidth`` bytes a second read from memory by one thread; ``flops`` float32 operations a second of a large product, one thread."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class PassBound:
    """A pass of ``rows`` rows over ``past`` tokens, the last of which gets logits: what it must read and compute at least, and what it takes.

    ``weight_bytes`` and ``cache_bytes`` are read once; ``flop`` counts a multiply-add as 2. ``bound`` is the larger of the two times at peak,
    ``share`` bound / seconds. Integer weights may compute faster than float peak: their share can be above 1.
    """

    rows: int
    past: int
    seconds: float
    weight_bytes: int
    cache_bytes: int
    flop: float
    bound: float
    by: str

    @property
    def share(self) -> float:
        """How much of the bound is reached."""
        return self.bound / self.seconds

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "share": self.share}


def measure_peaks() -> Peaks:
    """Both peaks, one thread, in about a second. Raises MissingDependencyError without the native library or onnx."""
    library = library_path()
    if library is None:
        raise MissingDependencyError(
            found_wanted(
                "native operator library", "not installed", "installed, to measure memory", "`farthing doctor`"
            )
        )
    read = ctypes.CDLL(str(library)).farthing_ops_read_bandwidth
    read.restype, read.argtypes = ctypes.c_double, [ctypes.c_size_t]
    return Peaks(float(read(READ_BYTES)), _flops())


def _flops() -> float:
    import onnx
    import onnxruntime
    from onnx import helper

    from ..plugins.contract import IR_VERSION, OPSET

    kind = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "product",
        [kind("x", onnx.TensorProto.FLOAT, [SQUARE, SQUARE])],
        [kind("y", onnx.TensorProto.FLOAT, [SQUARE, SQUARE])],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((SQUARE, SQUARE), dtype=np.float32)
    return 2.0 * SQUARE**3 / min(_seconds(lambda: session.run(None, {"x": x})) for _ in range(6))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bounds(bundle: Bundle, costs: list[tuple[int, int, float]], peaks: Peaks) -> list[PassBound]:
    """For each (rows, past, seconds of a pass at one thread) the bound. Raises RequestError for methods that have no weights to count."""
    if not bundle.manifest["graphs"]:
        raise RequestError(found_wanted(f"graphs of {bundle.path}", "none", "one", "export the bundle again"))
    weights, every_row, last_row = _weights(bundle)
    kv = bundle.manifest.get("kv")
    made = []
    for rows, past, seconds in costs:
        slots = past + (rows + 1) / 2  # that a row sees, in the mean
        cache = 0 if kv is None else bundle.kv_bytes(past + rows)
        mixing = 0.0 if kv is None else 4.0 * kv["layers"] * bundle.manifest["model"]["hidden_size"] * slots * rows
        flop = 2.0 * (every_row * rows + last_row) + mixing
        reading, computing = (weights + cache) / peaks.bandwidth, flop / peaks.flops
        by = "memory" if reading >= computing else "arithmetic"
        made.append(PassBound(rows, past, seconds, weights, cache, flop, max(reading, computing), by))
    return made


def _weights(bundle: Bundle) -> tuple[int, int, int]:
    """Of the weights that a pass of the step graph multiplies with: bytes, numbers that meet every row, numbers that meet the last.

    A table that rows are looked up in is no such weight, unless it is the head as well.
    """
    import onnx

    model = onnx.load(str(bundle.graph(bundle.step_graph)), load_external_data=False)
    looked_up = {n.input[0] for n in model.graph.node if n.op_type == "Gather"}
    users = {name for n in model.graph.node if n.op_type != "Gather" for name in n.input}
    bits = {"FLOAT": 32, "FLOAT16": 16, "INT8": 8, "UINT8": 8, "INT4": 4, "UINT4": 4}
    head = {name for n in model.graph.node if names.LOGITS in n.output for name in n.input}
    size = every_row = last_row = 0
    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind not in bits or (tensor.name in looked_up and tensor.name not in users):
            continue
        count = int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 1
        size += count * bits[kind] // 8
        if len(tensor.dims) == 2 and not tensor.name.endswith((".scales", ".zeros")):
            every_row += 0 if tensor.name in head else count
            last_row += count if tensor.name in head else 0
    return size, every_row, last_row
