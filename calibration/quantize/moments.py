"""What the inputs of a graph's matrices are like: their second moments over a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from ...errors import BundleError, RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ...plugins import DOMAIN
from ...runtime.bundle import Bundle
from ..quality import PIECE, WINDOW, Stream, Text, token_ids

TOKENS = 8192
"""Tokens that are read, at most: 14 for each input of a matrix of 576, 5 of one of 1536."""

FEWEST = 512
"""Tokens below which moments say more about the text than about the model."""

LIMIT = 1 << 30
"""Bytes of moments held at a time. Models that have more are read as often as it takes."""


class InputMoments:
    """Mean of x x^T, float64 [K,K], of the rows x that enter each Linear of the step graph while the model reads ``text``.

    Asked for in the order of the graph, they are collected in groups of at most LIMIT bytes. Raises RequestError for a text that is short, or of one
    token again and again.
    """

    def __init__(self, bundle: Bundle, text: Text, *, tokens: int = TOKENS, progress: Progress = no_progress) -> None:
        self.text = text
        self.ids, _ = token_ids(bundle, text, tokens)
        if len(self.ids) < FEWEST:
            raise RequestError(
                found_wanted(f"text {text.name}", f"{len(self.ids)} tokens", f"at least {FEWEST}", "give a longer text")
            )
        if len(set(self.ids)) < 16:
            raise RequestError(
                found_wanted(
                    f"text {text.name}",
                    f"{len(set(self.ids))} different tokens",
                    "some of a language",
                    "choose another",
                )
            )
        self._path = bundle.graph(bundle.step_graph)
        self._kv = bundle.manifest["kv"]
        self._window = min(WINDOW, bundle.manifest["model"]["max_positions"])
        self._progress = progress
        self._model = onnx.load(str(self._path), load_external_data=False)
        self._widths = _linear_inputs(self._model)
        self._read = 0
        self._held: dict[str, np.ndarray] = {}

    def of(self, name: str) -> np.ndarray:
        """Of the value ``name``. Raises BundleError where it is not finite, KeyError where it enters no Linear."""
        if name not in self._held:
            self._collect(name)
        return self._held[name]

    def _collect(self, name: str) -> None:
        names = list(self._widths)
        group: list[str] = []
        size = 0
        for value in names[names.index(name) :]:
            size += 8 * self._widths[value] ** 2
            if group and size > LIMIT:
                break
            group.append(value)
        self._held = {}  # before the next ones need the memory
        sums = {value: np.zeros((self._widths[value],) * 2) for value in group}
        stream = Stream(_with_outputs(self._model, group), self._kv, extra=group, folder=self._path.parent)
        for start in range(0, len(self.ids), self._window):
            stream.reset()
            stop = min(start + self._window, len(self.ids))
            for first in range(start, stop, PIECE):
                stream.feed(self.ids[first : min(first + PIECE, stop)])
                for value in group:
                    rows = stream.extra[value].reshape(-1, self._widths[value])
                    sums[value] += rows.T @ rows
                self._progress("reading", min(first + PIECE, stop), len(self.ids))
        for value, total in sums.items():
            if not np.isfinite(total).all():
                raise BundleError(
                    found_wanted(
                        f"value {value} of {self._path}",
                        "not finite somewhere in the text",
                        "finite activations",
                        "check the checkpoint with `farthing verify --against`",
                    )
                )
            self._held[value] = total / len(self.ids)


def _linear_inputs(model: onnx.ModelProto) -> dict[str, int]:
    """Width of each value that enters a Linear of a constant weight, in the order of the graph."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    return {
        node.input[0]: shapes[node.input[1]][1]
        for node in model.graph.node
        if node.domain == DOMAIN and node.op_type == "Linear" and node.input[1] in shapes
    }


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in names:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy.SerializeToString()


def calibration_text(path: str | Path | None) -> Text:
    """The text in file ``path``, or by default parts of Python's library other than those that the loss is measured on."""
    from ..quality import read_text

    return read_text(path) if path is not None else read_text(None, files=_STANDARD_LIBRARY)


_STANDARD_LIBRARY = (
    "ast.py", "cgitb.py", "configparser.py", "datetime.py", "difflib.py", "doctest.py", "email/message.py", "fractions.py",
    "heapq.py", "inspect.py", "logging/__init__.py", "pathlib.py", "random.py", "tarfile.py", "turtle.py", "typing.py",
)  # fmt: skip
