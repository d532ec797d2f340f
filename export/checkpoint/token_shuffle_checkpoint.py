"""A Token-Shuffle pair. No weights were published; the names are ours: `shuffle.compress`, `shuffle.blocks.i`, `unshuffle.blocks.i`,
`unshuffle.expand`, `visual_head`, and LlamaGen's for the rest. The window follows from the shape of `shuffle.compress`.
"""

from __future__ import annotations

import math
from typing import Any

from ...models.token_shuffle import TokenShuffle, TokenShuffleConfig
from .image_files import bad, count, filled, need
from .llamagen_checkpoint import VqFolder

COMPRESS = "shuffle.compress.weight"


class TokenShuffleCheckpoint(VqFolder):
    """Both models as torch modules, float32, every name and shape checked. Raises CheckpointError."""

    model: TokenShuffle
    config: TokenShuffleConfig

    def build(self, tensors: dict[str, Any]) -> None:
        """Fill ``config`` and ``model``. Raises CheckpointError."""
        need(self.model_file, tensors, (COMPRESS, "visual_head.weight"))
        sizes = self.sizes(tensors, "tok_embeddings.weight")
        self.same_rows(tensors, "visual_head.weight", sizes["codes"])
        window = self._window(tensors[COMPRESS].shape[0], sizes["hidden_size"])
        if sizes["grid"] % window:
            raise bad(
                self.model_file, "grid", sizes["grid"], f"a multiple of the window, {window}", "correct config.json"
            )
        blocks = [count(tensors, f"{half}.blocks.") for half in ("shuffle", "unshuffle")]
        if blocks[0] != blocks[1]:
            raise bad(self.model_file, "residual blocks of shuffle and unshuffle", blocks, "as many in both")
        self.config = TokenShuffleConfig(
            classes=self.classes(tensors),
            window=window,
            mlps=blocks[0],
            expand="unshuffle.expand.weight" in tensors,
            **sizes,
        )
        self.model = filled(TokenShuffle(self.config), tensors, self.model_file)

    def _window(self, rows: int, width: int) -> int:
        """s, where ``rows`` = D / s^2."""
        window = math.isqrt(width // rows) if rows else 0
        if window < 1 or window * window * rows != width:
            raise bad(self.model_file, f"rows of {COMPRESS}", rows, f"{width} divided by the square of the window")
        return window
