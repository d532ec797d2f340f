"""What one way of drawing adds to the common export: its graphs, its numbers in the manifest, its reference.

The base class is the plain raster model; a method overrides what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import image_tensors as names
from ...runtime.code_walk import Conditions
from ..checkpoint.image_folder import ImageFolder
from ..graph import GraphWriter
from ..graph.drawing import write_sample
from ..graph.vq import write_vq_decode, write_vq_encode
from .compare import Compare
from .record import Run

NewGraph = Callable[[str], GraphWriter]
"""Name of a graph -> a writer for it; what was asked for becomes part of the bundle."""


class DrawingMethod:
    """``source`` are the checked models, ``dtype`` how matrices of the autoregressive one are stored."""

    method: str
    guarantee = "exact"
    procedure = "autoregressive"

    def __init__(self, source: ImageFolder, dtype: str) -> None:
        self.source, self.dtype = source, dtype

    # Graphs.

    def write_step(self, writer: GraphWriter) -> None:
        """Fill and save the step graph."""
        raise NotImplementedError

    def write_more(self, new: NewGraph, step: GraphWriter) -> None:
        """Graphs beside the step, `sample` and the tokenizer's; ``step`` is finished."""

    def write_tokenizer(self, new: NewGraph) -> None:
        """From codes to pixels and back."""
        grid = self.source.config.grid
        write_vq_decode(new(names.VQ_DECODE), self.source.tokenizer, grid)
        write_vq_encode(new(names.VQ_ENCODE), self.source.tokenizer, grid)

    def write_all(self, new: NewGraph) -> GraphWriter:
        """Write all graphs; returns the step's writer."""
        step = new(names.AR_STEP)
        self.write_step(step)
        write_sample(new(names.SAMPLE), self.source.config.codes)
        self.write_tokenizer(new)
        self.write_more(new, step)
        return step

    # Manifest.

    @property
    def layers(self) -> int:
        """Caches of the step."""
        return int(self.source.config.layers)

    @property
    def downsampling(self) -> int:
        """Pixels along the side of a code."""
        return int(self.source.tokenizer.config.downsampling)

    @property
    def code_values(self) -> int:
        """How many codes a place may have."""
        return int(self.source.config.codes)

    def image_codes(self) -> dict[str, Any]:
        """Fields of ``image_codes`` beyond codes, classes, grid and size."""
        return {"order": "raster", "per_step": 1, "pixel_range": [-1, 1], "drafts": "none"}

    # Reference.

    def round(self) -> None:
        """Give the models the weights that the bundle stores."""
        if self.dtype == "float16":
            halve(self.source.model)

    def conditions(self) -> list[Conditions]:
        """What vectors are recorded from: first class, last class and no class."""
        codes, classes = self.source.config.codes, self.source.config.classes
        return [np.array([codes, codes + classes - 1, codes + classes], np.int64)]

    def wanted(self, conditions: Any, drawn: list[np.ndarray]) -> list[np.ndarray]:
        """What the reference says, in one pass without a cache: logits float32 [B,draws,V] of each turn.

        ``conditions`` int64 [B] are joint ids, or a made text; ``drawn`` [B,draws] what each turn decided.
        """
        import torch

        ids = np.concatenate([conditions[:, None], *drawn[:-1]], axis=1)
        with torch.no_grad():
            logits = self.source.model(torch.from_numpy(ids)).numpy()
        return [logits[:, i : i + 1] for i in range(len(drawn))]

    def check_more(self, graphs: Path, compare: Compare, run: Run) -> None:
        """Compare graphs of this method alone; ``run`` are the first recorded images."""


def halve(module: Any) -> None:
    """Round the matrices of a torch module to float16, in place."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.half().float())


class WideDrawing(DrawingMethod):
    """A model with several ids a row, whose folded tables are what the bundle stores."""

    def round(self) -> None:
        """Fold first: a folded table is rounded, not its factors."""
        import torch

        if self.dtype == "float16":
            self.source.model.fold(torch.float16)
            halve(self.source.model)

    def wanted(self, conditions: np.ndarray, drawn: list[np.ndarray]) -> list[np.ndarray]:
        """Rows are int64 [B,S,m]; a condition's other ids are 0."""
        import torch

        first = np.zeros((len(conditions), 1, drawn[0].shape[1]), np.int64)
        first[:, 0, 0] = conditions
        ids = np.concatenate([first, *(d[:, None] for d in drawn[:-1])], axis=1)
        with torch.no_grad():
            logits = self.source.model(torch.from_numpy(ids)).numpy()
        return [logits[:, i] for i in range(len(drawn))]
