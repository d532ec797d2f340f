"""Static scales of a key/value cache in int8: one for each layer, key/value head and feature, from what a text leaves in the cache.

Rotation turns a pair of a key's features by an angle that grows with the position, and leaves the pair's length as it is. A text of some hundred
tokens shows only the beginning of the slow turns, so a key's features take their scales from the lengths of their pairs, which a position
of 8000 does not change: the two of a pair share one scale. Values and features that do not turn have scales of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...errors import BundleError, RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ...plugins import DOMAIN, operator
from ...runtime import tensors as names
from ...runtime.bundle import Bundle
from ..quality import PIECE, WINDOW, Stream, Text, token_ids
from .moments import FEWEST, TOKENS
from .options import SCALES

CODES = 127
"""The largest code that a number of the calibration text may get."""

HEADROOM = 8
"""Codes left above the largest number of the calibration text: another text may exceed it by 7 % before anything is clipped."""

_BEHIND_LENGTH = 6
"""Inputs of an attention node up to past_len, behind which the scales stand."""

_SAMPLE = 8
"""Every eighth token is kept to compare square errors: 1024 of 8192."""

_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the largest number that the largest code may stand for, of which the best is taken."""


@dataclass(frozen=True)
class CacheScales:
    """``keys`` and ``values`` of each layer, float32 [Hkv,dh], above 0; ``how`` as in SCALES; ``tokens`` were read of ``text``."""

    keys: Sequence[np.ndarray]
    values: Sequence[np.ndarray]
    how: str
    text: Text
    tokens: int


def find_scales(
    bundle: Bundle,
    text: Text,
    how: str = "range",
    *,
    graph: Path | None = None,
    tokens: int = TOKENS,
    headroom: int = HEADROOM,
    progress: Progress = no_progress,
) -> CacheScales:
    """Read ``text`` with ``graph``, by default the decoder of ``bundle``, whose cache is float32, and choose the scales of its cache.

    Raises RequestError for a short text and an unknown ``how``, BundleError for keys or values that are not finite.
    """
    if how not in SCALES:
        raise RequestError(found_wanted("--kv-scales", repr(how), f"one of {', '.join(SCALES)}", "correct it"))
    ids, _ = token_ids(bundle, text, tokens)
    if len(ids) < FEWEST:
        raise RequestError(
            found_wanted(f"text {text.name}", f"{len(ids)} tokens", f"at least {FEWEST}", "give a longer text")
        )
    kv, path = bundle.manifest["kv"], graph or bundle.graph(bundle.step_graph)
    half = _rotated(onnx.load(str(path), load_external_data=False), kv["head_dim"]) // 2
    window = min(WINDOW, bundle.manifest["model"]["max_positions"])
    stream = Stream(path, kv)
    seen = [_Seen(half if i % 2 == 0 else 0) for i in range(2 * kv["layers"])]
    for start in range(0, len(ids), window):
        stream.reset()
        stop = min(start + window, len(ids))
        for first in range(start, stop, PIECE):
            stream.feed(ids[first : min(first + PIECE, stop)])
            progress("reading for the cache", min(first + PIECE, stop), len(ids))
        for i, (one, cache) in enumerate(zip(seen, stream.cache, strict=True)):
            rows = cache[0, :, : stop - start]
            if not np.isfinite(rows).all():
                raise BundleError(
                    found_wanted(
                        f"{'values' if i % 2 else 'keys'} of layer {i // 2} of {path}",
                        "not finite somewhere in the text",
                        "finite numbers",
                        "check the checkpoint with `farthing verify --against`",
                    )
                )
            one.add(rows)
    scales = [one.scales(how, headroom) for one in seen]
    return CacheScales(scales[0::2], scales[1::2], how, text, len(ids))


