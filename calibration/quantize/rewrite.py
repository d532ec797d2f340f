"""Rewriting a decoder graph: every Linear becomes a QuantizedLinear, the embedding a smaller table.

Weights in small floats become DequantizeLinear + MatMul outright: TensorRT computes with them, our kernels do not.
The body of a QuantizedLinear is DequantizeLinear + MatMul, which ONNX Runtime fuses into its MatMulNBits kernel, TensorRT reads, and anything else computes
as it stands. The weight turns from [outputs, inputs] to [inputs, outputs], since MatMul wants it so and the fusion demands a
constant with blocks along axis 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...errors import BundleError, found_wanted
from ...export.graph import Progress, no_progress
from ...export.graph.external_data import ExternalData
from ...plugins import DOMAIN, operator
from ...runtime import tensors as names
from .blocks import Blocks, pack_nibbles, round_blocks
from .folding import ScaledTensors
from .gptq import round_gptq
from .moments import InputMoments
from .options import BITS, SMALL_FLOATS, Options
from .plan import HEAD, LayerPlan
from .small_floats import FP4_BLOCK, round_fp8, round_nvfp4
from .tensors import FLOATS, SourceTensors, TargetTensors

_CODES = {
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
}


_CODED = (".codes", ".scales")
_SYMMETRIC = "symmetric"
"""Overload of QuantizedLinear without zero points: a graph has one body for each."""

_F16_MAX = 65504.0


@dataclass(frozen=True)
class Rewritten:
    """What was written: file names inside the folder, and how many Linear nodes were quantised or kept as they are."""

    file: str
    data: list[str]
    quantized: int
    kept: int
    tensors: TargetTensors
    """What was written, to be lent to graphs of the same weights."""


def rewrite_decoder(
    source: Path,
    folder: Path,
    options: Options,
    *,
    moments: InputMoments | None = None,
    stand_in: bool = False,
    lender: TargetTensors | None = None,
    plan: LayerPlan | None = None,
    progress: Progress = no_progress,
) -> Rewritten:
    """Quantise the graph in file ``source`` into ``folder`` under the same file name. ``moments`` of its inputs: for rounding by GPTQ. ``plan``:
    what is decided of single matrices.

    ``stand_in``: write nvfp4 weights as the float32 numbers they stand for, since ONNX Runtime has no 4-bit floats. ``lender``: the tensors of
    a graph of the same weights that was rewritten into ``folder`` before.

    One tensor is in memory at a time. Same input and options, same bytes. Raises BundleError for weights that are not finite and
    for graphs that are quantised already or not made by the exporter.
    """
    model = onnx.load(str(source), load_external_data=False)
    with ExternalData(folder / f"{source.name}.data") as data:
        target = TargetTensors(data, lender)
        rewriter = _Rewriter(source, model, target, options, moments, progress, plan)
        rewriter.stand_in = stand_in
        rewriter.run()
        path = folder / source.name
        path.write_bytes(model.SerializeToString(deterministic=True))
        return Rewritten(path.name, target.files, rewriter.quantized, rewriter.kept, target)


class _Rewriter:
    def __init__(
        self,
        path: Path,
        model: onnx.ModelProto,
        target: TargetTensors,
        options: Options,
        moments: InputMoments | None,
        progress: Progress,
        plan: LayerPlan | None = None,
    ) -> None:
        self._moments = moments
        self.plan = plan or LayerPlan()
        self.stand_in = False
        self.path, self.model, self.target, self.options = path, model, target, options
        factors = self.plan.factors
        self.source = SourceTensors(path, model) if factors is None else ScaledTensors(path, model, factors)
        self.nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()
        self.quantized = self.kept = 0
        self._progress = progress
        self._done = 0
        self._total = sum(int(np.prod(t.dims)) for t in model.graph.initializer)

    def run(self) -> None:
        """Rewrite ``model`` in place."""
        graph = self.model.graph
        for node in graph.node:
            if node.op_type in ("DequantizeLinear", "QuantizedLinear"):
                raise BundleError(
                    found_wanted(
                        f"graph {self.path}", "quantised already", "a float32 or float16 graph", "start from its source"
                    )
                )
            if node.domain == DOMAIN and node.op_type == "Linear" and node.input[1] in self.source:
                self._linear(node)
            elif node.op_type == "Gather" and node.input[1] == names.INPUT_IDS and node.input[0] in self.source:
                self._embedding(node)
            else:
                self._copy(node)
        for field, values in (("node", self.nodes), ("initializer", self.target.protos)):
            graph.ClearField(field)  # type: ignore[arg-type]
            getattr(graph, field).extend(values)
        for overload in ("", _SYMMETRIC):
            body = operator("QuantizedLinear").body({}, [True] * (3 if overload else 4))
            body.overload = overload
            self.model.functions.append(body)
        self._drop_unused_functions()

    def _copy(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            if name in self.source and name not in self.target:
                self.target.add(name, self.source.dtype(name), self.source.shape(name), self.source.array(name))
        self.nodes.append(node)

    def _linear(self, node: onnx.NodeProto) -> None:
        x, weight, *bias = node.input
        is_head = node.output[0] == names.LOGITS
        kind = self.options.head if is_head else self.options.weights
        kind = self.plan.widths.get(HEAD if is_head else weight, kind)
        y = node.output[0]
        if kind in FLOATS:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[1] = self._float(weight, kind)
            self._copy(copy)
            self.kept += 1
            return
        product = y + "_product" if bias else y
        if kind in SMALL_FLOATS:
            dense = self._fp8(weight) if kind == "fp8" else self._nvfp4(weight)
            self._node("MatMul", [x, dense], [product])
        else:
            codes = self._quantized(HEAD if is_head else weight, weight, BITS[kind], None if is_head else x)
            self._node("QuantizedLinear", [x, *codes], [product], domain=DOMAIN, block_size=self.options.block)
            if len(codes) == len(_CODED):
                self.nodes[-1].overload = _SYMMETRIC
        if bias:
            self._copy(helper.make_node("Add", [y + "_product", *bias], [y], name=f"{y}/Add"))
        self.quantized += 1

    def _quantized(self, name: str, weight: str, bits: int, x: str | None) -> list[str]:
        """Names of codes, scales and zero points, if any, of the weight, rounded for the inputs ``x`` where their moments are known."""
        block, symmetric = self.options.block, self.options.is_symmetric(bits)
        parts = [name + suffix for suffix in (_CODED if symmetric else (*_CODED, ".zeros"))]
        if parts[0] in self.target:
            return parts

        def rounded() -> Blocks:
            matrix = self._matrix(weight)
            if self._moments is None or x is None:
                return round_blocks(matrix, bits, block, symmetric=symmetric)
            moments = self.plan.moments(weight, self._moments.of(x))
            return round_gptq(matrix, moments, bits, block, symmetric=symmetric)

        blocks = self.plan.blocks(name, bits, rounded)

        def add(to: str, codes: np.ndarray) -> None:
            turned = np.ascontiguousarray(codes.T)
            packed = pack_nibbles(turned) if bits == 4 else turned
            self.target.add(to, _CODES[bits, symmetric], turned.shape, packed)

        add(parts[0], blocks.codes)
        scales = np.ascontiguousarray(blocks.scales.T)
        self.target.add(parts[1], TensorProto.FLOAT, scales.shape, scales)
        if blocks.zeros is not None:
            add(parts[2], blocks.zeros)
        self._advance(blocks.codes.size)
        return parts

    def _fp8(self, weight: str) -> str:
        """Name of the value [K,N] that the weight becomes, and nodes that make it of E4M3."""
        if weight + ".codes" not in self.target:
            rounded = round_fp8(self._matrix(weight))
            turned = np.ascontiguousarray(rounded.codes.T).view(np.uint8)
            self.target.add(weight + ".codes", TensorProto.FLOAT8E4M3FN, turned.shape, turned)
            self.target.add(weight + ".scales", TensorProto.FLOAT, rounded.scales.shape, rounded.scales)
            self._advance(turned.size)
        if self._first_use(weight):
            self._node("DequantizeLinear", [weight + ".codes", weight + ".scales"], [weight], axis=1)
        return weight

    def _first_use(self, weight: str) -> bool:
        """Whether no node of this graph has made ``weight`` yet."""
        first = weight not in self._made
        self._made.add(weight)
        return first

    def _nvfp4(self, weight: str) -> str:
        """The same, of blocks of E2M1: their scales are themselves dequantised, by one number for the matrix."""
        if weight in self.target:
            return weight
        if weight + ".codes" in self.target:
            return self._from_blocks(weight)
        matrix = self._matrix(weight)
        if matrix.shape[1] % FP4_BLOCK:
            raise BundleError(
                found_wanted(
                    f"inputs of tensor {weight} of {self.path}",
                    matrix.shape[1],
                    f"a multiple of {FP4_BLOCK} for nvfp4",
                    "choose fp8 or int4",
                )
            )
        rounded = round_nvfp4(matrix)
        if self.stand_in:
            dense = np.ascontiguousarray(rounded.dense().T)
            self.target.add(weight, TensorProto.FLOAT, dense.shape, dense)
            return weight
        turned = np.ascontiguousarray(rounded.codes.T)
        packed = pack_nibbles(turned.view(np.uint8))
        self.target.add(weight + ".codes", TensorProto.FLOAT4E2M1, turned.shape, packed)
        scales = np.ascontiguousarray(rounded.scales.T).view(np.uint8)
        self.target.add(weight + ".scales", TensorProto.FLOAT8E4M3FN, scales.shape, scales)
        self.target.add(weight + ".whole", TensorProto.FLOAT, (), np.asarray(rounded.whole, np.float32))
        self._advance(turned.size)
        return self._from_blocks(weight)

    def _from_blocks(self, weight: str) -> str:
        """Nodes that make ``weight`` of its codes, once in a graph."""
        if self._first_use(weight):
            self._node("DequantizeLinear", [weight + ".scales", weight + ".whole"], [weight + ".steps"])
            codes = [weight + ".codes", weight + ".steps"]
            self._node("DequantizeLinear", codes, [weight], axis=0, block_size=FP4_BLOCK)
        return weight

    def _embedding(self, node: onnx.NodeProto) -> None:
        table, ids = node.input
        out, kind, has = node.output[0], self.options.embedding, self.source.dtype(table)
        if kind == "int8":
            # One scale per row, looked up beside it: the table is dequantised row by row after the Gather, never as a whole.
            blocks = round_blocks(self._matrix(table), 8, self.source.shape(table)[1])
            codes = self.target.add(table + ".codes", TensorProto.INT8, blocks.codes.shape, blocks.codes)
            scales = self.target.add(table + ".scales", TensorProto.FLOAT, blocks.scales.shape, blocks.scales)
            self._node("Gather", [codes, ids], [out + "_codes"], axis=0)
            self._node("Gather", [scales, ids], [out + "_scale"], axis=0)
            self._node("Cast", [out + "_codes"], [out + "_wide"], to=TensorProto.FLOAT)
            self._node("Mul", [out + "_wide", out + "_scale"], [out])
        else:
            # A float16 source has a Cast behind this node already; for a float32 one it is added here.
            cast = kind == "float16" and has == TensorProto.FLOAT
            rows = out + "_rows" if cast else out
            self._node("Gather", [self._float(table, kind), ids], [rows], axis=0)
            if cast:
                self._node("Cast", [rows], [out], to=TensorProto.FLOAT)
        self._advance(int(np.prod(self.source.shape(table))))

    def _float(self, name: str, kind: str) -> str:
        """The matrix ``name`` stored as ``kind``, written once per kind; returns its name in the new graph."""
        # An embedding in float16 beside a float32 head of the same matrix: two tensors, two names.
        new = name if kind == self.options.embedding or name != "embed.weight" else "head.weight"
        if new not in self.target:
            array = self._matrix(name)
            narrow = np.dtype("<f2" if kind == "float16" else "<f4")
            largest = max(float(array.max()), -float(array.min()))
            if kind == "float16" and largest > _F16_MAX:
                raise BundleError(
                    found_wanted(
                        f"largest value of tensor {name} of {self.path}",
                        largest,
                        f"at most {_F16_MAX:.0f} for float16",
                        "choose float32 for it",
                    )
                )
            self.target.add(new, FLOATS[kind], array.shape, array.astype(narrow))
        return new

    def _matrix(self, name: str) -> np.ndarray:
        array = self.source.array(name)
        if array.ndim != 2 or self.source.dtype(name) not in FLOATS.values():
            raise BundleError(
                found_wanted(
                    f"tensor {name} of {self.path}",
                    f"{array.dtype} {list(array.shape)}",
                    "a float matrix",
                    "quantize a bundle that `farthing export` made",
                )
            )
        step = max(1, (1 << 20) // max(1, array.shape[1]))
        for first in range(0, array.shape[0], step):
            fine = np.isfinite(array[first : first + step])
            if not fine.all():
                row, column = (int(i) for i in np.argwhere(~fine)[0])
                raise BundleError(
                    found_wanted(
                        f"tensor {name} of {self.path}",
                        f"{array[first + row, column]} at [{first + row}, {column}]",
                        "finite numbers",
                        "export the bundle again from a sound checkpoint",
                    )
                )
        return array

    def _node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{outputs[0]}/{op}", **attributes))

    def _advance(self, values: int) -> None:
        self._done += values
        self._progress("quantising", min(self._done, self._total), self._total)

    def _drop_unused_functions(self) -> None:
        """Bodies of operators that no node uses any more, and the domain if none is left."""
        bodies = {(f.domain, f.name, f.overload): f for f in self.model.functions}
        used: set[_Key] = set()
        waiting = list(_called(self.nodes, bodies))
        while waiting:
            key = waiting.pop()
            if key not in used:
                used.add(key)
                waiting += _called(bodies[key].node, bodies)
        keep = [f for key, f in bodies.items() if key in used]
        self.model.ClearField("functions")
        self.model.functions.extend(keep)


_Key = tuple[str, str, str]


def _called(nodes: Iterable[onnx.NodeProto], bodies: dict[_Key, Any]) -> list[_Key]:
    return [key for n in nodes if (key := (n.domain, n.op_type, n.overload)) in bodies]
