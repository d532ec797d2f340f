"""Raising the opset of a graph that somebody else exported, by ONNX's own version converter."""

from __future__ import annotations

import onnx

from ...errors import RequestError, found_wanted

AXES = 18
"""The first opset in which all reductions but ReduceSum take their axes as an input."""

BLOCKS = 21
"""The first opset whose DequantizeLinear has a block_size and whose tensors may be INT4."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators; BLOCKS where the model names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), BLOCKS)


def raised(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """``model`` itself from opset ``least`` on, else a copy in opset BLOCKS.

    Values outside the model stay there: the converter sees their shapes only. Raises RequestError for what it cannot convert.
    """
    found = opset_of(model)
    if found >= least:
        return model
    held = {t.name: t for t in model.graph.initializer}
    small = onnx.ModelProto()
    small.CopyFrom(model)
    del small.graph.initializer[:]
    # Small tensors may be needed to convert (axes become inputs); large ones only have to keep their shapes.
    small.graph.initializer.extend(t for t in held.values() if t.data_location != onnx.TensorProto.EXTERNAL)
    names = {i.name for i in small.graph.input}
    outside = [t for t in held.values() if t.data_location == onnx.TensorProto.EXTERNAL and t.name not in names]
    small.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in outside)
    small.ir_version = max(small.ir_version, 10)
    try:
        converted = onnx.version_converter.convert_version(small, BLOCKS)
    except Exception as error:  # the converter's own errors have no common base
        raise RequestError(
            found_wanted(
                "opset of the graph",
                f"{found}, which onnx {onnx.__version__} cannot raise to {BLOCKS} ({str(error)[:200]})",
                f"{least} or newer",
                "export the model again with a newer opset",
            )
        ) from error
    added = {t.name for t in outside}
    inputs = [i for i in converted.graph.input if i.name not in added]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    converted.graph.initializer.extend(outside)
    return converted
