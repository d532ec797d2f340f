"""The graph of Qwen2.5-VL's vision tower: bytes of an image of any size in, what the merger's linears read out.

Rows stand token by token, the patches of a token side by side. Everything that depends on the image's size (rotary angles, windows) is
computed in the graph, from its shape: there are no inputs beside the pixels that a host could get wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...models.qwen_vision import EPSILON, QwenVisionConfig
from ...runtime.tensors import FEATURES, PIXELS
from .clip import add_normalised
from .qwen_windows import Windows, add_angles, add_grid, add_windows
from .writer import GraphWriter, Progress, TensorInfo, no_progress


def write_qwen_vision(
    graph: GraphWriter,
    c: QwenVisionConfig,
    read: Callable[[str], np.ndarray],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    progress: Progress = no_progress,
) -> None:
    """pixels uint8 [1,H,W,3] -> features [1,L,dv]; saves the graph. ``read`` gives `models.qwen_vision.expected_tensors` by name.

    H and W are multiples of ``c.unit``. An image stands for ``c.frames`` equal frames, so their kernels are added up.
    """
    _Tower(graph, c, read).write(mean, std, progress)


class _Tower:
    def __init__(self, graph: GraphWriter, c: QwenVisionConfig, read: Callable[[str], np.ndarray]) -> None:
        self.w, self.c, self.read = graph, c, read

    def write(self, mean: Sequence[float], std: Sequence[float], progress: Progress) -> None:
        w, c = self.w, self.c
        w.inputs.append(TensorInfo(PIXELS, "uint8", (1, "height", "width", 3)))
        w.outputs.append(TensorInfo(FEATURES, "float32", (1, c.tokens, c.feature_size)))
        add_normalised(w, "image", mean=mean, std=std)
        add_grid(w, c)
        self._patches("stream.0")
        add_angles(w, c)
        windows = add_windows(w, c) if set(range(c.layers)) - set(c.full_layers) else None
        sizes: tuple[tuple[str, list[int]], ...] = (
            ("parts", [c.hidden_size] * 3),
            ("heads_apart", [0, 0, c.heads, c.head_dim]),
            ("heads_joined", [0, 0, c.hidden_size]),
            ("rows", [1, -1, c.hidden_size]),
            ("tokens", [-1, c.patches_in_token * 3 * c.hidden_size]),
            ("mixed_tokens", [-1, c.patches_in_token * c.hidden_size]),
            ("features_shape", [1, -1, c.feature_size]),
        )
        for name, size in sizes:
            w.constant(name, np.array(size, np.int64))
        self._weight("blocks.0.norm1.weight")
        w.node(
            "RMSNormalization", ["stream.0", "blocks.0.norm1.weight"], ["blocks.0.attn_in"], axis=-1, epsilon=EPSILON
        )
        for i in range(c.layers):
            self._layer(i, None if i in c.full_layers else windows)
            progress("writing the vision tower", i + 1, c.layers)
        w.node("Reshape", ["normed", "features_shape"], [FEATURES])
        w.save()

    def _patches(self, out: str) -> None:
        """[1,S,d]: a patch a row, token by token."""
        w, c = self.w, self.c
        kernel = np.asarray(self.read("patch_embed.proj.weight"), np.float32).sum(2)
        w.weight("patch_embedding", kernel.shape, "float32", [kernel])
        side = [c.patch_size] * 2
        w.node("Conv", ["image", "patch_embedding"], ["patches"], kernel_shape=side, strides=side)
        w.constant("width", np.array([c.hidden_size], np.int64))
        w.node("Concat", ["width", "high", "merge", "wide", "merge"], ["patches.shape"], axis=0)
        w.node("Reshape", ["patches", "patches.shape"], ["patches.grid"])
        w.node("Transpose", ["patches.grid"], ["patches.by_token"], perm=[1, 3, 2, 4, 0])
        w.constant("patches.rows", np.array([1, -1, c.hidden_size], np.int64))
        w.node("Reshape", ["patches.by_token", "patches.rows"], [out])

    def _layer(self, i: int, windows: Windows | None) -> None:
        """Layer i from ``blocks.<i>.attn_in``; makes that of the next one, or ``normed`` behind the last."""
        p, last = f"blocks.{i}.", i + 1 == self.c.layers
        qkv = self._dense(p + "attn_in", p + "qkv", p + "attn.qkv")
        mixed = self._whole(p, qkv) if windows is None else self._windowed(p, qkv, windows)
        attended = self._dense(mixed, p + "attended", p + "attn.proj")
        mlp_in = self._add_norm(f"stream.{i}", attended, p + "norm2.weight", p + "mlp_in", p + "between")
        gate_up = self._dense(mlp_in, p + "gate_up", p + "mlp.gate_proj", p + "mlp.up_proj")
        self.w.operator("SwiGLU", [gate_up], [p + "active"])
        down = self._dense(p + "active", p + "down", p + "mlp.down_proj")
        norm = "merger.ln_q.weight" if last else f"blocks.{i + 1}.norm1.weight"
        following = "normed" if last else f"blocks.{i + 1}.attn_in"
        self._add_norm(p + "between", down, norm, following, f"stream.{i + 1}")

    def _whole(self, p: str, qkv: str) -> str:
        """Attention of every patch to every patch, head by head, the queries in as many parts as a token has patches.

        ONNX Runtime's CPU kernel holds all scores of a node: with 16 heads at once 1.7 GB for 5120 patches (a megapixel), and 275 GB for
        what the published files allow. A quarter of a head has 26 MB and 4 GB; the CPU seconds are the same.
        """
        w, c = self.w, self.c
        q, k, v = self._heads(p, qkv, "cos", "sin")
        parts = [f"{p}q.part{n}" for n in range(c.patches_in_token)]
        w.node("Split", [q], parts, axis=2, num_outputs=len(parts))

        def heads_of(x: str) -> list[str]:
            made = [f"{x}.{n}" for n in range(c.heads)]
            if c.heads == 1:
                return [x]
            w.node("Split", [x], made, axis=1, num_outputs=c.heads)
            return made

        keys, values = heads_of(k), heads_of(v)
        for part in parts:
            queries = heads_of(part)
            for head in zip(queries, keys, values, strict=True):
                w.node("Attention", list(head), [f"{head[0]}.mixed"])
            w.node("Concat", [f"{head}.mixed" for head in queries], [f"{part}.all"], axis=1)
        w.node("Concat", [f"{part}.all" for part in parts], [p + "mixed.heads"], axis=2)
        return self._joined(p, p + "mixed")

    def _windowed(self, p: str, qkv: str, windows: Windows) -> str:
        """The same within windows, which are the batch; places outside the image are masked."""
        w = self.w
        w.node("Reshape", [qkv, "tokens"], [p + "qkv.tokens"])
        w.node("Gather", [p + "qkv.tokens", windows.index], [p + "qkv.placed"], axis=0)
        w.node("Reshape", [p + "qkv.placed", windows.shape], [p + "qkv.windows"])
        q, k, v = self._heads(p, p + "qkv.windows", windows.cos, windows.sin)
        w.node("Attention", [q, k, v, windows.mask], [p + "mixed.heads"])
        joined = self._joined(p, p + "mixed.windows")
        w.node("Reshape", [joined, "mixed_tokens"], [p + "mixed.placed"])
        w.node("Gather", [p + "mixed.placed", windows.back], [p + "mixed.tokens"], axis=0)
        w.node("Reshape", [p + "mixed.tokens", "rows"], [p + "mixed"])
        return p + "mixed"

    def _heads(self, p: str, qkv: str, cos: str, sin: str) -> list[str]:
        """Queries and keys, turned, and values, each [batch,heads,rows,head_dim]."""
        w, made = self.w, []
        w.node("Split", [qkv, "parts"], [f"{p}{n}.flat" for n in "qkv"], axis=-1)
        for n in "qkv":
            w.node("Reshape", [f"{p}{n}.flat", "heads_apart"], [f"{p}{n}.rows"])
            w.node("Transpose", [f"{p}{n}.rows"], [f"{p}{n}.heads"], perm=[0, 2, 1, 3])
            if n != "v":
                w.node("RotaryEmbedding", [f"{p}{n}.heads", cos, sin], [f"{p}{n}.turned"])
            made.append(f"{p}{n}.heads" if n == "v" else f"{p}{n}.turned")
        return made

    def _joined(self, p: str, out: str) -> str:
        self.w.node("Transpose", [p + "mixed.heads"], [p + "mixed.apart"], perm=[0, 2, 1, 3])
        self.w.node("Reshape", [p + "mixed.apart", "heads_joined"], [out])
        return out

    def _dense(self, x: str, out: str, *names: str) -> str:
        for kind in ("weight", "bias"):
            parts = [np.asarray(self.read(f"{n}.{kind}"), np.float32).T for n in names]
            array = np.concatenate(parts, axis=-1)
            self.w.weight(f"{out}.{kind}", array.shape, "float32", [array])
        self.w.node("MatMul", [x, f"{out}.weight"], [f"{out}.product"])
        self.w.node("Add", [f"{out}.product", f"{out}.bias"], [out])
        return out

    def _add_norm(self, stream: str, addend: str, norm: str, normed: str, total: str) -> str:
        self._weight(norm)
        self.w.operator("AddRMSNorm", [stream, addend, norm], [normed, total], epsilon=EPSILON)
        return normed

    def _weight(self, name: str) -> None:
        array = np.asarray(self.read(name), np.float32)
        self.w.weight(name, array.shape, "float32", [array])
