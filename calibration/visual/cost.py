"""What a prompt with an image costs at a level, reckoned from shapes: FLOPs of the decoder's prefill, bytes of its cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.tensors import VISUAL_STEP


@dataclass(frozen=True)
class Load:
    """Rows of a prompt with one image. ``before`` and ``behind`` it: text. ``visual`` enter the decoder; ``late`` of these its last layers still have.

    ``late`` is less than ``visual`` only where rows are dropped before layer ``prune_layer``. ``no_ffn``, ``no_attention``: layers of which visual rows
    leave that part out.
    """

    before: int
    visual: int
    late: int
    behind: int
    prune_layer: int | None = None
    no_ffn: frozenset[int] = frozenset()
    no_attention: frozenset[int] = frozenset()

    @property
    def text(self) -> int:
        """Rows of text."""
        return self.before + self.behind

    def seen(self, layer: int) -> int:
        """Visual rows of a layer."""
        return self.late if self.prune_layer is not None and layer >= self.prune_layer else self.visual


def skipped_layers(vision: Mapping[str, Any], step: str) -> tuple[frozenset[int], frozenset[int]]:
    """(layers without feed-forward network, layers without attention) for the visual rows of graph ``step``."""
    method = {} if step == VISUAL_STEP else vision["method"]
    return frozenset(method.get("skip_ffn", ())), frozenset(method.get("skip_attention", ()))


def prefill_flops(model: Mapping[str, Any], load: Load) -> float:
    """FLOPs of the decoder's prefill; ``model`` as in the manifest. A multiplication with its addition is two.

    A layer of n rows, with D features, H query and G key/value heads of d, and F hidden features:

        n x 2 D (2 G d)         keys and values
      + q x 2 D H d             queries
      + o x 2 D H d             output of the attention
      + p x 4 H d               scores and weighted sums; p pairs of a row with itself and the rows before it, n (n + 1) / 2 of all
      + f x 6 D F               gate, up, down

    q, o, f: rows that take part. All do, but visual rows do not where their part is skipped (``no_attention``: neither q, p nor o), and in
    the last layer o and f are text alone: nothing reads visual rows behind it. 2 D V for the logits of one row, of a vocabulary of V. Norms,
    rotations and softmax are left out, as are tower and projector, which are the same at every level.
    """
    features, ffn, last = model["hidden_size"], model["intermediate_size"], model["layers"] - 1
    queries, keys = model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
    total = 2.0 * features * model["vocab_size"]
    for layer in range(model["layers"]):
        visual = load.seen(layer)
        rows = load.text + visual
        attending = load.text if layer in load.no_attention else rows
        pairs = rows * (rows + 1) / 2
        if layer in load.no_attention:
            pairs -= visual * load.before + visual * (visual + 1) / 2
        output = load.text if layer == last else attending
        through = load.text if layer == last or layer in load.no_ffn else rows
        total += 2.0 * features * (2 * rows * keys + (attending + output) * queries)
        total += 4.0 * queries * pairs + 6.0 * through * features * ffn
    return total


def cache_bytes(kv: Mapping[str, Any], load: Load) -> int:
    """Bytes of keys and values, float32, that the prompt fills: 2 x heads x head size x 4 for each row of each layer."""
    filled = sum(load.text + load.seen(layer) for layer in range(kv["layers"]))
    return int(2 * kv["kv_heads"] * kv["head_dim"] * 4 * filled)
