"""TokenSelect in a graph: scores -> indices -> gathers of the embeddings, their position ids and any further planes. The result has a
static shape, so everything behind it, the KV cache first of all, is as small as the kept tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....errors import RequestError, found_wanted
from ..writer import GraphWriter


@dataclass(frozen=True)
class Selection:
    """What TokenSelect is told: ``k`` tokens of every sequence by ``mode`` (topk, mmr or sads); see the operator for the rest."""

    k: int
    mode: str = "mmr"
    order: str = "position"
    lam: float = 0.5
    epsilon: float = 1e-6


def add_selection(
    writer: GraphWriter,
    selection: Selection,
    *,
    scores: str,
    embeds: str,
    prefix: str,
    features: str = "",
    positions: str = "",
    position_rows: int = 0,
    group: str = "",
    quota: str = "",
    planes: Mapping[str, str] | None = None,
    tokens: int | None = None,
) -> dict[str, str]:
    """Add TokenSelect and the gathers behind it; returns the names of what was written.

    Args:
        writer: the graph.
        selection: k and how to choose.
        scores: importance [B,N] float32.
        embeds: embeddings [B,N,D] float32 or float16, before the language model.
        prefix: of the new names: ``<prefix>.embeds`` [B,k,D], ``<prefix>.index`` [B,k] int64 and so on.
        features: [B,N,F], what similarity is measured on; ``embeds`` if empty.
        positions: rotary position ids [B,N] int64, or [P,B,N] with ``position_rows`` = P (3 for M-RoPE). Kept tokens keep theirs.
        position_rows: see positions; 0 for [B,N].
        group, quota: inputs of TokenSelect.
        planes: more [B,N,*] values to gather, by the name of their result (DeepStack features).
        tokens: N where it is known, to refuse a k above it when the graph is written.

    Raises RequestError, or ValueError from the operator's contract.
    """
    if tokens is not None and selection.k > tokens:
        raise RequestError(
            found_wanted(
                "k", selection.k, f"1 to {tokens}, the number of tokens", "keep fewer tokens, or leave the node out"
            )
        )
    if quota and not group:
        raise RequestError(
            found_wanted("group", "absent", "present where quota is", "say which group each token is in")
        )
    index, picks = f"{prefix}.index", f"{prefix}.picks"
    inputs = [scores, features or embeds, group, quota]
    while not inputs[-1]:
        inputs.pop()
    writer.operator(
        "TokenSelect",
        inputs,
        [index, picks],
        k=selection.k,
        mode=selection.mode,
        order=selection.order,
        lam=selection.lam,
        epsilon=selection.epsilon,
    )
    made = {"index": index, "picks": picks, "embeds": f"{prefix}.embeds"}
    writer.constant(f"{prefix}.last", np.array([-1], np.int64))
    writer.node("Unsqueeze", [index, f"{prefix}.last"], [f"{prefix}.rows"])
    writer.node("GatherND", [embeds, f"{prefix}.rows"], [made["embeds"]], batch_dims=1)
    for name, plane in (planes or {}).items():
        made[name] = f"{prefix}.{name}"
        writer.node("GatherND", [plane, f"{prefix}.rows"], [made[name]], batch_dims=1)
    if positions:
        made["positions"] = f"{prefix}.positions"
        spread = index
        if position_rows:
            spread = f"{prefix}.index_rows"
            writer.constant(f"{prefix}.position_rows", np.array([position_rows, 1, 1], np.int64))
            writer.node("Expand", [index, f"{prefix}.position_rows"], [spread])
        writer.node("GatherElements", [positions, spread], [made["positions"]], axis=-1)
    return made
