"""Graphs that judge drafts: writing them, checking them against the operator's reference, refusing numbers that mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import RequestError, found_wanted
from ...runtime import image_tensors as names
from ...runtime.drawing.uniforms import uniforms
from ..graph.drawing import Acceptance, write_accept
from .check import compare_operator
from .compare import Compare
from .method import NewGraph


def whole(option: str, value: int, least: int, below: int | None = None, why: str = "") -> None:
    """Raises RequestError unless ``least`` <= ``value`` < ``below``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (below is not None and value >= below):
        wanted = f"{least} or more" if below is None else f"{least} to {below - 1}{why}"
        raise RequestError(found_wanted(option, value, wanted, f"correct --{option.replace('_', '-')}"))


def not_negative(option: str, value: float) -> None:
    """Raises RequestError unless ``value`` is a number from 0 on."""
    if not (math.isfinite(value) and value >= 0):
        raise RequestError(found_wanted(option, value, "0 or more", f"correct --{option.replace('_', '-')}"))


def write_acceptances(new: NewGraph, codes: int, rules: Sequence[Acceptance]) -> None:
    """A graph for each rule."""
    for rule in rules:
        write_accept(new(names.ACCEPT.format(rule.mode)), codes, rule)


def check_acceptances(graphs: Path, codes: int, rules: Sequence[Acceptance], compare: Compare) -> None:
    """Each graph on drafts of all kinds: sampled ones that hold and fail, and one that is certain. Raises VerificationError."""
    import torch

    for seed in range(4):
        feeds = made_drafts(codes, 5, seed)
        for rule in rules:
            attributes = {
                "mode": rule.mode,
                "group_size": rule.group_size,
                "prob_tol": rule.prob_tol,
                "dist_tol": rule.dist_tol,
                "delta": rule.delta,
                "relative": int(rule.relative),
            }
            graph = graphs / f"{names.ACCEPT.format(rule.mode)}.onnx"
            ports = {**feeds, "embeds": rule.embeds, "table": rule.table}
            compare_operator("GroupedAccept", graph, ports, attributes, compare, torch)


def made_drafts(codes: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs of a graph of acceptance: peaked p, q near it, drafts likely under q; the last draft is a certain guess."""
    p = _peaked(seed, length + 1, codes)
    q = (0.7 * p[:-1] + 0.3 * _peaked(seed + 100, length, codes)).astype(np.float32)
    draft = q.argmax(1).astype(np.int64)
    q[-1] = 0
    q[-1, draft[-1]] = 1
    return {names.P: p, names.Q: q, names.DRAFT: draft, names.UNIFORMS: uniforms(seed + 200, 0, length + 1)}


def _peaked(seed: int, rows: int, codes: int) -> np.ndarray:
    weights = uniforms(seed, 0, rows * codes).reshape(rows, codes).astype(np.float64) ** 8
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]
