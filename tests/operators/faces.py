"""Running one operator case through each of its faces."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from farthing.plugins import DOMAIN, DOMAIN_VERSION, library_path, operator
from farthing.plugins.contract import IR_VERSION, OPSET

from .cases import Case

_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


def reference(case: Case) -> list[np.ndarray]:
    """The PyTorch reference in float64, so that it is the yardstick and not one more rounding."""
    tensors = [torch.from_numpy(a).double() if a.dtype.kind == "f" else torch.from_numpy(a) for a in case.inputs]
    result = operator(case.operator).reference(*tensors, **_reference_attributes(case))
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def _reference_attributes(case: Case) -> dict[str, Any]:
    return {k: v for k, v in case.attributes.items() if k != "rotary_dim"}  # the reference takes it from cos


def model(case: Case, outputs: list[np.ndarray]) -> onnx.ModelProto:
    """A graph of one node that carries the operator's body as a local function."""
    contract = operator(case.operator)
    names = [port.name for port in contract.inputs][: len(case.inputs)]
    function = contract.body(case.attributes, [True] * len(names))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(case.operator, names, [p.name for p in contract.outputs], domain=DOMAIN, **case.attributes)],
        "case",
        [info(n, _TYPES[str(a.dtype)], list(a.shape)) for n, a in zip(names, case.inputs, strict=True)],
        [info(p.name, TensorProto.FLOAT, list(a.shape)) for p, a in zip(contract.outputs, outputs, strict=True)],
    )
    return helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )


def onnxruntime_face(case: Case, outputs: list[np.ndarray], *, kernels: bool) -> list[np.ndarray]:
    """The case in ONNX Runtime: by its body, or by our kernel."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    if kernels:
        options.register_custom_ops_library(str(library_path()))
    proto = model(case, outputs)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {i.name: a for i, a in zip(session.get_inputs(), case.inputs, strict=True)}
    return session.run(None, feeds)
