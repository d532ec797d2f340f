"""A drafter's graph, and the features it reads, against PyTorch: all rows in one pass, and row by row over the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import image_tensors, tensors
from ...runtime.plain_feeds import causal_rows
from ..vectors.record import open_graph
from .compare import Compare


def check_drafter(
    graphs: Path, model: Any, drafter: Any, conditions: np.ndarray, drawn: list[np.ndarray], compare: Compare
) -> None:
    """``conditions`` int64 [B], ``drawn`` int64 [B,1] of each turn. Raises VerificationError."""
    import torch

    codes = np.concatenate(drawn, axis=1)
    ids = np.concatenate([conditions[:, None], codes[:, :-1]], axis=1)
    with torch.no_grad():
        features = model.features(torch.from_numpy(ids))
        expected = drafter(features, torch.from_numpy(codes))
        logits = model.output(expected).numpy()
    step = _Rows(graphs / f"{image_tensors.AR_STEP}.onnx", model.config.layers, model.config)
    found = step.run({tensors.INPUT_IDS: ids}, [image_tensors.FEATURES])
    compare.close("features", found[0], features.numpy())
    wanted = [expected.numpy(), logits]
    outputs = [image_tensors.FEATURES_OUT, tensors.LOGITS]
    graph = graphs / f"{image_tensors.DRAFT_STEP}.onnx"
    rows = {tensors.INPUT_IDS: codes, image_tensors.FEATURES: features.numpy()}
    for name, made, right in zip(outputs, _Rows(graph, 1, model.config).run(rows, outputs), wanted, strict=True):
        compare.close(f"{name} of the drafter", made, right, rows=right.shape[0] * right.shape[1])
    cached = _Rows(graph, 1, model.config)
    for t in range(codes.shape[1]):
        now = cached.run({n: a[:, t : t + 1] for n, a in rows.items()}, outputs)
        for name, made, right in zip(outputs, now, wanted, strict=True):
            compare.close(f"{name} of the drafter's row {t}", made, right[:, t : t + 1])


class _Rows:
    """A step graph with its cache, every row's logits wanted."""

    def __init__(self, graph: Path, layers: int, config: Any) -> None:
        self._session = open_graph(graph)
        self._shape = (config.heads, config.positions, config.head_dim)
        self._past_names = [n.format(i) for i in range(layers) for n in (tensors.PAST_K, tensors.PAST_V)]
        self._caches: list[np.ndarray] = []
        self._past = 0

    def run(self, rows: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        batch, count = rows[tensors.INPUT_IDS].shape
        if not self._caches:
            self._caches = [np.zeros((batch, *self._shape), np.float32) for _ in self._past_names]
        everywhere = np.repeat(np.arange(count)[None], batch, axis=0)
        feeds = {
            **rows,
            tensors.POSITIONS: self._past + everywhere,
            tensors.PAST_LEN: np.full(batch, self._past, np.int64),
            tensors.VISIBLE: causal_rows(batch, count),
            tensors.LOGIT_ROWS: everywhere,
            **dict(zip(self._past_names, self._caches, strict=True)),
        }
        present = [n.replace("past", "present", 1) for n in self._past_names]
        made: list[np.ndarray] = self._session.run([*outputs, *present], feeds)
        self._caches, self._past = made[len(outputs) :], self._past + count
        return made[: len(outputs)]
