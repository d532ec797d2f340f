"""Static scales of a key/value cache in int8: one for each layer, key/value head and feature, from what a text leaves in the cache.

Keys are cached rotated, by angles that grow with the position, and the slow turns of a long text are not seen in a window of some hundred tokens. So
windows are read as if they stood all over the positions that the model was trained for: what a row says depends on distances alone, its keys show what
they will be there.

Scales by the range of the numbers lose less than scales of least square error, by half (docs/quantize.md): the few largest numbers of a key decide where
a row looks.
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

CODES = 127
"""The largest code that a number of the calibration text may get."""

HEADROOM = 8
"""Codes left above the largest number of the calibration text: another text may exceed it by 7 % before anything is clipped."""

_BEHIND_LENGTH = 6
"""Inputs of an attention node up to past_len, behind which the scales stand."""


@dataclass(frozen=True)
class CacheScales:
    """``keys`` and ``values`` of each layer, float32 [Hkv,dh], above 0; ``tokens`` were read of ``text``."""

    keys: Sequence[np.ndarray]
    values: Sequence[np.ndarray]
    text: Text
    tokens: int


def find_scales(
    bundle: Bundle,
    text: Text,
    *,
    graph: Path | None = None,
    tokens: int = TOKENS,
    progress: Progress = no_progress,
) -> CacheScales:
    """Read ``text`` with ``graph``, by default the decoder of ``bundle``, whose cache is float32, and choose the scales of its cache.

    Raises RequestError for a short text, BundleError for keys or values that are not finite.
    """
    ids, _ = token_ids(bundle, text, tokens)
    if len(ids) < FEWEST:
        raise RequestError(
            found_wanted(f"text {text.name}", f"{len(ids)} tokens", f"at least {FEWEST}", "give a longer text")
        )
    kv, path = bundle.manifest["kv"], graph or bundle.graph(bundle.step_graph)
    longest = bundle.manifest["model"]["max_positions"]
    window = min(WINDOW, longest, max(PIECE, len(ids) // 8))
    stream = Stream(path, kv)
    peaks = [np.zeros((kv["kv_heads"], kv["head_dim"]), np.float32) for _ in range(2 * kv["layers"])]
    starts = range(0, len(ids), window)
    for number, start in enumerate(starts):
        stream.reset((longest - window) * number // max(1, len(starts) - 1))
        stop = min(start + window, len(ids))
        for first in range(start, stop, PIECE):
            stream.feed(ids[first : min(first + PIECE, stop)])
            progress("reading for the cache", min(first + PIECE, stop), len(ids))
        for i, (peak, cache) in enumerate(zip(peaks, stream.cache, strict=True)):
            found = np.abs(cache[0, :, : stop - start]).max(1)
            if not np.isfinite(found).all():
                raise BundleError(
                    found_wanted(
                        f"{'values' if i % 2 else 'keys'} of layer {i // 2} of {path}",
                        "not finite somewhere in the text",
                        "finite numbers",
                        "check the checkpoint with `farthing verify --against`",
                    )
                )
            np.maximum(peak, found, out=peak)
    scales = [_scales(peak) for peak in peaks]
    return CacheScales(scales[0::2], scales[1::2], text, len(ids))


def _scales(peak: np.ndarray) -> np.ndarray:
    """Steps for numbers up to ``peak``; 1 for what was never anything but 0."""
    some = peak > np.finfo(np.float32).tiny * CODES
    return np.where(some, peak / np.float32(CODES - HEADROOM), np.float32(1)).astype(np.float32)


def code_cache(path: Path, scales: CacheScales) -> None:
    """Rewrite the graph in file ``path`` so that its cache is int8: the nodes of its attention, and the types of its caches.

    Weights stay where they are. Raises BundleError for a graph without any such node.
    """
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
    node = next((n for n in nodes if n.op_type == "QuantizedCachedAttention"), None)
    if node is None:
        raise BundleError(
            found_wanted(f"graph {path}", "without a CachedAttention node", "one in every layer", "export it again")
        )
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, "CachedAttention")]
    model.ClearField("functions")
    model.functions.extend([*kept, operator(node.op_type).body(attributes, [bool(name) for name in node.input])])
    path.write_bytes(model.SerializeToString(deterministic=True))
