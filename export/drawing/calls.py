"""Recording one call of every graph beside the step, for `farthing verify`; what it feeds is made up by recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...runtime import image_tensors as names
from ...runtime import tensors
from ...runtime.plain_feeds import causal_rows
from ...runtime.verify_calls import made_input
from ..vectors.record import decimal

_SAMPLES = 64
_WHOLE = 4096
"""Whole numbers that are recorded one and all: the codes of a 64 x 64 grid."""

_ROWS = 3
Spec = dict[str, Any]


def recorded_calls(manifest: dict[str, Any], code_values: int, opened: Callable[[str], Any]) -> list[dict[str, Any]]:
    """A call of each graph but those that only the walk through the codes feeds. ``opened`` gives the session of a graph by name."""
    calls = []
    for name, graph in manifest["graphs"].items():
        inputs = _inputs(name, graph, manifest, code_values)
        if inputs is None:
            continue
        outputs = [o["name"] for o in graph["outputs"] if not o["name"].startswith("present")]
        made = opened(name).run(outputs, {n: made_input(s) for n, s in inputs.items()})
        recorded = {o: _sampled(a) for o, a in zip(outputs, made, strict=True)}
        calls.append({"graph": name, "inputs": inputs, "outputs": recorded})
    return calls


def _inputs(name: str, graph: dict[str, Any], manifest: dict[str, Any], code_values: int) -> dict[str, Spec] | None:
    image = manifest["image_codes"]
    codes, grid, size = image["codes"], image["grid"], image["size"]
    low, high = image["pixel_range"]
    if name == names.VQ_DECODE:
        return {names.CODES: {"shape": [1, grid * grid], "whole": [21, code_values]}}
    if name == names.VQ_ENCODE:
        return {names.PIXELS: {"shape": [1, 3, size, size], "uniform": [22, low, high]}}
    if name == names.CONDITION:
        width = graph["inputs"][0]["shape"][-1]
        return {names.TEXT_EMBEDS: {"shape": [1, _ROWS, width], "uniform": [23, -1, 1]}}
    if name == names.SAMPLE:
        return _sample(codes)
    if name == names.DRAFT_STEP:
        return _draft_step(graph, codes)
    return _accept(codes) if name.startswith(names.ACCEPT.format("")) else None


def _sample(codes: int) -> dict[str, Spec]:
    logits = [1, _ROWS, codes]
    return {
        names.COND: {"shape": logits, "uniform": [24, -4, 4]},
        names.UNCOND: {"shape": logits, "uniform": [25, -4, 4]},
        names.SCALE: _values([2.5], "float32"),
        names.UNIFORMS: {"shape": [1, _ROWS], "uniform": [26, 0, 1]},
        names.TEMPERATURE: _values([0.9], "float32"),
        names.TOP_K: _values([max(1, codes // 2)], "int64"),
        names.TOP_P: _values([0.9], "float32"),
    }


def _accept(codes: int) -> dict[str, Spec]:
    p: Spec = {"shape": [_ROWS + 1, codes], "peaked": 27}
    return {
        names.P: p,
        names.Q: {"shape": [_ROWS, codes], "peaked": 28},
        # What p says first, so that some of them stand.
        names.DRAFT: _values(made_input(p)[:_ROWS].argmax(1).tolist(), "int64"),
        names.UNIFORMS: {"shape": [_ROWS + 1], "uniform": [29, 0, 1]},
    }


def _draft_step(graph: dict[str, Any], codes: int) -> dict[str, Spec]:
    shapes = {i["name"]: i["shape"] for i in graph["inputs"]}
    everywhere = list(range(_ROWS))
    fed = {
        tensors.INPUT_IDS: {"shape": [1, _ROWS], "whole": [30, codes]},
        names.FEATURES: {"shape": [1, _ROWS, shapes[names.FEATURES][-1]], "uniform": [31, -2, 2]},
        tensors.POSITIONS: _values(everywhere, "int64", [1, _ROWS]),
        tensors.PAST_LEN: _values([0], "int64"),
        tensors.VISIBLE: _values(causal_rows(1, _ROWS).reshape(-1).tolist(), "int64", [1, _ROWS, 1]),
        tensors.LOGIT_ROWS: _values(everywhere, "int64", [1, _ROWS]),
    }
    for name in (tensors.PAST_K.format(0), tensors.PAST_V.format(0)):
        _, heads, _, width = shapes[name]
        fed[name] = {"shape": [1, heads, _ROWS, width], "zeros": True}
    return fed


def _values(values: list[Any], dtype: str, shape: list[int] | None = None) -> Spec:
    return {"shape": [len(values)] if shape is None else shape, "values": values, "dtype": dtype}


def _sampled(array: np.ndarray) -> dict[str, Any]:
    flat = array.reshape(-1)
    whole = array.dtype == np.int64
    step = -(-flat.size // (_WHOLE if whole else _SAMPLES))
    ids = list(range(0, flat.size, step))
    found: dict[str, Any] = {
        "shape": list(array.shape),
        "ids": ids,
        "values": [int(flat[i]) if whole else decimal(flat[i]) for i in ids],
    }
    if not whole:
        found["l2"] = decimal(np.linalg.norm(flat.astype(np.float64)))
    return found
