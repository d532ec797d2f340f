"""Contract, reference and body of ``farthing::CachedAttention``.

One node does what a decoder layer needs between its two linears: optional per-head RMSNorm of q and k (Qwen3), rotary
embedding (Su et al. 2021, half-split layout as in Hugging Face checkpoints), writing k and v at ``past_len`` into a cache of
fixed capacity, and grouped-query attention (Ainslie et al. 2023) of row i over the slots 0 .. past_len + i.
The cache slot of a row is past_len + i; its rotary position is whatever ``cos`` and ``sin`` were computed from. The two
never mix, so tokens may be pruned or drafted without renumbering.

With ``visible`` a row sees the rows of its pass that its bits name, instead of all before it, and the past. That is a tree of
drafts (every row sees its ancestors) or blocks of mask tokens (Samragh et al. 2025). A row that sees n rows of the pass has position
past_len + n - 1, whatever its slot: the window counts from there, so of the past it sees the last window - n slots. `visible`
(the module) makes these bits. The kernels take the rows that a row sees in their order, as if they lay in a row behind the
past: the result is bit for bit that of plain decoding along the path. Where the window is shorter than a path, the caller leaves
the rows out that it has passed, and the result is equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract import Attribute, Operator, Port

if TYPE_CHECKING:
    import torch

    from ..body_writer import BodyWriter

INPUTS = ("qkv", "cos", "sin", "past_k", "past_v", "past_len", "q_norm", "k_norm", "visible")


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Half-split rotation of the first 2*cos.shape[-1] features of x [B,H,S,dh] by cos, sin [B,S,half]."""
    import torch

    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _head_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    import torch

    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def check_heads(name: str, attributes: Mapping[str, Any]) -> None:
    """Raise ValueError, as operator ``name``, for heads that do not divide and windows below 0."""
    heads, kv_heads, window = (int(attributes[n]) for n in ("num_heads", "kv_num_heads", "window"))
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(
            f"{name}: num_heads / kv_num_heads is {heads} / {kv_heads}, expected a whole number; export again"
        )
    if window < 0:
        raise ValueError(f"{name}: window is {window}, expected 0 or more; export again")


def rules(attributes: Mapping[str, Any]) -> None:
    """`check_heads` of this operator."""
    check_heads("CachedAttention", attributes)


def check_rotary(name: str, cos: torch.Tensor, dim: int, rotary_dim: int) -> None:
    """Raise ValueError, as operator ``name``, for angles [B,S,half] that do not fit heads of ``dim`` features."""
    half = rotary_dim // 2 if rotary_dim else cos.shape[-1]
    if cos.shape[-1] != half or 2 * half > dim:
        shape = ",".join(map(str, cos.shape))
        raise ValueError(
            f"{name}: cos is [{shape}], expected [B,S,{half}] and 2*{half} <= {dim}; check positions and rotary_dim"
        )


def _sees(name: str, visible: torch.Tensor | None, batch: int, rows: int, window: int) -> torch.Tensor:
    """bool [B,S,S]: row i sees row j of the pass. Raises ValueError for bits that name no row, and rows without themselves."""
    import torch

    if visible is None:
        before = torch.ones(rows, rows, dtype=torch.bool).tril()
        return (before.triu(1 - window) if window else before).expand(batch, rows, rows)
    if visible.shape[-1] != (rows + 63) // 64:
        shape = ",".join(map(str, visible.shape))
        raise ValueError(
            f"{name}: visible is [{shape}], expected [{batch},{rows},{(rows + 63) // 64}]; give 64 rows a word"
        )
    bits = (visible[..., None] >> torch.arange(64) & 1).bool().flatten(2)
    for b, i in torch.nonzero(bits[..., rows:].any(-1)).tolist():
        raise ValueError(
            f"{name}: visible[{b},{i}] is a set with rows beyond the pass, expected rows 0 to {rows - 1}; "
            "clear the bits behind them"
        )
    sees = bits[..., :rows]
    for b, i in torch.nonzero(~sees.diagonal(dim1=1, dim2=2)).tolist():
        raise ValueError(f"{name}: visible[{b},{i}] is a set without row {i}, expected it inside; a row sees itself")
    return sees