def code_cache(path: Path, scales: CacheScales) -> None:
    """Rewrite the graph in file ``path`` so that its cache is int8: the nodes of its attention, and the types of its caches. Weights stay where they are."""
    model = onnx.load(str(path), load_external_data=False)
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.domain == DOMAIN and node.op_type == "CachedAttention":
            layer = int(node.input[3].removeprefix(names.PAST_K.format("")))
            added = []
            for name, found in (("k_scale", scales.keys[layer]), ("v_scale", scales.values[layer])):
                tensor = TensorProto(name=f"layers.{layer}.{name}", data_type=TensorProto.FLOAT, dims=found.shape)
                tensor.raw_data = found.astype("<f4").tobytes()
                model.graph.initializer.append(tensor)
                added.append(tensor.name)
            copy.op_type = "QuantizedCachedAttention"
            copy.ClearField("input")
            copy.input.extend([*node.input[:_BEHIND_LENGTH], *added, *node.input[_BEHIND_LENGTH:]])
        nodes.append(copy)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    caches = tuple(n.format("") for n in (names.PAST_K, names.PAST_V, names.PRESENT_K, names.PRESENT_V))
    for value in [*model.graph.input, *model.graph.output]:
        if value.name.startswith(caches):
            value.type.tensor_type.elem_type = TensorProto.INT8
    # A graph has one body of an operator: all its nodes agree in attributes and in what inputs they have.
    node = next(n for n in nodes if n.op_type == "QuantizedCachedAttention")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, "CachedAttention")]
    model.ClearField("functions")
    model.functions.extend([*kept, operator(node.op_type).body(attributes, [bool(name) for name in node.input])])
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Seen:
    """What one cache held: the largest numbers [Hkv,dh], and a sample of rows. The first ``half`` features turn with as many behind them."""

    def __init__(self, half: int) -> None:
        self._half = half
        self._peak: np.ndarray | None = None
        self._sample: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Rows [Hkv,n,dh]."""
        peak = self._lengths(rows).max(1)
        self._peak = peak if self._peak is None else np.maximum(self._peak, peak)
        self._sample.append(rows[:, ::_SAMPLE].copy())

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        """Of each feature the length of its pair, or its absolute value where it does not turn."""
        size = np.abs(rows)
        if self._half:
            first, second = rows[..., : self._half], rows[..., self._half : 2 * self._half]
            size[..., : self._half] = size[..., self._half : 2 * self._half] = np.hypot(first, second)
        return size

    def scales(self, how: str, headroom: int) -> np.ndarray:
        """float32 [Hkv,dh]; a feature that was never anything but 0 gets 1."""
        assert self._peak is not None
        peak = np.where(self._peak > np.finfo(np.float32).tiny * CODES, self._peak, np.float32(CODES))
        if how == "range":
            return (peak / np.float32(CODES - headroom)).astype(np.float32)
        sample = np.concatenate(self._sample, axis=1)
        best, found = np.full(peak.shape, np.inf, np.float32), np.ones_like(peak)
        for share in _SHARES:
            scale = (peak * np.float32(share / CODES)).astype(np.float32)
            codes = np.clip(np.rint(sample / scale[:, None]), -CODES - 1, CODES)
            error = ((codes * scale[:, None] - sample) ** 2).mean(1)
            if self._half:  # both of a pair together
                both = error[:, : self._half] + error[:, self._half : 2 * self._half]
                error[:, : self._half] = error[:, self._half : 2 * self._half] = both
            better = error < best
            best, found = np.where(better, error, best), np.where(better, scale, found)
        return found


def _rotated(model: onnx.ModelProto, dim: int) -> int:
    """How many features of a head turn. Raises BundleError where no node attends over a cache of floats."""
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type == "CachedAttention":
            found = [a.i for a in node.attribute if a.name == "rotary_dim"]
            return (found[0] if found else 0) or dim
    raise BundleError(
        found_wanted(
            "cache of the decoder graph", "without a CachedAttention node", "one in every layer", "export it again"
        )
    )
