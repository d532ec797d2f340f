"""Graphs of LlamaGen's image tokenizer.

vq_decode: codes [B,g*g] -> pixels [B,3,H,W]
vq_encode: pixels [B,3,H,W] -> codes [B,g*g]
"""

from __future__ import annotations

import numpy as np

from ...models.vq import Vq
from ...runtime.image_tensors import CODES, PIXELS
from .conv import ConvGraph
from .image_step import state_of
from .writer import GraphWriter, TensorInfo


def write_vq_decode(writer: GraphWriter, vq: Vq, grid: int) -> None:
    """Fill and save ``writer``, all of it float32."""
    w, c, g = writer, vq.config, grid
    _declare(writer, grid, c.downsampling, encode=False)
    graph = ConvGraph(w, state_of(vq))
    table = vq.table().detach().numpy()
    w.weight("codebook", table.shape, "float32", [table])  # rows of length 1, as decoding wants them
    w.node("Gather", ["codebook", CODES], ["rows"], axis=0)
    w.node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1])
    w.constant("square", np.array([0, 0, g, g], np.int64))
    w.node("Reshape", ["columns", "square"], ["latents"])
    x = graph.conv("decoder.conv_in", graph.conv("post_quant_conv", "latents"))
    x = graph.res("decoder.mid.0", x)
    x = graph.res("decoder.mid.2", graph.attention("decoder.mid.1", x, g))
    levels = len(c.multipliers)
    for i in range(levels):
        p = f"decoder.conv_blocks.{i}."
        for j in range(c.blocks + 1):
            x = graph.res(f"{p}res.{j}", x)
            if i == 0:
                x = graph.attention(f"{p}attn.{j}", x, g)
        if i + 1 < levels:
            x = graph.up(p + "upsample", x)
    graph.conv("decoder.conv_out", graph.silu(graph.norm("decoder.norm_out", x)), PIXELS)
    w.save()


def write_vq_encode(writer: GraphWriter, vq: Vq, grid: int) -> None:
    """Fill and save ``writer``, all of it float32."""
    w, c, g = writer, vq.config, grid
    _declare(writer, grid, c.downsampling, encode=True)
    graph = ConvGraph(w, state_of(vq))
    x = graph.conv("encoder.conv_in", PIXELS)
    levels = len(c.multipliers)
    for i in range(levels):
        p = f"encoder.conv_blocks.{i}."
        for j in range(c.blocks):
            x = graph.res(f"{p}res.{j}", x)
            if i + 1 == levels:
                x = graph.attention(f"{p}attn.{j}", x, g)
        if i + 1 < levels:
            x = graph.down(p + "downsample", x)
    x = graph.res("encoder.mid.0", x)
    x = graph.res("encoder.mid.2", graph.attention("encoder.mid.1", x, g))
    x = graph.conv("encoder.conv_out", graph.silu(graph.norm("encoder.norm_out", x)))
    x = graph.conv("quant_conv", x, "latents")
    w.node("Transpose", [x], ["by_place"], perm=[0, 2, 3, 1])
    w.constant("rows_shape", np.array([-1, c.code_dim], np.int64))
    w.node("Reshape", ["by_place", "rows_shape"], ["rows"])
    table = vq.quantize.embedding.weight.detach().numpy()
    w.weight("codebook", table.shape, "float32", [table])
    w.operator("NearestCode", ["rows", "codebook"], ["nearest"], normalize=1)
    w.constant("codes_shape", np.array([-1, g * g], np.int64))
    w.node("Reshape", ["nearest", "codes_shape"], [CODES])
    w.save()


def _declare(writer: GraphWriter, grid: int, downsampling: int, *, encode: bool) -> None:
    side = grid * downsampling
    codes = TensorInfo(CODES, "int64", ("B", grid * grid))
    pixels = TensorInfo(PIXELS, "float32", ("B", 3, side, side))
    writer.inputs.append(pixels if encode else codes)
    writer.outputs.append(codes if encode else pixels)
