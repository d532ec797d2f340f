"""The body of ``farthing::GroupedAccept`` in standard operators that ONNX Runtime runs and TensorRT-RTX builds.

What differs between the modes is a ratio for each draft and the weights of the row where the walk ends (`body_modes`); the walk and the
draw are the same. Where every draft stands, q counts as 0 behind the last one, so that the residual is p itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .rules import DEFAULTS, check_table, rules


def body(attributes: Mapping[str, Any], present: Sequence[bool]) -> Any:
    """The FunctionProto for these attributes. Raises ValueError for attributes the contract refuses."""
    from .body_modes import Grouped, Neighbourhood, Partition, Plain
    from .body_parts import INPUTS, Walk

    rules(attributes)
    a = {**DEFAULTS, **attributes}
    embeds, table = (len(present) > i and bool(present[i]) for i in (4, 5))
    check_table(a["mode"], table)
    walk = Walk()
    if a["mode"] == "grouped" and a["group_size"] > 1:
        mode: Plain = Grouped(walk, a["group_size"], a["prob_tol"], a["dist_tol"], embeds)
    elif a["mode"] == "partition":
        mode = Partition(walk)
    elif a["mode"] == "neighbourhood":
        mode = Neighbourhood(walk, a["delta"], bool(a["relative"]))
    else:
        mode = Plain(walk)
    walk.judge(*mode.ratio())
    walk.draw(mode.weights())
    inputs = list(INPUTS[:4])
    if embeds or table:
        inputs.append("embeds")  # a hole in the call where only the table is there
    if table:
        inputs.append("table")
    names = ["mode", "group_size", "prob_tol", "dist_tol", "delta", "relative"]
    return walk.w.function(inputs, ["accepted", "next", "chance"], names)
