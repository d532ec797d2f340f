"""Contract, reference and body of ``farthing::QuantizedCachedAttention``.

`CachedAttention` whose cache holds 8-bit codes: a key is k_scale * code, a value v_scale * code, with one static scale for each key/value head and
feature. Keys have a few features of large values that stay the same for all tokens (Liu et al. 2024, KIVI, arXiv 2402.02750; Hooper et al. 2024,
KVQuant, arXiv 2401.18079), so a scale for each feature suits them; and a scale that does not depend on the token leaves the sums:

    score = sum_f q_f (k_scale_f code_f) = sum_f (q_f k_scale_f) code_f        y_f = sum_t w_t (v_scale_f code_tf) = v_scale_f sum_t w_t code_tf

The query is multiplied once, the result once, and no number of the cache is dequantised by itself. The cache stays two tensors a layer, a quarter
the size of float32. Keys are coded as they are cached, after norm and rotation. A code is the nearest (ties to even) of -128 to 127: what lies
beyond is clipped, and NaN becomes -128.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cached_attention.operator import (
    OPERATOR as CACHED_ATTENTION,
)
from ..cached_attention.operator import (
    attend,
    check_heads,
    check_rotary,
    mixed_values,
    side_by_side,
    split_and_turn,
    taken,
    turned_heads,
    write_rows,
)
from ..contract import Operator, Port

if TYPE_CHECKING:
    import torch

    from ..body_writer import BodyWriter

NAME = "QuantizedCachedAttention"

INPUTS = (
    "qkv", "cos", "sin", "past_k", "past_v", "past_len", "k_scale", "v_scale", "q_norm", "k_norm", "visible",
)  # fmt: skip

LOWEST, HIGHEST = -128, 127


def rules(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError for heads that do not divide and windows below 0."""
    check_heads(NAME, attributes)


def codes(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """int8 codes of x [B,Hkv,S,dh] for ``scale`` [Hkv,dh]: what the cache holds."""
    import torch

    steps = torch.round(x / scale[:, None].to(x.dtype))  # ties to even
    return steps.nan_to_num(LOWEST, HIGHEST, LOWEST).clamp(LOWEST, HIGHEST).to(torch.int8)


def reference(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    past_k: torch.Tensor,
    past_v: torch.Tensor,
    past_len: torch.Tensor,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    visible: torch.Tensor | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    scale: float,
    window: int = 0,
    rotary_dim: int = 0,
    epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y [B,S,H*dh], present_k, present_v int8 [B,Hkv,C,dh]); shapes of the inputs as in ``OPERATOR``. Pure: copies the cache."""
    check_rotary(NAME, cos, past_k.shape[3], rotary_dim)
    for name, given in (("k_scale", k_scale), ("v_scale", v_scale)):
        if not bool((given > 0).all()):
            raise ValueError(f"{NAME}: {name} is not above 0 everywhere, expected positive numbers; quantize again")
    heads = (num_heads, kv_num_heads)
    q, k, v = split_and_turn(qkv, cos, sin, q_norm, k_norm, heads=heads, dim=past_k.shape[3], epsilon=epsilon)
    news = (codes(k, k_scale), codes(v, v_scale))
    present_k, present_v = write_rows(NAME, (past_k, past_v), news, past_len)
    group = num_heads // kv_num_heads
    many_k, many_v = (s.to(q.dtype).repeat_interleave(group, dim=0)[:, None] for s in (k_scale, v_scale))
    wide_k, wide_v = present_k.to(q.dtype), present_v.to(q.dtype)
    y = attend(NAME, q * many_k, wide_k, wide_v, past_len, visible, scale=scale, window=window)
    return y * many_v.squeeze(1).reshape(-1), present_k, present_v


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """The body of `CachedAttention` with QuantizeLinear in front of each TensorScatter and DequantizeLinear behind it.

    Both have a scale of 1 and a zero point of 0: an axis of their own they can have only one, scales here have two. So the division by the scales
    is a Div, and the multiplication by them is one of the queries and of the result. DequantizeLinear leaves its zero point out: with one, ONNX
    Runtime 1.32 stops at lowered graphs, whose DequantizeLinear it moves behind a Transpose with a zero point of another type.
    """
    import onnx

    from ..body_writer import BodyWriter

    w = BodyWriter(NAME)
    given = {name for name, there in zip(INPUTS, present, strict=False) if there}
    q, k, v = turned_heads(w, attributes, given)
    one = w.real(1.0)
    zero = w.node("Constant", [], value=onnx.helper.make_tensor("", onnx.TensorProto.INT8, [], [0]))
    wide: list[Any] = []
    for new, scale, past, out in ((k, "k_scale", "past_k", "present_k"), (v, "v_scale", "past_v", "present_v")):
        steps = w.node("Div", [new, w.node("Unsqueeze", [scale, w.ints(1)])])
        rows = w.node("QuantizeLinear", [steps, one, zero])
        w.node("TensorScatter", [past, rows, "past_len"], outputs=[out], axis=2)
        wide.append(w.node("DequantizeLinear", [out, one]))
    q = w.node("Mul", [q, _for_queries(w, attributes, "k_scale")])
    mixed = mixed_values(w, attributes, given, q, *wide)
    side_by_side(w, w.node("Mul", [mixed, _for_queries(w, attributes, "v_scale")]))  # type: ignore[arg-type]
    return w.function(taken(INPUTS, given), ["y", "present_k", "present_v"], [a.name for a in OPERATOR.attributes])


def _for_queries(w: BodyWriter, attributes: Mapping[str, Any], scale: str) -> str:
    """[H,1,dh] of scales [Hkv,dh]: each for the query heads that share the key/value head."""
    heads, kv_heads = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
    apart = w.node("Unsqueeze", [scale, w.ints(1)])
    if heads > kv_heads:
        apart = w.node("Expand", [apart, w.ints(1, heads // kv_heads, 1)])
    return w.node("Reshape", [apart, w.ints(heads, 1, -1)])  # type: ignore[return-value]


def _ports() -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Those of `CachedAttention` with a cache of int8, and the scales behind past_len."""
    cache, scales = ("B", "Hkv", "C", "dh"), ("Hkv", "dh")
    new = {
        "past_k": Port("past_k", cache, ("int8",), "codes of the keys, rotated; C is the capacity"),
        "past_v": Port("past_v", cache, ("int8",), "codes of the values"),
        "present_k": Port("present_k", cache, ("int8",), "key cache after the write", alias="past_k"),
        "present_v": Port("present_v", cache, ("int8",), "value cache after the write", alias="past_v"),
        "k_scale": Port("k_scale", scales, ("float32",), "above 0: a key is k_scale * code"),
        "v_scale": Port("v_scale", scales, ("float32",), "above 0: a value is v_scale * code"),
    }
    old = {p.name: p for p in (*CACHED_ATTENTION.inputs, *CACHED_ATTENTION.outputs)} | new
    return tuple(old[name] for name in INPUTS), tuple(old[p.name] for p in CACHED_ATTENTION.outputs)


_INPUTS, _OUTPUTS = _ports()
OPERATOR = Operator(
    name=NAME,
    doc="CachedAttention over a cache of int8 codes with one scale per key/value head and feature: a quarter of the bytes of float32.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=CACHED_ATTENTION.attributes,
    cost="4*B*H*S*(past+S)*dh FLOP; 2*B*Hkv*(past+S)*dh bytes of cache read",
    errors=(*CACHED_ATTENTION.errors, "a scale that is not above 0"),
    body=body,
    reference=reference,
    symbols=CACHED_ATTENTION.symbols,
    rules=rules,
)
