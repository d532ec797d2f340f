"""Body of TokenSelect(mode=mmr or sads): a Gram matrix computed once, then a Loop of k steps over [B,N] vectors."""

from __future__ import annotations

from ..body_writer import BodyWriter
from .body_parts import FLOAT, LARGEST, Tokens


def greedy(t: Tokens, k: int, mode: str, order: str, lam: float, epsilon: float) -> None:
    """Write the nodes that end in ``index`` and ``picks``."""
    from onnx import TensorProto, helper

    w = t.w
    value, near = _importance(t, mode, epsilon), _similarity(t)
    start = w.node("Expand", [w.real(-2.0), t.shape])
    # True everywhere; this TopK is here to stop a k > N, which the loop would not notice.
    enough = w.node("TopK", ["scores", w.ints(k)], outputs=2, axis=1)[1]
    alive = w.node(
        "Expand", [w.node("GreaterOrEqual", [w.node("ReduceMin", [enough, w.ints(1)]), w.scalar(0)]), t.shape]
    )
    state = [str(start), str(alive)]
    tier = ""
    if t.grouped:
        tier = str(w.node("Where", [t.always, w.real(3.0), w.node("Cast", [t.candidate], to=FLOAT)]))
    if t.limited:
        state.append(str(w.node("Sub", ["quota", "quota"])))  # picks of each group so far [B,G]

    step = BodyWriter("TokenSelectStep")
    pick = _choose(step, t, value, tier, mode, lam)
    row = step.node("Expand", [step.node("Unsqueeze", [pick, step.ints(2)]), _row_shape(w, t)])  # [B,1,N]
    near_pick = step.node("Squeeze", [step.node("GatherElements", [near, row], axis=1), step.ints(1)])
    step.node("Max", ["nearest", near_pick], outputs=["nearest_out"])
    gone = step.node("Equal", [t.position, pick])
    step.node("And", ["alive", step.node("Not", [gone])], outputs=["alive_out"])
    step.node("Identity", ["go"], outputs=["go_out"])
    step.node("Identity", [pick], outputs=["pick"])
    carried = [("nearest", TensorProto.FLOAT, "N"), ("alive", TensorProto.BOOL, "N")]
    if t.limited:
        # A token of no group counts nowhere: its group is no id.
        taken = step.node("Equal", [step.node("GatherElements", ["group", pick], axis=1), t.ids])
        step.node("Add", ["count", step.node("Cast", [taken], to=TensorProto.INT64)], outputs=["count_out"])
        carried.append(("count", TensorProto.INT64, "G"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        step.nodes,
        "TokenSelectStep",
        [
            info("step", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            *(info(name, kind, ["B", width]) for name, kind, width in carried),
        ],
        [
            info("go_out", TensorProto.BOOL, []),
            *(info(f"{name}_out", kind, ["B", width]) for name, kind, width in carried),
            info("pick", TensorProto.INT64, ["B", 1]),
        ],
    )
    # TensorRT's parser warns of a trip count with a condition, but inside a function it does not accept an absent one.
    yes = w.node("Constant", [], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    results = w.node("Loop", [w.scalar(k), yes, *state], outputs=len(state) + 1, body=graph)
    w.node("Transpose", [w.node("Squeeze", [results[-1], w.ints(2)])], perm=[1, 0], outputs=["picks"])
    index = t.ascending(str(w.node("Not", [results[1]])), k) if order == "position" else "picks"
    w.node("Identity", [index], outputs=["index"])


def _row_shape(w: BodyWriter, t: Tokens) -> str:
    """[B,1,N], to spread an index [B,1,1] over a row of the Gram matrix."""
    batch, tokens = (w.node("Shape", ["scores"], start=i, end=i + 1) for i in range(2))
    return str(w.node("Concat", [batch, w.ints(1), tokens], axis=0))


def _choose(step: BodyWriter, t: Tokens, value: str, tier: str, mode: str, lam: float) -> str:
    """The pick of one step [B,1]: the best objective within the best tier that has anybody left."""
    import numpy as np

    lost = step.real(float("-inf"))
    if mode == "mmr":
        rest = float(np.float32(1) - np.float32(lam))
        gain = step.node("Mul", [value, step.real(lam)])
        changed = step.node("Sub", [gain, step.node("Mul", ["nearest", step.real(rest)])])
    else:
        changed = step.node("Mul", [value, step.node("Sub", [step.real(1.0), "nearest"])])
    first = step.node("Less", ["nearest", step.real(-1.5)])  # nobody of the pool is picked yet
    objective = step.node("Where", [first, value, changed])
    eligible = "alive"
    if t.grouped:
        now = tier
        if t.limited:
            open_groups = step.node("Cast", [step.node("Less", ["count", "quota"])], to=FLOAT)
            within = step.node("GatherElements", [open_groups, t.own], axis=1)
            now = step.node("Add", [tier, step.node("Where", [t.candidate, within, step.real(0.0)])])
        level = step.node("Where", ["alive", now, step.real(-1.0)])
        best = step.node("ReduceMax", [level, step.ints(1)], keepdims=1)
        eligible = step.node("And", ["alive", step.node("Equal", [level, best])])
        objective = step.node("Where", [t.candidate, objective, step.real(0.0)])
    return str(step.node("ArgMax", [step.node("Where", [eligible, objective, lost])], axis=1, keepdims=1))


def _importance(t: Tokens, mode: str, epsilon: float) -> str:
    """Min-max normalised scores [B,N]: over the group where there are quotas, else over all candidates."""
    w = t.w
    valid = w.node("LessOrEqual", [w.node("Abs", ["scores"]), w.real(LARGEST)])
    if t.grouped:
        valid = w.node("And", [valid, t.candidate])
    bounds = []
    for reduce, outside in (("ReduceMin", w.real(LARGEST)), ("ReduceMax", w.real(-LARGEST))):
        if t.limited:
            member = w.node("And", [t.members("group"), w.node("Unsqueeze", [valid, w.ints(2)])])
            spread = w.node("Where", [member, w.node("Unsqueeze", ["scores", w.ints(2)]), outside])
            each = w.node(reduce, [spread, w.ints(1)], keepdims=0)  # [B,G]
            bounds.append(str(w.node("GatherElements", [each, t.own], axis=1)))
        else:
            spread = w.node("Where", [valid, "scores", outside])
            bounds.append(str(w.node(reduce, [spread, w.ints(1)], keepdims=1)))
    none = w.node("Greater", bounds)  # no finite score at all
    low, high = (w.node("Where", [none, w.real(0.0), bound]) for bound in bounds)
    clean = w.node("Where", [w.node("IsNaN", ["scores"]), low, "scores"])
    clean = w.node("Min", [w.node("Max", [clean, low]), high])
    # Halves, so that high - low cannot overflow; powers of two change no rounding.
    half = w.real(0.5)
    floor = w.node("Mul", [low, half])
    above = w.node("Sub", [w.node("Mul", [clean, half]), floor])
    extent = w.node("Sub", [w.node("Mul", [high, half]), floor])
    value = w.node("Div", [above, w.node("Add", [extent, w.real(0.5 * epsilon)])])
    if mode == "sads":
        value = w.node("Where", [w.node("Greater", [high, low]), value, w.real(1.0)])
    return str(value)


def _similarity(t: Tokens) -> str:
    """Cosine similarities [B,N,N] in float32; -2, which changes no maximum, between tokens of different pools."""
    w = t.w
    wide = w.node("Cast", ["feats"], to=FLOAT)
    norm = w.node("ReduceL2", [wide, w.ints(2)], keepdims=1)
    good = w.node("LessOrEqual", [norm, w.real(LARGEST)])
    zero = w.real(0.0)
    length = w.node("Add", [w.node("Where", [good, norm, zero]), w.real(1e-8)])
    unit = w.node("Div", [w.node("Where", [good, wide, zero]), length])
    near = w.node("MatMul", [unit, w.node("Transpose", [unit], perm=[0, 2, 1])])
    if t.grouped:
        mine = w.node("Where", [t.candidate, t.own if t.limited else w.scalar(0), w.scalar(-1)])
        other = w.node("Where", [t.candidate, mine, w.scalar(-2)])  # -1 never meets -2: outsiders are no pool
        same = w.node("Equal", [w.node("Unsqueeze", [mine, w.ints(2)]), w.node("Unsqueeze", [other, w.ints(1)])])
        near = w.node("Where", [same, near, w.real(-2.0)])
    return str(near)
