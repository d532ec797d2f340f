"""Fixing symbolic sizes: an engine is built for one cache capacity, and TensorRT's KV-update layer demands that it is static."""

from __future__ import annotations

from collections.abc import Mapping

import onnx


def pin(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """A copy of ``model`` in which the symbols of ``sizes`` are numbers, e.g. ``{"B": 1, "C": 2048}``."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]  # a oneof: the name goes
    return result
