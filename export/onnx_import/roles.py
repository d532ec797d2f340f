"""Which constant of somebody else's decoder graph is which weight: read off the nodes that use it, never guessed.

Exporters that trace PyTorch name a node by the module it came from (``/model/layers.0/self_attn/q_proj/MatMul``) but may rename and
transpose the weight (``onnx::MatMul_1020`` [inputs, outputs]). So the module is taken from the node, and the layout from how the node
uses the constant. Every constant of more than one number must have a role; every operator must be one that a plain decoder has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from ...errors import CheckpointError, found_wanted
from ..checkpoint.huggingface import canonical

# fmt: off
OPERATORS = frozenset((
    "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "Cos", "Div", "Equal", "Expand", "Flatten", "Gather", "Gemm", "Identity",
    "IsNaN", "LessOrEqual", "MatMul", "Mul", "Neg", "Pow", "Range", "Reciprocal", "ReduceMean", "Reshape", "Shape", "Sigmoid", "Sin",
    "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Transpose", "Unsqueeze", "Where",
))
# fmt: on
"""What Llama, Qwen2 and Qwen3 become. A sliding window needs Greater, mixtures of experts TopK, capped logits Tanh, quantised weights
DequantizeLinear or an operator of com.microsoft: each is refused by its name."""

FREQUENCIES = "model.rotary_emb"
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
"""Types of shapes, axes and masks: never weights, which need DequantizeLinear where they are integers."""

_REWRAPPED = ("Identity", "Transpose")


@dataclass(frozen=True)
class Weight:
    """A constant of the file and how the graph uses it. ``transposed``: stored [inputs, outputs]."""

    tensor: TensorProto
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in our layout, [outputs, inputs] for matrices."""
        dims = tuple(self.tensor.dims)
        return dims[::-1] if self.transposed else dims

    def read(self, folder: Path) -> np.ndarray:
        """float32 in our layout; external data are mapped, not loaded."""
        array = _values(self.tensor, folder)
        return np.ascontiguousarray(array.T) if self.transposed else array


@dataclass(frozen=True)
class Roles:
    """What a graph holds: weights by our names, frequencies of the rotary embedding, the norms' epsilons by module."""

    weights: dict[str, Weight]
    frequencies: list[np.ndarray]
    epsilons: dict[str, float]


def read_roles(file: Path, model: onnx.ModelProto) -> Roles:
    """Assign every constant of ``model``, whose operators were checked; large values may lie beside ``file``.

    Raises CheckpointError naming what has no role.
    """
    constants = {t.name: t for t in _constants(model.graph)}
    used: dict[str, tuple[str, bool]] = {}
    source = {name: (name, False) for name in constants}
    weights: dict[str, Weight] = {}
    frequencies: dict[str, np.ndarray] = {}
    epsilons: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type in _REWRAPPED and node.input[0] in source:
            origin, turned = source[node.input[0]]
            if node.op_type == "Identity" or (len(constants[origin].dims) == 2 and _permutation(node) == [1, 0]):
                source[node.output[0]] = (origin, turned ^ (node.op_type == "Transpose"))
                continue
        module = module_of(node.name)
        for place, name in enumerate(node.input):
            if name not in source:
                continue
            origin, turned = source[name]
            tensor = constants[origin]
            if tensor.data_type in _WHOLE:
                continue
            if np.prod(tensor.dims) == 1:
                if node.op_type == "Add" and module.endswith("norm"):
                    epsilons[module] = float(_values(tensor, file.parent).reshape(()))
                continue
            if module == FREQUENCIES:
                frequencies[origin] = _values(tensor, file.parent).reshape(-1)
                continue
            role, layout = _role(node, module, place)
            if role is None or tensor.data_type != TensorProto.FLOAT:
                raise CheckpointError(_no_role(file, tensor, node))
            transposed = layout != turned
            if used.setdefault(role, (origin, transposed)) != (origin, transposed):
                raise CheckpointError(
                    found_wanted(
                        f"weight {role} of {file}",
                        f"both {used[role][0]} and {origin}",
                        "one constant",
                        "export it again",
                    )
                )
            weights[role] = Weight(tensor, transposed)
    return Roles(weights, list(frequencies.values()), epsilons)


