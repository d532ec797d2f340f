"""A graph of one node, as the faces in ONNX Runtime and TensorRT get it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import DOMAIN, DOMAIN_VERSION, operator
from ..case import Case
from ..contract import IR_VERSION, OPSET, Port
from .face import output_dtypes

if TYPE_CHECKING:
    import onnx


def elem_type(dtype: str) -> int:
    """ONNX's number of a numpy dtype."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def constant(name: str, array: np.ndarray, nibbles: Mapping[str, str]) -> onnx.TensorProto:
    """An initializer; ``nibbles`` has the 4-bit type of those that are stored so, two to a byte, the first in the low half."""
    from onnx import TensorProto, numpy_helper

    if name not in nibbles:
        return numpy_helper.from_array(np.ascontiguousarray(array), name)
    flat = np.append(array.ravel(), np.zeros(array.size % 2, array.dtype)).view(np.uint8) & 15
    kind = TensorProto.INT4 if nibbles[name] == "int4" else TensorProto.UINT4
    packed = (flat[::2] | flat[1::2] << 4).tobytes()
    return TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=packed)


def model(
    case: Case,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    function: Any = None,
    dynamic: Collection[str] = (),
) -> onnx.ModelProto:
    """The case as a model. ``shapes``: of the outputs, where known.

    ``function``: None for the operator's own body, False for none at all (then only a kernel can run the node), or another
    FunctionProto. ``dynamic``: symbols of the contract whose sizes are left open.
    """
    from onnx import helper

    contract = operator(case.operator)
    given = [*case.inputs, *[None] * (len(contract.inputs) - len(case.inputs))]
    names = [p.name if a is not None else "" for p, a in zip(contract.inputs, given, strict=True)]
    while names and not names[-1]:
        names.pop()
    outputs = [p.name if case.outputs is None or p.name in case.outputs else "" for p in contract.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    # Not with_defaults, which refuses bad attributes: here the face itself has to.
    attributes = {a.name: a.default for a in contract.attributes if a.default is not None} | dict(case.attributes)
    if function is None:
        function = contract.body(attributes, [a is not None for a in given])
    info = helper.make_tensor_value_info
    types = output_dtypes(case)

    def sizes(port: Port, array: np.ndarray) -> list[Any]:
        spare = array.ndim - len(port.shape) + 1
        symbols = [s for symbol in port.shape for s in ([symbol] * spare if symbol == "..." else [symbol])]
        free = {i: f"{'rows' if s == '...' else s}_{i}" for i, s in enumerate(symbols) if s in dynamic}
        return [free.get(i, size) for i, size in enumerate(array.shape)]

    graph = helper.make_graph(
        [helper.make_node(case.operator, names, outputs, name="node", domain=DOMAIN, **attributes)],
        "case",
        [
            info(p.name, elem_type(str(a.dtype)), sizes(p, a))
            for p, a in zip(contract.inputs, given, strict=True)
            if a is not None and p.name not in case.constants
        ],
        [info(n, elem_type(types[n]), list(shapes[n]) if shapes and not dynamic else None) for n in outputs if n],
        [
            constant(p.name, a, dict(case.nibbles))
            for p, a in zip(contract.inputs, given, strict=True)
            if a is not None and p.name in case.constants
        ],
    )
    return helper.make_model(
        graph,
        functions=[function] if function else [],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
