"""The bias behind a weight: what rounding does wrong on the mean input is made up for there.

With x the inputs and m their mean, the outputs of a rounded matrix Q err by (W - Q) x. A bias of (W - Q) m more takes the mean of that away (Nagel et
al. 2019, arXiv 1906.04721, section 4.2), for nothing at run time. What is left is the trace of (W - Q) C (W - Q)^T with C the covariance of the
inputs, so that is what GPTQ gets in place of the second moments: behind a ReLU, where inputs have large means, most of the error is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .layers import Weight, count_readers


def find_biases(model: onnx.ModelProto, weights: Sequence[Weight]) -> dict[str, str]:
    """By name of the weight, the initializer [outputs] that is added to its product and to nothing else.

    Convolutions without one get one of zeros: ``model`` is changed in place.
    """
    graph = model.graph
    shapes = {t.name: list(t.dims) for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    readers = count_readers(model)
    adds: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Add":
            for name in node.input:
                adds.setdefault(name, []).append(node)
    found = {}
    for weight in weights:
        if len(weight.uses) != 1:
            continue
        node = graph.node[weight.uses[0].index]
        name = _bias_input(node)
        if node.op_type == "Conv" and not name:
            name = f"{weight.name}.bias"
            graph.initializer.append(numpy_helper.from_array(np.zeros(weight.outputs, np.float32), name))
            del node.input[2:]
            node.input.append(name)
            shapes[name], readers[name] = [weight.outputs], 1
        y = node.output[0]
        if node.op_type == "MatMul" and readers.get(y) == 1 and len(adds.get(y, [])) == 1:
            name = next((n for n in adds[y][0].input if n != y), "")
        if shapes.get(name) == [weight.outputs] and readers.get(name) == 1:
            found[weight.name] = name
    return found


def _bias_input(node: onnx.NodeProto) -> str:
    """Of a Conv or a Gemm that scales nothing."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "MatMul" or len(node.input) < 3:
        return ""
    scaled = node.op_type == "Gemm" and (attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0)
    return "" if scaled else node.input[2]
