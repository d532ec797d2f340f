"""The graph of CLIP's vision tower in standard operators: bytes of an image in, features before the projector out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...models.clip import ClipConfig
from ...runtime.tensors import FEATURES, PIXELS
from .dense import DenseLayers
from .writer import GraphWriter, Progress, TensorInfo, no_progress

BeforeLast = Callable[[GraphWriter, str, int], None]
"""(graph, stream before layer i, i): a method that wants more of the tower than its features adds it here."""


def write_clip(
    graph: GraphWriter,
    c: ClipConfig,
    read: Callable[[str], np.ndarray],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    extend: BeforeLast | None = None,
    progress: Progress = no_progress,
) -> None:
    """pixels uint8 [T,H,W,3] -> features [T,N,dv]; saves the graph. ``read`` gives `models.clip.expected_tensors` by name.

    The bytes are normalised here, in the order and the float32 arithmetic of the Hugging Face processors: x / 255, minus mean, by std.
    Layers behind the last one that is read are left out; ``extend`` is called with the stream that layer ``layers - 1`` reads.
    """
    d, g = c.hidden_size, c.grid
    graph.inputs.append(TensorInfo(PIXELS, "uint8", ("T", c.image_size, c.image_size, 3)))
    graph.outputs.append(TensorInfo(FEATURES, "float32", ("T", c.tokens, c.feature_size)))

    layers = DenseLayers(graph, read, c.epsilon)
    weight, dense, norm = layers.weight, layers.dense, layers.norm

    add_normalised(graph, "image", mean=mean, std=std)
    weight("patch_embedding", read("embeddings.patch_embedding.weight"))
    graph.node(
        "Conv", ["image", "patch_embedding"], ["patches"], kernel_shape=[c.patch_size] * 2, strides=[c.patch_size] * 2
    )
    graph.constant("rows_of_patches", np.array([0, d, g * g], np.int64))
    graph.node("Reshape", ["patches", "rows_of_patches"], ["patches.flat"])
    graph.node("Transpose", ["patches.flat"], ["patches.rows"], perm=[0, 2, 1])
    weight("class_embedding", np.asarray(read("embeddings.class_embedding")).reshape(1, 1, d))
    graph.node("Shape", [PIXELS], ["views"], start=0, end=1)
    graph.constant("class_shape", np.array([1, d], np.int64))
    graph.node("Concat", ["views", "class_shape"], ["class.shape"], axis=0)
    graph.node("Expand", ["class_embedding", "class.shape"], ["class.rows"])
    graph.node("Concat", ["class.rows", "patches.rows"], ["tokens"], axis=1)
    weight("position_embedding", read("embeddings.position_embedding.weight"))
    graph.node("Add", ["tokens", "position_embedding"], ["tokens.placed"])
    x = norm("tokens.placed", "pre_layrnorm", "stream.0")
    graph.constant("split", np.array([d, d, d], np.int64))
    if c.activation == "quick_gelu":
        graph.constant("slope", np.array(1.702, np.float32))
    needed = c.layers_needed if extend is None else max(c.layers_needed, c.layers - 1)
    streams = [x]
    for i in range(needed):
        if extend is not None and i == c.layers - 1:
            extend(graph, x, i)
        p, name = f"layers.{i}", f"encoder.layers.{i}."
        normed = norm(x, f"{name}layer_norm1", f"{p}.attn_in")
        qkv = dense(normed, f"{p}.qkv", *(f"{name}self_attn.{n}_proj" for n in ("q", "k", "v")))
        graph.node("Split", [qkv, "split"], [f"{p}.q", f"{p}.k", f"{p}.v"], axis=-1)
        qkv_names = [f"{p}.q", f"{p}.k", f"{p}.v"]
        graph.node("Attention", qkv_names, [f"{p}.mixed"], q_num_heads=c.heads, kv_num_heads=c.heads)
        graph.node("Add", [x, dense(f"{p}.mixed", f"{p}.o", f"{name}self_attn.out_proj")], [f"{p}.attended"])
        up = dense(norm(f"{p}.attended", f"{name}layer_norm2", f"{p}.mlp_in"), f"{p}.up", f"{name}mlp.fc1")
        if c.activation == "quick_gelu":
            graph.node("Mul", [up, "slope"], [f"{p}.up.steep"])
            graph.node("Sigmoid", [f"{p}.up.steep"], [f"{p}.gate"])
            graph.node("Mul", [up, f"{p}.gate"], [f"{p}.active"])
        else:
            graph.node("Gelu", [up], [f"{p}.active"])
        x = f"stream.{i + 1}"
        graph.node("Add", [f"{p}.attended", dense(f"{p}.active", f"{p}.down", f"{name}mlp.fc2")], [x])
        streams.append(x)
        progress("writing the vision tower", i + 1, needed)
    if extend is not None and needed == c.layers - 1:
        extend(graph, x, c.layers - 1)
    chosen = [streams[i] for i in c.wanted_layers]
    if not c.class_token:
        for name, value in (("first_patch", 1), ("behind_patches", g * g + 1), ("token_axis", 1)):
            graph.constant(name, np.array([value], np.int64))
        for s in set(chosen):
            out = FEATURES if len(chosen) == 1 else f"{s}.patches"
            graph.node("Slice", [s, "first_patch", "behind_patches", "token_axis"], [out])
        chosen = [f"{s}.patches" for s in chosen]
    if len(chosen) > 1:
        graph.node("Concat", chosen, [FEATURES], axis=-1)
    elif c.class_token:
        graph.node("Identity", chosen, [FEATURES])
    graph.save()


def add_normalised(graph: GraphWriter, output: str, *, mean: Sequence[float], std: Sequence[float]) -> None:
    """float32 [T,3,H,W] ``output`` of the input pixels: x / 255, minus ``mean``, by ``std``."""
    graph.constant("byte", np.array(1 / 255, np.float32))
    graph.constant("mean", np.array(mean, np.float32))
    graph.constant("std", np.array(std, np.float32))
    graph.node("Cast", [PIXELS], ["pixels.float"], to=1)
    graph.node("Mul", ["pixels.float", "byte"], ["pixels.scaled"])
    graph.node("Sub", ["pixels.scaled", "mean"], ["pixels.centred"])
    graph.node("Div", ["pixels.centred", "std"], ["pixels.normalised"])
    graph.node("Transpose", ["pixels.normalised"], [output], perm=[0, 3, 1, 2])
