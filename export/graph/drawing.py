"""The two small graphs of drawing, one operator each, whose ports are theirs.

    sample:         cond, uncond [I,N,V]  scale [I]  uniforms [I,N]  temperature, top_k, top_p [1] -> ids [I,N], probs [I,N,V]
    accept_<mode>:  p [L1,V]  q [L,V]  draft [L]  uniforms [L1] -> accepted [1], next [1], chance [L];  L1 = L + 1

I images, N codes of each that one pass decides: half the batch of the step under guidance, so symbols of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...runtime import image_tensors as names
from .writer import GraphWriter, TensorInfo


@dataclass(frozen=True)
class Acceptance:
    """How drafts are judged: ``mode`` and attributes of GroupedAccept, and its constant inputs.

    ``embeds`` float32 [V,E] for the distance; ``table`` int64 [V,K], nearest codes or clusters.
    """

    mode: str
    group_size: int = 14
    prob_tol: float = 0.15
    dist_tol: float = 0.5
    delta: float = 0.1
    relative: bool = False
    embeds: np.ndarray | None = None
    table: np.ndarray | None = None


def write_sample(writer: GraphWriter, codes: int) -> None:
    """Fill and save ``writer``: one GuidedSample."""
    logits = ("I", "N", codes)
    writer.inputs += [
        TensorInfo(names.COND, "float32", logits),
        TensorInfo(names.UNCOND, "float32", logits),
        TensorInfo(names.SCALE, "float32", ("I",)),
        TensorInfo(names.UNIFORMS, "float32", ("I", "N")),
        TensorInfo(names.TEMPERATURE, "float32", (1,)),
        TensorInfo(names.TOP_K, "int64", (1,)),
        TensorInfo(names.TOP_P, "float32", (1,)),
    ]
    writer.outputs += [TensorInfo(names.IDS, "int64", ("I", "N")), TensorInfo(names.PROBS, "float32", logits)]
    writer.operator("GuidedSample", [i.name for i in writer.inputs], [o.name for o in writer.outputs])
    writer.save()


def write_accept(writer: GraphWriter, codes: int, how: Acceptance) -> None:
    """Fill and save ``writer``: one GroupedAccept; codes and clusters are initializers."""
    writer.inputs += [
        TensorInfo(names.P, "float32", ("L1", codes)),
        TensorInfo(names.Q, "float32", ("L", codes)),
        TensorInfo(names.DRAFT, "int64", ("L",)),
        TensorInfo(names.UNIFORMS, "float32", ("L1",)),
    ]
    writer.outputs += [
        TensorInfo(names.ACCEPTED, "int64", (1,)),
        TensorInfo(names.NEXT, "int64", (1,)),
        TensorInfo(names.CHANCE, "float32", ("L",)),
    ]
    inputs = [i.name for i in writer.inputs]
    if how.embeds is not None:
        writer.weight("embeds", how.embeds.shape, "float32", [how.embeds])
        inputs.append("embeds")
    if how.table is not None:
        inputs += ["table"] if how.embeds is not None else ["", "table"]
        writer.weight("table", how.table.shape, "int64", [how.table])
    writer.operator(
        "GroupedAccept",
        inputs,
        [o.name for o in writer.outputs],
        mode=how.mode,
        group_size=how.group_size,
        prob_tol=how.prob_tol,
        dist_tol=how.dist_tol,
        delta=how.delta,
        relative=int(how.relative),
    )
    writer.save()
