"""Graphs of ELM's binary autoencoder.

    vq_decode: codes [B,g*g] -> pixels [B,3,H,W], about 0 to 1
    vq_encode: pixels [B,3,H,W] -> codes [B,g*g]

A code is its n bits, the first the highest. Bits are taken apart by division: TensorRT-RTX refuses BitwiseAnd.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from ...models.bae import SHORTCUT, Bae
from ...models.conv_blocks import Down, Res, SelfAttention, Up
from ...runtime.image_tensors import CODES, PIXELS
from .conv import ConvGraph
from .image_step import state_of
from .vq import _declare
from .writer import GraphWriter


def write_bae_decode(writer: GraphWriter, bae: Bae, grid: int) -> None:
    """Fill and save ``writer``, all of it float32."""
    w, g = writer, grid
    _declare(writer, grid, bae.config.downsampling, encode=False)
    graph = ConvGraph(w, state_of(bae))
    _places(w, bae.config.bits)
    w.constant("two", np.array([2], np.int64))
    w.constant("last_axis", np.array([-1], np.int64))
    w.node("Unsqueeze", [CODES, "last_axis"], ["column"])
    w.node("Div", ["column", "place_values"], ["shifted"])  # [B,g*g,n]
    w.node("Mod", ["shifted", "two"], ["bits_int"])
    w.node("Cast", ["bits_int"], ["bits"], to=1)
    table = bae.quantize.embed.weight.detach().numpy()
    w.weight("bit_table", table.shape, "float32", [table])
    w.node("MatMul", ["bits", "bit_table"], ["rows"])
    w.node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1])
    w.constant("square", np.array([0, 0, g, g], np.int64))
    w.node("Reshape", ["columns", "square"], ["latents"])
    _stack(graph, "generator", bae.generator.blocks, "latents", g, PIXELS)
    w.save()


def write_bae_encode(writer: GraphWriter, bae: Bae, grid: int) -> None:
    """Fill and save ``writer``, all of it float32. Deterministic: a bit is set where its logit is above 0."""
    w, n = writer, bae.config.bits
    _declare(writer, grid, bae.config.downsampling, encode=True)
    graph = ConvGraph(w, state_of(bae))
    _places(w, n)
    x = _stack(graph, "encoder", bae.encoder.blocks, PIXELS, grid, None)
    x = graph.conv("quantize.proj.0", x, "logits")
    w.constant("threshold", np.array(0, np.float32))
    w.node("Greater", [x, "threshold"], ["is_set"])
    w.node("Cast", ["is_set"], ["set"], to=7)
    w.node("Reshape", ["set", "flat"], ["by_bit"])  # [B,n,g*g]
    w.node("Transpose", ["by_bit"], ["by_place"], perm=[0, 2, 1])
    w.node("Mul", ["by_place", "place_values"], ["values"])
    w.constant("last_axis", np.array([-1], np.int64))
    w.node("ReduceSum", ["values", "last_axis"], [CODES], keepdims=0)
    w.save()


def _places(w: GraphWriter, bits: int) -> None:
    w.constant("place_values", 2 ** np.arange(bits - 1, -1, -1, dtype=np.int64))


def _stack(graph: ConvGraph, half: str, blocks: nn.ModuleList, x: str, grid: int, out: str | None) -> str:
    """The flat list of blocks of ``half`` one after the other; the last makes ``out``. Attention stands at ``grid`` x ``grid`` only."""
    for i, block in enumerate(blocks):
        p = f"{half}.blocks.{i}"
        if isinstance(block, Res):
            x = graph.res(p, x, SHORTCUT)
        elif isinstance(block, SelfAttention):
            x = graph.attention(p, x, grid)
        elif isinstance(block, Up):
            x = graph.up(p, x)
        elif isinstance(block, Down):
            x = graph.down(p, x)
        elif isinstance(block, nn.GroupNorm):
            x = graph.norm(p, x)
        else:
            x = graph.conv(p, x, out if i + 1 == len(blocks) else None)
    return x
