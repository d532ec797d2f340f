"""Rows of the parity table for ``QuantizedCachedAttention``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..cached_attention import cases as float_cases
from ..case import Case, floats
from .operator import INPUTS

_AT = {name: i for i, name in enumerate(INPUTS)}
_NO_SCATTER = {"rtx_body": "TensorRT-RTX 1.7 has no TensorScatter of int8; `farthing compile` lowers it to ScatterND"}
_HALF = "rounded to float16, a number falls on the other side of a tie between codes, which is a whole step"


def cases() -> Iterator[Case]:
    """The rows of `CachedAttention` with codes for their caches, and what only codes have: ties, clipped numbers, scales."""
    rng = np.random.default_rng(44)
    for case in float_cases.cases():
        if case.name.startswith("stale-") and not case.name.endswith("-1e+04"):
            continue  # a code is never NaN nor infinite
        if case.name.endswith(("w1", "w1n", "w5", "w5n", "w7n", "w64n", "w70")):
            continue  # windows are the same code; a third of the rows is enough
        yield coded(rng, case)
    yield from extremes()
    yield from refused(rng)


def coded(rng: np.random.Generator, case: Case) -> Case:
    """The same row over caches of codes, with scales that keep new numbers away from ties: faces round differently before them."""
    qkv, cos, sin, past_k, past_v, past_len, *rest = case.inputs
    assert qkv is not None and cos is not None and sin is not None and past_k is not None and past_v is not None
    q_norm, k_norm, visible = (rest[i] if i < len(rest) else None for i in range(3))
    if case.refuses is None:
        keys, values = _new_rows(qkv, cos, sin, k_norm, case.attributes)
        scales = _scales(rng, keys), _scales(rng, values)
    else:
        shape = past_k.shape[1], past_k.shape[3]
        scales = np.full(shape, 0.03, np.float32), np.full(shape, 0.03, np.float32)
    pasts = [rng.integers(-128, 128, p.shape).astype(np.int8) for p in (past_k, past_v)]
    inputs = [qkv, cos, sin, *pasts, past_len, *scales, q_norm, k_norm, visible]
    while inputs[-1] is None:
        inputs.pop()
    return replace(
        case,
        operator="QuantizedCachedAttention",
        inputs=inputs,
        half_tolerance=None,
        half_reason=_HALF,
        skips={} if case.refuses else _NO_SCATTER,
    )


def _new_rows(
    qkv: np.ndarray, cos: np.ndarray, sin: np.ndarray, k_norm: np.ndarray | None, attributes: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [B,Hkv,S,dh]: the keys and values that a row caches."""
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    packed = qkv.astype(np.float64).reshape(*qkv.shape[:2], heads + 2 * kv_heads, -1).swapaxes(1, 2)
    keys, values = packed[:, heads : heads + kv_heads], packed[:, heads + kv_heads :]
    if k_norm is not None:
        keys = keys / np.sqrt((keys**2).mean(-1, keepdims=True) + attributes["epsilon"]) * k_norm
    half, c, s = cos.shape[-1], cos[:, None].astype(np.float64), sin[:, None].astype(np.float64)
    first, second, rest = keys[..., :half], keys[..., half : 2 * half], keys[..., 2 * half :]
    return np.concatenate([first * c - second * s, second * c + first * s, rest], -1), values


def _scales(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """float32 [Hkv,dh], of 200 drawn ones those for which no number of rows [B,Hkv,S,dh] is near a tie. Some numbers are clipped."""
    peak = np.abs(rows).max((0, 2))
    best, found = np.full(peak.shape, -1.0), np.ones(peak.shape, np.float32)
    for _ in range(200):
        drawn = (peak * rng.uniform(0.7, 1.5, peak.shape) / 127).astype(np.float32)
        steps = np.abs(rows / drawn[:, None].astype(np.float64))
        apart = np.abs(steps - np.floor(steps) - 0.5).min((0, 2))
        found = np.where(apart > best, drawn, found)
        best = np.maximum(apart, best)
    return found


def extremes() -> Iterator[Case]:
    """Numbers that float16 has too, scales that are powers of two, and no rotation: every face gives the very same codes."""
    attributes = {"num_heads": 2, "kv_num_heads": 1, "scale": 0.25, "window": 0, "rotary_dim": 0, "epsilon": 1e-6}
    steps = np.array(
        [0.5, 1.5, -0.5, -2.5, 126.5, 127.4, 128.0, 2000.0, -128.4, -129.0, -2000.0, 0.0, 3.0, -7.0, 99.0, -127.5]
    )
    for name, scale in (("ties", 0.25), ("small", 2.0**-9), ("large", 8.0)):
        news = (steps * scale).astype(np.float32)
        queries = np.tile(np.linspace(-1, 1, 32).round(2).astype(np.float16).astype(np.float32) / scale, (2, 1)) / 64
        rows = np.concatenate([queries, np.tile(np.concatenate([news, news[::-1]]), (2, 1))], 1)[None]
        codes = np.random.default_rng(5).integers(-128, 128, (2, 1, 1, 20, 16)).astype(np.int8)
        angles = np.ones((1, 2, 8), np.float32), np.zeros((1, 2, 8), np.float32)
        scales = np.full((1, 16), scale, np.float32)
        inputs = [rows.astype(np.float32), *angles, *codes, np.array([9], np.int64), scales, scales]
        yield Case("QuantizedCachedAttention", name, inputs, attributes, half_tolerance=4e-3, skips=_NO_SCATTER)


def refused(rng: np.random.Generator) -> Iterator[Case]:
    """Scales that do not fit the cache, or are not above 0; a cache of floats."""
    good = next(c for c in float_cases.cases() if c.name == "bad-lengths")  # of one sequence, but for its lengths
    base = coded(rng, replace(good, refuses="x")).inputs
    base[_AT["past_len"]] = np.array([3], np.int64)

    def bad(name: str, port: str, to: np.ndarray, text: str | tuple[str, ...], stage: str = "shapes") -> Case:
        inputs = list(base)
        inputs[_AT[port]] = to
        return Case("QuantizedCachedAttention", f"bad-{name}", inputs, good.attributes, refuses=text, stage=stage)

    yield bad("heads-of-scales", "k_scale", np.ones((4, 8), np.float32), "k_scale is [4,8]")
    yield bad("scales-by-head", "v_scale", np.ones(2, np.float32), "v_scale is [2]")
    yield bad("nought", "k_scale", np.zeros((2, 8), np.float32), "k_scale is not above 0", "values")
    yield bad("nan", "v_scale", np.full((2, 8), np.nan, np.float32), "v_scale is not above 0", "values")
    wrong = bad("floats", "past_k", floats(rng, 1, 2, 16, 8), ("past_k", "dtype", "type"))
    yield replace(wrong, skips={"tensorrt_plugin": "TensorRT itself asks for types, and never gives others"})
