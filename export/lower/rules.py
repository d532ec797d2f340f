"""How each operator that an older TensorRT does not read is said with operators that it does.

A rule gets the node and an Emitter, and emits nodes that compute the node's first output. Rules cover what our bodies
use of an operator, and refuse the rest by name; a graph that is lowered wrongly would be worse than one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto, helper

from ...errors import BundleError, found_wanted
from .emitter import FLOAT, Emitter

Rule = Callable[[onnx.NodeProto, Emitter], None]


def attributes_of(node: onnx.NodeProto) -> dict[str, object]:
    """The node's attributes as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _refuse(node: onnx.NodeProto, what: str, found: object, wanted: object) -> BundleError:
    return BundleError(
        found_wanted(f"{what} of {node.op_type} node {node.name}", found, wanted, "compile for TensorRT 10.15 or later")
    )


def _absent(node: onnx.NodeProto, inputs: Sequence[tuple[int, str]]) -> None:
    for index, name in inputs:
        if len(node.input) > index and node.input[index]:
            raise _refuse(node, f"input {name}", "given", "absent")


def rms_normalization(node: onnx.NodeProto, e: Emitter) -> None:
    """y = x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019); statistics in float32 as stash_type 1 wants."""
    found = attributes_of(node)
    x, scale = node.input[:2]
    dtype, rank = e.dtype(x), len(e.dims(x))
    axis = int(found.get("axis", -1)) % rank  # type: ignore[call-overload]
    wide = x if dtype == FLOAT else e.node("Cast", [x], to=FLOAT)
    squares = e.node("ReduceMean", [e.node("Mul", [wide, wide]), e.ints(*range(axis, rank))], keepdims=1)
    epsilon = e.real(float(found.get("epsilon", 1e-5)), FLOAT)  # type: ignore[arg-type]
    normed = e.node("Div", [wide, e.node("Sqrt", [e.node("Add", [squares, epsilon])])])
    if dtype != FLOAT:
        normed = e.node("Cast", [normed], to=dtype)
    e.node("Mul", [normed, scale], node.output[0])


def rotary_embedding(node: onnx.NodeProto, e: Emitter) -> None:
    """Half-split rotation of x [B,H,S,dh] by cos, sin [B,S,half] (Su et al. 2021)."""
    found = attributes_of(node)
    x, cos, sin = node.input[:3]
    _absent(node, [(3, "position_ids")])
    if found.get("interleaved", 0):
        raise _refuse(node, "interleaved", 1, 0)
    if len(e.dims(x)) != 4:
        raise _refuse(node, "rank of the input", len(e.dims(x)), 4)
    dim = e.size(x, 3)
    half = (int(found.get("rotary_embedding_dim", 0)) or dim) // 2  # type: ignore[call-overload]
    sizes = [half, half] if 2 * half == dim else [half, half, dim - 2 * half]
    first, second, *rest = e.split(x, sizes, 3)
    # One row of angles for all heads.
    cos, sin = (e.node("Unsqueeze", [table, e.ints(1)]) for table in (cos, sin))
    turned_first = e.node("Sub", [e.node("Mul", [first, cos]), e.node("Mul", [second, sin])])
    turned_second = e.node("Add", [e.node("Mul", [second, cos]), e.node("Mul", [first, sin])])
    e.node("Concat", [turned_first, turned_second, *rest], node.output[0], axis=3)


