"""What a prompt with an image costs at a level, reckoned from shapes: FLOPs of the decoder's prefill, bytes of its cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.tensors import VISUAL_STEP


@dataclass(frozen=True)
class Load:
    """Rows of a prompt. ``text``; ``visual`` that enter the decoder; ``late`` of these that its last layers still have.

    ``late`` is less than ``visual`` only where rows are dropped before layer ``prune_layer``. ``no_ffn``: layers whose feed-forward network visual rows skip.
    """

    text: int
    visual: int
    late: int
    prune_layer: int | None = None
    no_ffn: frozenset[int] = frozenset()

    def rows(self, layer: int) -> tuple[int, int]:
        """(text rows, visual rows) of a layer."""
        pruned = self.prune_layer is not None and layer >= self.prune_layer
        return self.text, self.late if pruned else self.visual


def skipped_layers(vision: Mapping[str, Any], step: str) -> frozenset[int]:
    """Layers whose feed-forward network the visual rows of graph ``step`` skip."""
    return frozenset() if step == VISUAL_STEP else frozenset(vision["method"].get("skip_ffn", ()))


def prefill_flops(model: Mapping[str, Any], load: Load) -> float:
    """FLOPs of the decoder's prefill; ``model`` as in the manifest. A multiplication with its addition is two.

    Per layer of n rows, of which f go through the feed-forward network, with D features, H query and G key/value heads of d, F hidden features:

        2 n (2 D H d + 2 D G d)      queries and output, keys and values
      + 6 f D F                      gate, up, down
      + 4 H d n (n + 1) / 2          scores and weighted sums; a row sees itself and those before it

    and 2 D V for the logits of the last row, of a vocabulary of V. Norms, rotations and softmax are left out, as are tower and projector: they
    are the same at every level.
    """
    features, ffn = model["hidden_size"], model["intermediate_size"]
    queries, keys = model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
    total = 2.0 * features * model["vocab_size"]
    for layer in range(model["layers"]):
        text, visual = load.rows(layer)
        rows = text + visual
        through = text if layer in load.no_ffn else rows
        total += 2.0 * rows * features * (2 * queries + 2 * keys)
        total += 6.0 * through * features * ffn
        total += 2.0 * queries * rows * (rows + 1)
    return total


def cache_bytes(kv: Mapping[str, Any], load: Load) -> int:
    """Bytes of keys and values, float32, that the prompt fills: 2 x heads x head size x 4 for each row of each layer."""
    filled = sum(sum(load.rows(layer)) for layer in range(kv["layers"]))
    return int(2 * kv["kv_heads"] * kv["head_dim"] * 4 * filled)
