"""`lower`: inline bodies, decompose what a generation does not read, merge what became equal, check the result."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from ...errors import BundleError, RequestError, found_wanted
from ...plugins import DOMAIN, DOMAIN_VERSION
from ..graph.opset import AXES, raised
from .emitter import Emitter
from .generations import Generation, generation
from .merge import merge_equal, share_sizes
from .quantized import check_quantization, dequantize_before_gather
from .rules import RULES

_PLUGIN_VERSION = "1"
"""Version under which our plugin creators register."""


def lower(model: onnx.ModelProto, version: str, *, plugins: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of ``model`` for TensorRT ``version``; weights in external data stay where they are.

    Nodes of the operators in ``plugins`` stay nodes and lose their bodies: the parser's choice between a plugin and a
    local function of one name differs between versions (function first up to 10.6 or so, then plugin first, then function first
    unless a flag is set; ModelImporter.cpp of github.com/onnx/onnx-tensorrt), so it never gets to choose.

    Raises RequestError (unknown version or operator) and BundleError (a node that has no decomposition).
    """
    target = generation(version)
    bodies = {f.name for f in model.functions if f.domain == DOMAIN}
    used = {n.op_type for n in model.graph.node if n.domain == DOMAIN}
    for name in used - bodies - set(plugins):
        raise BundleError(
            found_wanted(f"body of operator {name}", "missing", "a local function", "export the bundle again")
        )
    for name in plugins:
        if name not in bodies | used:
            raise RequestError(
                found_wanted("plugin", repr(name), f"one of {', '.join(sorted(bodies)) or 'none'}", "leave it out")
            )
    # Imported graphs come in any opset; ours, whose bodies the converter does not know, are new enough.
    return _lowered(raised(model, AXES), target, frozenset(plugins))


def _lowered(model: onnx.ModelProto, target: Generation, plugins: frozenset[str]) -> onnx.ModelProto:
    from onnx import inliner

    known = _types(onnx.shape_inference.infer_shapes(inliner.inline_local_functions(model), data_prop=True).graph)
    chosen = [(f.domain, f.name) for f in model.functions if f.domain != DOMAIN or f.name not in plugins]
    model = inliner.inline_selected_functions(model, chosen, exclude=False)
    graph = model.graph
    check_quantization(graph, target.opset)
    model.ClearField("functions")
    # Shape inference stops at a plugin node: say what comes out of it, as found with its body in place.
    present = {v.name for v in graph.value_info} | {v.name for v in graph.output}
    outputs = {o for n in graph.node if n.domain == DOMAIN for o in n.output}
    for name in sorted(outputs & known.keys() - present):
        graph.value_info.add(name=name).type.tensor_type.CopyFrom(known[name])
    types = _types(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    emitter = Emitter(types, _names(graph))
    _lower_graph(graph, emitter, target)
    graph.initializer.extend(emitter.initializers.values())
    dequantize_before_gather(graph)
    share_sizes(graph, types)
    merge_equal(graph)
    graph.ClearField("value_info")
    blocks = any(n.op_type == "DequantizeLinear" for n in graph.node)
    opset = max(target.opset, 21) if blocks else target.opset  # blocks came with 21
    model.ClearField("opset_import")
    model.opset_import.append(helper.make_opsetid("", opset))
    if any(n.domain == DOMAIN for n in graph.node):
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model.ir_version = target.ir_version
    _check(model)
    return model


def _check(model: onnx.ModelProto) -> None:
    """The ONNX checker, with weights in files as inputs: it would look for the files. Raises BundleError."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("initializer")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            copy.graph.initializer.append(tensor)
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        opset = max(o.version for o in model.opset_import if not o.domain)
        raise BundleError(
            found_wanted(
                "lowered graph",
                f"invalid in opset {opset} ({error})",
                "valid",
                "compile for a later TensorRT, or report it",
            )
        ) from error


def _lower_graph(graph: onnx.GraphProto, emitter: Emitter, target: Generation) -> None:
    """Rewrite the nodes of ``graph`` and of the graphs inside them (Loop, If, Scan)."""
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _lower_graph(inner, emitter, target)
        if target.decomposes(node, emitter.dtype):
            emitter.begin(node)
            RULES[node.op_type](node, emitter)
            nodes += emitter.nodes
            continue
        if node.domain == DOMAIN and target.namespace_attribute:
            node.attribute.append(helper.make_attribute("plugin_namespace", DOMAIN))
            node.attribute.append(helper.make_attribute("plugin_version", _PLUGIN_VERSION))
        nodes.append(node)
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    graph.ClearField("node")
    graph.node.extend(copies)


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Name -> dtype and sizes of every value that is known, graphs inside nodes included."""
    found = {v.name: v.type.tensor_type for v in [*graph.value_info, *graph.input, *graph.output]}
    for tensor in graph.initializer:
        found[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)).tensor_type
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                found |= _types(inner)
    return found


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    for node in graph.node:
        names |= {node.name, *node.output}
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                names |= _names(inner)
    return names