def tensor_scatter(node: onnx.NodeProto, e: Emitter) -> None:
    """present[b,h,start[b]+i,:] = update[b,h,i,:], the rest from past, as one ScatterND with indices [B,H,S,3].

    The indices depend on rows and start only, so that one tensor of them serves the keys and values of every layer.
    """
    found = attributes_of(node)
    past, update = node.input[:2]
    rank = len(e.dims(past))
    axis = int(found.get("axis", -2)) % rank  # type: ignore[call-overload]
    if rank != 4 or axis != 2:
        raise _refuse(node, "axis and rank", f"{axis} and {rank}", "2 and 4")
    zero = e.ints(0)
    head_count = e.ints(e.size(past, 1))
    batch_count = e.node("Shape", [update], start=0, end=1)
    row_count = e.node("Shape", [update], start=2, end=3)

    def count(size: str, axes: Sequence[int]) -> str:
        # 0 .. size-1 with axes of 1 around it.
        steps = e.node("Range", [e.scalar(0), e.node("Squeeze", [size, zero]), e.scalar(1)])
        return e.node("Unsqueeze", [steps, e.ints(*axes)])

    slot = count(row_count, (0, 1, 3))
    if len(node.input) > 2 and node.input[2]:
        slot = e.node("Add", [e.node("Unsqueeze", [node.input[2], e.ints(1, 2, 3)]), slot])
    mode = found.get("mode", b"linear")
    if mode == b"circular":
        slot = e.node("Mod", [slot, e.node("Shape", [past], start=2, end=3)])
    shape = e.node("Concat", [batch_count, head_count, row_count, e.ints(1)], axis=0)
    places = [count(batch_count, (1, 2, 3)), count(head_count, (0, 2, 3)), slot]
    index = e.node("Concat", [e.node("Expand", [place, shape]) for place in places], axis=3)
    e.node("ScatterND", [past, index, update], node.output[0])


def attention(node: onnx.NodeProto, e: Emitter) -> None:
    """softmax(scale * q k^T + mask) v for q [B,H,S,dh], k and v [B,Hkv,C,dh], mask [B or 1,1,S,C]; or with heads side by side in
    the features, [B,S,H*dh].

    Grouped heads (Ainslie et al. 2023) are folded into the rows, [B,Hkv,(H/Hkv)*S,dh]: a reshape, where repeating k and v would
    copy the cache. The mask is repeated instead, once for all layers.
    """
    found = attributes_of(node)
    _absent(node, [(4, "past_key"), (5, "past_value"), (6, "nonpad_kv_seqlen")])
    if any(node.output[1:]):
        raise _refuse(node, "outputs", len(node.output), 1)
    if found.get("is_causal", 0):
        raise _refuse(node, "is_causal", 1, "0 and an explicit mask")
    q, k, v = node.input[:3]
    rank = len(e.dims(q))
    if rank not in (3, 4) or any(len(e.dims(x)) != rank for x in (k, v)):
        raise _refuse(node, "rank of the input", rank, "3 or 4, of all three")
    dtype, wide = e.dtype(q), rank == 3
    if wide:
        heads, kv_heads = int(found["q_num_heads"]), int(found["kv_num_heads"])  # type: ignore[call-overload]
        dim, value_dim = e.size(q, 2) // heads, e.size(v, 2) // kv_heads
        q = _heads_apart(e, q, heads, dim)
        k, v = _heads_apart(e, k, kv_heads, dim), _heads_apart(e, v, kv_heads, value_dim)
    else:
        heads, kv_heads, dim, value_dim = e.size(q, 1), e.size(k, 1), e.size(q, 3), e.size(v, 3)
    group = heads // kv_heads
    scale = float(found.get("scale", 0.0)) or dim**-0.5  # type: ignore[arg-type]
    q = e.node("Mul", [q, e.real(scale, dtype)])
    if group > 1:
        q = e.node("Reshape", [q, e.ints(0, kv_heads, -1, dim)])
    scores = e.node("MatMul", [q, e.node("Transpose", [k], perm=[0, 1, 3, 2])])
    if softcap := float(found.get("softcap", 0.0)):  # type: ignore[arg-type]
        cap = e.real(softcap, dtype)
        scores = e.node("Mul", [e.node("Tanh", [e.node("Div", [scores, cap])]), cap])
    if len(node.input) > 3 and node.input[3]:
        scores = _masked(node, e, scores, group)
    if dtype != FLOAT:
        scores = e.node("Cast", [scores], to=FLOAT)
    weights = e.node("Softmax", [scores], axis=-1)
    if dtype != FLOAT:
        weights = e.node("Cast", [weights], to=dtype)
    mixed = e.node("MatMul", [weights, v], None if wide or group > 1 else node.output[0])
    if group > 1:
        mixed = e.node("Reshape", [mixed, e.ints(0, heads, -1, value_dim)], None if wide else node.output[0])
    if wide:
        rows = e.node("Transpose", [mixed], perm=[0, 2, 1, 3])
        e.node("Reshape", [rows, e.ints(0, 0, heads * value_dim)], node.output[0])


