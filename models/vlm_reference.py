"""The PyTorch reference of a vision-language model: a prompt with images -> logits, in one pass over all its rows.

Unlike the exported graphs it does not split a prompt into text and visual passes, and it prunes by dropping rows, so it checks both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .blocks import Adapt, DecoderLayer, KVCache, rms_norm, rotary_angles, unadapted
from .decoder import Decoder
from .vlm import VlmConfig, project


@dataclass(frozen=True)
class ImageRows:
    """An image inside a prompt: ``embeds`` float32 [K,D], rotary ``positions`` int64 [K] counted from its begin (with M-RoPE [3,K]), how many
    positions it takes.

    ``kept`` int64: numbers of the rows that stay where rows are dropped inside the decoder.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    span: int
    kept: torch.Tensor


def image_features(
    config: VlmConfig,
    read: Callable[[str], torch.Tensor],
    views: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    """Features [T,N,dv] of uint8 views [T,H,W,3]; ``read`` gives ``tower.<name>``."""
    images = torch.from_numpy(views.astype(np.float32)) * (1 / 255)
    images = (images - torch.tensor(mean)) / torch.tensor(std)
    return config.tower.features(lambda n: read(f"tower.{n}"), images.permute(0, 3, 1, 2))


def image_rows(
    config: VlmConfig,
    read: Callable[[str], torch.Tensor],
    found: torch.Tensor,
    order: np.ndarray | None,
    pool: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> torch.Tensor:
    """Unpruned rows [L,D] of features [T,N,dv]; ``order`` int64 [L] as `runtime.anyres` gives it, None for one view.

    ``pool`` is applied to the projected views [T,N,D] before they are put in order.
    """
    rows = pool(project(config, lambda n: read(f"projector.{n}"), found)).flatten(0, 1)
    if order is None:
        return rows
    return torch.cat([rows, read("projector.image_newline")[None]])[torch.from_numpy(order)]


def pooled(views: torch.Tensor, grid: int, pool: int) -> torch.Tensor:
    """Means over pool x pool squares of views [T,grid*grid,D], row by row: [T,(grid/pool)^2,D] (Cai et al. 2024, arXiv 2405.17430)."""
    if pool == 1:
        return views
    squares = views.unflatten(1, (grid // pool, pool, grid // pool, pool))
    return squares.mean(dim=(2, 4)).flatten(1, 2)


@dataclass
class Prompt:
    """Rows on their way through a decoder: ``stream`` float32 [S,D] at rotary ``positions`` int64 [S] or [3,S].

    ``visual`` bool [S]: rows of images; ``stays`` bool [S]: rows that the layers behind a pruning have.
    """

    stream: torch.Tensor
    positions: torch.Tensor
    visual: torch.Tensor
    stays: torch.Tensor


def assemble(decoder: Decoder, image_token_id: int, ids: Sequence[int], images: Sequence[ImageRows]) -> Prompt:
    """Rows of ``ids`` with each ``image_token_id`` replaced by the next of ``images``; behind the last image that token is text."""
    waiting, embeds, positions, visual, stays, at = list(images), [], [], [], [], 0
    axes = (3, 1) if decoder.config.mrope_section else (1,)
    table = decoder.embed(torch.tensor([list(ids)]))[0]
    for row, token in enumerate(ids):
        if token != image_token_id or not waiting:
            embeds.append(table[row][None])
            positions.append(torch.full(axes, at))
            visual.append(torch.tensor([False]))
            stays.append(torch.tensor([True]))
            at += 1
            continue
        image = waiting.pop(0)
        embeds.append(image.embeds)
        positions.append(at + image.positions)
        visual.append(torch.ones(len(image.embeds), dtype=torch.bool))
        stays.append(torch.isin(torch.arange(len(image.embeds)), image.kept))
        at += image.span
    return Prompt(torch.cat(embeds), torch.cat(positions, -1), torch.cat(visual), torch.cat(stays))


def logits(
    decoder: Decoder,
    image_token_id: int,
    ids: Sequence[int],
    images: Sequence[ImageRows],
    behind: int,
    *,
    skip: Mapping[int, str] | None = None,
    prune_layer: int | None = None,
) -> torch.Tensor:
    """Logits [behind,V] of the last ``behind`` rows of `assemble`'s prompt.

    ``skip``: what rows of images leave out of a layer, ``ffn``, ``attention`` (but its keys and values are there for others) or both,
    ``block``. ``prune_layer``: from this layer on only their ``kept`` rows are there; None drops none (rows that were dropped before the
    first layer are not given at all).
    """
    prompt = assemble(decoder, image_token_id, ids, images)
    return decoder_logits(decoder, prompt, behind, skip=skip, prune_layer=prune_layer)


@torch.inference_mode()
def decoder_logits(
    decoder: Decoder,
    prompt: Prompt,
    behind: int,
    *,
    skip: Mapping[int, str] | None = None,
    prune_layer: int | None = None,
) -> torch.Tensor:
    """Logits [behind,V] of the last ``behind`` rows of ``prompt``, which is left at its end; see `logits`."""
    for i in range(decoder.config.layers):
        if i == prune_layer:
            stays = prompt.stays
            prompt.stream, prompt.visual, prompt.stays = prompt.stream[stays], prompt.visual[stays], stays[stays]
            prompt.positions = prompt.positions[..., stays]
        through_layer(decoder, decoder.layer(i), prompt, (skip or {}).get(i))
    return decoder.logits_of(prompt.stream[-behind:])


@torch.inference_mode()
def through_layer(
    decoder: Decoder, layer: DecoderLayer, prompt: Prompt, left_out: str | None = None, adapt: Adapt = unadapted
) -> torch.Tensor:
    """Put ``prompt`` through ``layer``, its rows of images without ``left_out``; what the feed-forward network added, [S,D].

    ``adapt`` sees the inputs and outputs of the linears, those of attention [1,S,...], those of the network [rows that run it,...].
    """
    c = decoder.config
    nothing = torch.zeros(1, c.kv_heads, len(prompt.stream), c.head_dim)
    slots = [nothing] * (layer.attention.index + 1)  # one layer's, at its index; attention replaces it
    cache, empty = KVCache(slots, list(slots)), torch.zeros(1, dtype=torch.int64)
    cos, sin = rotary_angles(prompt.positions[..., None, :], decoder.inv_freq)
    normed = rms_norm(prompt.stream[None], layer.attn_norm, c.norm_epsilon)
    attended = layer.attention(normed, cos, sin, cache, empty, adapt=adapt)[0]
    if left_out in ("attention", "block"):
        attended[prompt.visual] = 0.0
    stream = prompt.stream + attended
    ran = ~prompt.visual if left_out in ("ffn", "block") else torch.ones_like(prompt.visual)
    added = torch.zeros_like(stream)
    added[ran] = layer.mlp(rms_norm(stream[ran], layer.mlp_norm, c.norm_epsilon), adapt)
    prompt.stream = stream + added
    return added
