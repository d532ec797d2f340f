"""`Chooser`: which layers of a planned network stay in float, judged on the calibrating data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnx

from ...export.graph import Progress
from ...runtime.network import Network
from ...runtime.network_tensors import NETWORK
from ..evaluate_network import measure_of, measured, outcomes
from ..network_data import Samples
from .layers import Layer
from .observe import session_of
from .options import StaticOptions
from .rewrite import Plan, rewrite
from .search import Found, search
from .sensitivity import keep, losses, ranked


class Chooser:
    """Runs ``model``, the graph of ``source``, with some of ``layers`` as ``chosen`` says and the others in float."""

    def __init__(
        self,
        source: Network,
        model: onnx.ModelProto,
        layers: Sequence[Layer],
        chosen: Plan,
        samples: Samples,
        progress: Progress,
    ) -> None:
        self._source, self._model, self._layers, self._chosen = source, model, layers, chosen
        self._samples, self._progress = samples, progress
        self._folder = source.bundle.graph(NETWORK).parent

    @cached_property
    def _theirs(self) -> list[np.ndarray]:
        return outcomes(self._source, self._samples, self._progress)

    @cached_property
    def _losses(self) -> dict[int, float]:
        return losses(self._model, self._folder, self._layers, self._chosen, self._samples, self._progress)

    @property
    def kind(self) -> str:
        """Which measure: a field of `farthing.calibration.evaluate_network.NetworkEvaluation`."""
        return measure_of(self._source, self._theirs)

    def value(self, kept: Sequence[Layer]) -> float:
        """The measure on the data with ``kept`` in float."""
        copy = onnx.ModelProto.FromString(self._model.SerializeToString())
        rewrite(copy, self._folder, [layer for layer in self._layers if layer not in kept], self._chosen)
        mine = Network(self._source.bundle, session_of(copy, self._folder))
        return measured(self.kind, outcomes(mine, self._samples, self._progress), self._theirs)

    def search(self, options: StaticOptions) -> Found:
        """What stays in float: at least ``options.keep`` of the weights, and what the target takes beyond."""
        start = keep(self._layers, self._losses, options.keep) if options.keep else []
        if not options.wanted or len(start) >= len(self._layers) - 1:
            return Found(start, None, {})

        def order() -> list[Layer]:
            return [layer for layer in ranked(self._layers, self._losses) if layer not in start]

        found = search(order, lambda kept: self.value([*start, *kept]), len(self._layers) - len(start), options.wanted)
        return Found([*start, *found.kept], found.value, found.tried)