def check_operators(file: Path, model: onnx.ModelProto) -> None:
    """Raise CheckpointError naming the operators that no decoder of the known families has."""
    found = sorted(
        {_full(n) for n in model.graph.node if n.domain not in ("", "ai.onnx") or n.op_type not in OPERATORS}
    )
    if "If" in found:
        raise CheckpointError(
            found_wanted(
                f"graph of {file}",
                "a merged decoder (an If over two graphs)",
                "one graph for prompts and steps",
                "export it again with a current optimum-onnx, which writes one model.onnx",
            )
        )
    if found:
        quantised = any(word in " ".join(found) for word in ("Quant", "MatMulInteger", "MatMulNBits"))
        raise CheckpointError(
            found_wanted(
                f"operators of {file}",
                ", ".join(found),
                "those of a plain Llama, Qwen2 or Qwen3 in float32",
                "export the unquantised model and use `farthing quantize` on the bundle"
                if quantised
                else "export it without optimisation, or from its checkpoint by `farthing export decoder`",
            )
        )


def module_of(name: str) -> str:
    """``model.layers.0.mlp.up_proj`` of the node name ``/model/layers.0/mlp/up_proj/MatMul``; empty where there is no path."""
    return name.strip("/").rpartition("/")[0].replace("/", ".")


def _role(node: onnx.NodeProto, module: str, place: int) -> tuple[str | None, bool]:
    """Our name of the weight at input ``place`` of ``node``, and whether an untransposed constant there is [inputs, outputs]."""
    match node.op_type, place:
        case "MatMul", 1:
            kind, layout = "weight", True
        case "Gemm", 1:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
                return None, False
            kind, layout = "weight", not attributes.get("transB", 0)
        case ("Gather", 0):
            kind, layout = "weight", False
        case ("Mul", _) if module.endswith("norm"):
            kind, layout = "weight", False
        case ("Add", _) | ("Gemm", 2):
            kind, layout = "bias", False
        case _:
            return None, False
    theirs = f"{module}.{kind}"
    ours = canonical(theirs)
    known = ours is not None and ours != theirs
    gathers = ours == "embed.weight"
    return (ours, layout) if known and gathers == (node.op_type == "Gather") else (None, False)


def _no_role(file: Path, tensor: TensorProto, node: onnx.NodeProto) -> str:
    kind = TensorProto.DataType.Name(tensor.data_type)
    return found_wanted(
        f"constant {tensor.name} of {file}",
        f"{kind} {list(tensor.dims)} at node {node.name or node.op_type} ({node.op_type}), which has no role",
        "a float32 weight of a Llama, Qwen2 or Qwen3 at a node that is named by its module",
        "export it again by optimum-onnx in float32, without optimisation",
    )


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensor = TensorProto()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    yield tensor
                elif attribute.name == "value_floats":
                    yield numpy_helper.from_array(np.array(attribute.floats, np.float32), node.output[0])


def _values(tensor: TensorProto, folder: Path) -> np.ndarray:
    if tensor.data_location != TensorProto.EXTERNAL:
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                found_wanted(f"constant {tensor.name}", f"not readable ({error})", "its values", "export it again")
            ) from error
    where = external_data_helper.ExternalDataInfo(tensor)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    try:
        return np.memmap(folder / where.location, dtype, "r", where.offset or 0, tuple(tensor.dims))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            found_wanted(
                f"external data of {tensor.name} in {folder / where.location}",
                f"not readable ({error})",
                f"{list(tensor.dims)} {dtype} at byte {where.offset or 0}",
                "copy the file again",
            )
        ) from error


def _permutation(node: onnx.NodeProto) -> list[int]:
    """Of two axes; without the attribute they are reversed."""
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])


def _full(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type