def _heads_apart(e: Emitter, x: str, heads: int, dim: int) -> str:
    """[B,S,heads*dim] -> [B,heads,S,dim]."""
    return e.node("Transpose", [e.node("Reshape", [x, e.ints(0, 0, heads, dim)])], perm=[0, 2, 1, 3])


def _masked(node: onnx.NodeProto, e: Emitter, scores: str, group: int) -> str:
    mask = node.input[3]
    dims = e.dims(mask)
    if group > 1:
        if len(dims) == 4 and dims[1] not in (1, None):
            raise _refuse(node, "heads of the mask", dims[1], 1)
        # Row g*S + i of the folded scores belongs to row i: the mask one below the other, `group` times.
        mask = e.node("Tile", [mask, e.ints(*([1] * (len(dims) - 2)), group, 1)])
    if e.dtype(node.input[3]) != TensorProto.BOOL:
        return e.node("Add", [scores, mask])
    # The lowest finite value, not -inf: a row that sees nothing stays a number.
    dtype = e.dtype(node.input[0])
    return e.node("Where", [mask, scores, e.real(-65504.0 if dtype == TensorProto.FLOAT16 else -3.4e38, dtype)])


def group_normalization(node: onnx.NodeProto, e: Emitter) -> None:
    """(x - mean) / sqrt(variance + epsilon) over each group of channels of x [N,C,...], then * scale [C] + bias [C] (Wu and He 2018)."""
    found = attributes_of(node)
    x, scale, bias = node.input[:3]
    # Types from the scale: shape inference knows none behind a GroupNormalization, so x of the next one has none.
    groups, dtype = int(found["num_groups"]), e.dtype(scale)  # type: ignore[call-overload]
    rows = e.node("Reshape", [x, e.ints(0, groups, -1)])
    if dtype != FLOAT:
        rows = e.node("Cast", [rows], to=FLOAT)
    centred = e.node("Sub", [rows, e.node("ReduceMean", [rows, e.ints(2)], keepdims=1)])
    variance = e.node("ReduceMean", [e.node("Mul", [centred, centred]), e.ints(2)], keepdims=1)
    epsilon = e.real(float(found.get("epsilon", 1e-5)), FLOAT)  # type: ignore[arg-type]
    normed = e.node("Div", [centred, e.node("Sqrt", [e.node("Add", [variance, epsilon])])])
    if dtype != FLOAT:
        normed = e.node("Cast", [normed], to=dtype)
    channels = e.node("Reshape", [normed, e.ints(0, e.size(scale, 0), -1)])
    scale, bias = (e.node("Unsqueeze", [v, e.ints(1)]) for v in (scale, bias))
    shifted = e.node("Add", [e.node("Mul", [channels, scale]), bias])
    e.node("Reshape", [shifted, e.node("Shape", [x])], node.output[0])


def swish(node: onnx.NodeProto, e: Emitter) -> None:
    """x * sigmoid(alpha * x)."""
    x = node.input[0]
    alpha = float(attributes_of(node).get("alpha", 1.0))  # type: ignore[arg-type]
    scaled = x if alpha == 1.0 else e.node("Mul", [x, e.real(alpha, e.dtype(x))])
    e.node("Mul", [x, e.node("Sigmoid", [scaled])], node.output[0])


def cast_like(node: onnx.NodeProto, e: Emitter) -> None:
    """A Cast to the dtype that the second input has; nothing but a name where it is that of the first."""
    value, like = node.input
    if e.dtype(value) == e.dtype(like):
        e.node("Identity", [value], node.output[0])
    else:
        e.node("Cast", [value], node.output[0], to=e.dtype(like))


RULES: dict[str, Rule] = {
    "Attention": attention,
    "CastLike": cast_like,
    "GroupNormalization": group_normalization,
    "RMSNormalization": rms_normalization,
    "RotaryEmbedding": rotary_embedding,
    "Swish": swish,
    "TensorScatter": tensor_scatter,
}
"""Operator of the default domain -> its rule."""