def _seen_slots(past_len: torch.Tensor, sees: torch.Tensor, capacity: int, window: int) -> torch.Tensor:
    """bool [B,S,C]: what each row sees of the cache, given what it sees of its pass [B,S,S]."""
    import torch

    rows = sees.shape[1]
    behind = torch.arange(capacity)[None, None] - past_len[:, None, None]  # of each slot, relative to the pass [B,1,C]
    own = sees.gather(2, behind.clamp(0, rows - 1).expand(-1, rows, -1))
    seen = (behind < 0) | (own & (behind >= 0) & (behind < rows))
    if window:
        last = sees.sum(-1, keepdim=True) - 1  # the row's position, relative to the pass
        seen &= (behind > last - window) | (behind >= 0)
    return seen


def reference(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    past_k: torch.Tensor,
    past_v: torch.Tensor,
    past_len: torch.Tensor,
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
    """(y [B,S,H*dh], present_k, present_v [B,Hkv,C,dh]); shapes of the inputs as in ``OPERATOR``. Pure: copies the cache."""
    check_rotary("CachedAttention", cos, past_k.shape[3], rotary_dim)
    heads = (num_heads, kv_num_heads)
    q, k, v = split_and_turn(qkv, cos, sin, q_norm, k_norm, heads=heads, dim=past_k.shape[3], epsilon=epsilon)
    present_k, present_v = write_rows("CachedAttention", (past_k, past_v), (k, v), past_len)
    y = attend("CachedAttention", q, present_k, present_v, past_len, visible, scale=scale, window=window)
    return y, present_k, present_v


def split_and_turn(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    *,
    heads: tuple[int, int],
    dim: int,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [B,H,S,dh], keys and values [B,Hkv,S,dh] of a pass; ``heads`` is (H, Hkv). Normed and rotated, not yet scaled."""
    batch, rows, _ = qkv.shape
    many, few = heads
    packed = qkv.view(batch, rows, many + 2 * few, dim).transpose(1, 2)
    q, k, v = packed.split([many, few, few], dim=1)
    if q_norm is not None:
        q = _head_norm(q, q_norm, epsilon)
    if k_norm is not None:
        k = _head_norm(k, k_norm, epsilon)
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v


def write_rows(
    name: str,
    pasts: tuple[torch.Tensor, torch.Tensor],
    news: tuple[torch.Tensor, torch.Tensor],
    past_len: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of the caches ``pasts`` [B,Hkv,C,dh] with the rows ``news`` [B,Hkv,S,dh] at ``past_len``. Raises ValueError, as operator ``name``."""
    capacity, rows = pasts[0].shape[2], news[0].shape[2]
    copies = (pasts[0].clone(), pasts[1].clone())
    for b, start in enumerate(past_len.tolist()):
        if start < 0 or start + rows > capacity:
            raise ValueError(
                f"{name}: past_len + rows is {start} + {rows}, expected 0 to {capacity}; "
                "open the bundle with a longer context"
            )
        for copy, new in zip(copies, news, strict=True):
            copy[b, :, start : start + rows] = new[b]
    return copies


def attend(
    name: str,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    past_len: torch.Tensor,
    visible: torch.Tensor | None,
    *,
    scale: float,
    window: int,
) -> torch.Tensor:
    """[B,S,H*dh]: queries [B,H,S,dh] over the slots of ``keys`` and ``values`` [B,Hkv,C,dh] that they see. Raises ValueError, as operator ``name``."""
    batch, heads, rows, dim = q.shape
    seen = _seen_slots(past_len, _sees(name, visible, batch, rows, window), keys.shape[2], window)
    group = heads // keys.shape[1]
    keys, values = (cache.repeat_interleave(group, dim=1) for cache in (keys, values))
    scores = (q @ keys.transpose(2, 3)) * scale
    scores = scores.masked_fill(~seen[:, None], float("-inf"))
    # Slots beyond the length hold whatever was there: a NaN there must not reach the output through 0 * NaN.
    values = values.masked_fill(~seen.any(1)[:, None, :, None], 0.0)
    y = scores.softmax(-1) @ values
    return y.transpose(1, 2).reshape(batch, rows, heads * dim)


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """Split, (RMSNormalization), RotaryEmbedding, TensorScatter, explicit mask, Attention.

    The mask is explicit because TensorRT drops Attention's ``nonpad_kv_seqlen`` with only a warning. It depends on nothing
    that differs between layers, so common-subexpression elimination leaves one mask for the whole graph.
    """
    from ..body_writer import BodyWriter

    w = BodyWriter("CachedAttention")
    given = {name for name, there in zip(INPUTS, present, strict=False) if there}
    q, k, v = turned_heads(w, attributes, given)
    w.node("TensorScatter", ["past_k", k, "past_len"], outputs=["present_k"], axis=2)
    w.node("TensorScatter", ["past_v", v, "past_len"], outputs=["present_v"], axis=2)
    mixed = mixed_values(w, attributes, given, q, "present_k", "present_v")
    side_by_side(w, mixed)
    return w.function(taken(INPUTS, given), ["y", "present_k", "present_v"], [a.name for a in OPERATOR.attributes])


def taken(inputs: Sequence[str], given: Collection[str]) -> Sequence[str]:
    """Of the inputs of the operator those up to the last that is there: what a body declares."""
    return inputs[: 1 + max(i for i, name in enumerate(inputs) if name in given)]


def turned_heads(w: BodyWriter, attributes: Mapping[str, Any], given: Collection[str]) -> tuple[str, str, str]:
    """Values q [B,H,S,dh], k, v [B,Hkv,S,dh] of the input qkv, with the norms that are among ``given``, rotated."""
    heads, kv_heads = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
    # [B,S,(H+2Hkv)*dh] -> [B,S,H+2Hkv,dh] -> heads first, then split by head.
    packed = w.node(
        "Transpose", [w.node("Reshape", ["qkv", w.ints(0, 0, heads + 2 * kv_heads, -1)])], perm=[0, 2, 1, 3]
    )
    q, k, v = w.node("Split", [packed, w.ints(heads, kv_heads, kv_heads)], outputs=3, axis=1)
    if "q_norm" in given:
        epsilon = float(attributes.get("epsilon", 1e-6))
        q = w.node("RMSNormalization", [q, "q_norm"], axis=-1, epsilon=epsilon)
        k = w.node("RMSNormalization", [k, "k_norm"], axis=-1, epsilon=epsilon)
    rotary = int(attributes.get("rotary_dim", 0))
    q = w.node("RotaryEmbedding", [q, "cos", "sin"], rotary_embedding_dim=rotary)
    k = w.node("RotaryEmbedding", [k, "cos", "sin"], rotary_embedding_dim=rotary)
    return q, k, v


def mixed_values(
    w: BodyWriter, attributes: Mapping[str, Any], given: Collection[str], q: str, keys: str, values: str
) -> str:
    """Attention [B,H,S,dh] of q over the caches ``keys`` and ``values`` [B,Hkv,C,dh], with the mask of what each row sees."""
    window = int(attributes.get("window", 0))
    seen = _named_rows(w, window) if "visible" in given else _rows_before(w, window)
    return w.node("Attention", [q, keys, values, seen], is_causal=0, scale=float(attributes["scale"]))  # type: ignore[return-value]


def side_by_side(w: BodyWriter, mixed: str) -> None:
    """The output y [B,S,H*dh] of heads [B,H,S,dh]."""
    w.node("Reshape", [w.node("Transpose", [mixed], perm=[0, 2, 1, 3]), w.ints(0, 0, -1)], outputs=["y"])


def _rows_before(w: BodyWriter, window: int) -> str:
    """bool [B,1,S,C]: seen[b,0,i,j] = j <= past_len[b] + i  (and > past_len[b] + i - window)."""
    zero, one = w.ints(0), w.ints(1)
    rows = w.node("Squeeze", [w.node("Shape", ["qkv"], start=1, end=2), zero])
    capacity = w.node("Squeeze", [w.node("Shape", ["past_k"], start=2, end=3), zero])
    row = w.node("Unsqueeze", [w.node("Range", [w.scalar(0), rows, w.scalar(1)]), one])  # [S,1]
    slot = w.node("Range", [w.scalar(0), capacity, w.scalar(1)])  # [C]
    own = w.node("Add", [w.node("Unsqueeze", ["past_len", w.ints(1, 2, 3)]), row])  # [B,1,S,1]
    visible = w.node("LessOrEqual", [slot, own])
    if window:
        visible = w.node("And", [visible, w.node("Greater", [slot, w.node("Sub", [own, w.scalar(window)])])])
    return visible


def _named_rows(w: BodyWriter, window: int) -> str:
    """bool [B,1,S,C] from the bits of ``visible``.

    By division, not BitwiseAnd, which TensorRT-RTX refuses; the sign is bit 63, and is taken off first, since division of
    negative numbers rounds towards zero.
    """
    zero, one, two = w.ints(0), w.ints(1), w.ints(2)
    rows = w.node("Shape", ["qkv"], start=1, end=2)
    sign = w.node("Cast", [w.node("Less", ["visible", zero])], to=7)
    half = w.node("Mul", [sign, w.ints(1 << 62)])
    low = w.node("Add", [w.node("Add", ["visible", half]), half])
    shifted = w.node("Div", [w.node("Unsqueeze", [low, w.ints(3)]), w.ints(*(1 << j for j in range(63)))])
    bits = w.node("Concat", [w.node("Mod", [shifted, two]), w.node("Unsqueeze", [sign, w.ints(3)])], axis=3)
    sees = w.node("Reshape", [bits, w.ints(0, 0, -1)])  # [B,S,64*W]
    # behind[b,0,j] = j - past_len[b]: the row of the pass that slot j holds
    capacity = w.node("Squeeze", [w.node("Shape", ["past_k"], start=2, end=3), zero])
    slot = w.node("Range", [w.scalar(0), capacity, w.scalar(1)])
    behind = w.node("Sub", [slot, w.node("Unsqueeze", ["past_len", w.ints(1, 2)])])
    inside = w.node("Max", [w.node("Min", [behind, w.node("Sub", [rows, one])]), zero])
    shape = w.node("Concat", [w.node("Shape", ["qkv"], start=0, end=2), w.node("Shape", [slot])], axis=0)
    own = w.node("Greater", [w.node("GatherElements", [sees, w.node("Expand", [inside, shape])], axis=2), zero])
    in_past = w.node("Less", [behind, zero])
    in_pass = w.node("And", [w.node("GreaterOrEqual", [behind, zero]), w.node("Less", [behind, rows])])
    if window:
        count = w.node("ReduceSum", [sees, two], keepdims=1)
        in_past = w.node("And", [in_past, w.node("Greater", [behind, w.node("Sub", [count, w.ints(window + 1)])])])
    return w.node("Unsqueeze", [w.node("Or", [in_past, w.node("And", [own, in_pass])]), one])


_F32 = ("float32",)
OPERATOR = Operator(
    name="CachedAttention",
    doc="Rotary embedding, in-place cache write and causal grouped-query attention; cost follows the length, not the capacity.",
    inputs=(
        Port("qkv", ("B", "S", "(H+2*Hkv)*dh"), _F32, "queries, keys, values side by side, heads inside"),
        Port("cos", ("B", "S", "half"), _F32, "cosine of the rotary angles of each row"),
        Port("sin", ("B", "S", "half"), _F32, "sine of the same"),
        Port("past_k", ("B", "Hkv", "C", "dh"), _F32, "key cache, rotated; C is the capacity"),
        Port("past_v", ("B", "Hkv", "C", "dh"), _F32, "value cache"),
        Port("past_len", ("B",), ("int64",), "filled slots; row i is written to slot past_len + i"),
        Port("q_norm", ("dh",), _F32, "gain of the per-head RMSNorm of q", optional=True),
        Port("k_norm", ("dh",), _F32, "gain of the per-head RMSNorm of k", optional=True),
        Port(
            "visible",
            ("B", "S", "W"),
            ("int64",),
            "bit j of word w: the row sees row 64*w+j of the pass",
            optional=True,
        ),
    ),
    outputs=(
        Port("y", ("B", "S", "H*dh"), _F32, "attention output, heads side by side"),
        Port("present_k", ("B", "Hkv", "C", "dh"), _F32, "key cache after the write", alias="past_k"),
        Port("present_v", ("B", "Hkv", "C", "dh"), _F32, "value cache after the write", alias="past_v"),
    ),
    attributes=(
        Attribute("num_heads", "int", "query heads H"),
        Attribute("kv_num_heads", "int", "key/value heads Hkv; divides H"),
        Attribute("scale", "float", "multiplies the scores, usually dh ** -0.5"),
        Attribute("window", "int", "sliding window: a row sees the last `window` slots incl. its own; 0 = all", 0),
        Attribute("rotary_dim", "int", "features that rotate; 0 = all of dh", 0),
        Attribute("epsilon", "float", "of the per-head norms", 1e-6),
    ),
    cost="4*B*H*S*(past+S)*dh FLOP; 8*B*Hkv*(past+S)*dh bytes of cache read",
    errors=(
        "past_len + S exceeds C, or past_len is negative",
        "H is not a multiple of Hkv",
        "widths do not fit the heads",
        "visible without a word for every 64 rows, with bits beyond them, or a row that does not see itself",
    ),
    body=body,
    reference=reference,
    symbols={"H": "num_heads", "Hkv": "kv_num_heads"},
    rules=rules,
)
