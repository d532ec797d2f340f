"""The graph of a projector: features of an image's views in, the rows that the language model reads out; and where a method prunes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...models.vlm import VlmConfig
from ...runtime import tensors as names
from .writer import GraphWriter, TensorInfo


@dataclass
class ProjectGraph:
    """A projector being written. `begin` gives the unreduced rows; a reduction goes on from there and ends with `finish`.

    Weights are written once, by the graph without ``lender``; all others borrow them.
    """

    w: GraphWriter
    config: VlmConfig
    read: Callable[[str], np.ndarray]
    """Gives a projector tensor by name, float32."""
    lender: GraphWriter | None = None
    rows: str = field(default="rows", init=False)
    """[1,L,D]: the rows of the image before any reduction."""
    group: str = field(default="", init=False)
    """[1,L] int64: view of each row, -2 for line breaks; empty where an image has one view."""

    def begin(self, pool: Callable[[str], str] | None = None) -> None:
        """Inputs, the projector, and for images of several views the rows in their order. ``pool`` merges rows of the views before that."""
        self.declare()
        out = self.project(names.FEATURES)
        out = out if pool is None else pool(out)
        if not self.config.newline:
            self.rows = out
            return
        self.weight("image_newline", self.read("image_newline")[None])
        self.rows = self.in_order(out, self.config.width, "image_newline", "rows")

    def declare(self) -> None:
        """The inputs alone, for a method that chooses rows before they are projected (`project_chosen`)."""
        w, c = self.w, self.config
        views: int | str = "T" if c.newline else 1
        w.inputs.append(TensorInfo(names.FEATURES, "float32", (views, c.tower.tokens, c.tower.feature_size)))
        if c.newline:
            w.inputs.append(TensorInfo(names.ORDER, "int64", ("L",)))
            self.group = names.GROUP

    def project(self, features: str) -> str:
        """Projected rows [...,D] of ``features`` [...,dv]."""
        self.w.node("Gelu", [self.dense(features, "linear_1")], ["active"])
        return self.dense("active", "linear_2")

    def project_chosen(self, index: str) -> str:
        """Rows [1,k,D] number ``index`` int64 [1,k] of the sequence of an image of several views; only these are projected.

        The same bits as projecting all and gathering, since rows of our Linear do not influence each other.
        """
        w, c = self.w, self.config
        self._small("chosen.table", np.array([-1, c.tower.feature_size], np.int64))
        self._small("chosen.no_features", np.zeros((1, c.tower.feature_size), np.float32))
        self._small("last_dim", np.array([-1], np.int64))
        w.node("Reshape", [names.FEATURES, "chosen.table"], ["chosen.flat"])
        w.node("Concat", ["chosen.flat", "chosen.no_features"], ["chosen.all"], axis=0)
        w.node("Gather", [names.ORDER, index], ["chosen.order"], axis=0)
        w.node("Gather", ["chosen.all", "chosen.order"], ["chosen.features"], axis=0)
        rows = self.project("chosen.features")
        w.node("Gather", [self.group, index], ["chosen.group_rows"], axis=1)  # [1,1,k]
        self._small("line_break", np.array(-2, np.int64))
        w.node("Equal", ["chosen.group_rows", "line_break"], ["chosen.breaks"])
        self._small("second_dim", np.array([1], np.int64))
        w.node("Squeeze", ["chosen.breaks", "second_dim"], ["chosen.break_rows"])
        w.node("Unsqueeze", ["chosen.break_rows", "last_dim"], ["chosen.break_column"])
        self.weight("image_newline", self.read("image_newline")[None])
        w.node("Where", ["chosen.break_column", "image_newline", rows], ["chosen.rows"])
        return "chosen.rows"

    def in_order(self, views: str, width: int, line_break: str, output: str) -> str:
        """[1,L,width] of values [T,N,width] of each view, with the row ``line_break`` [1,width] at line breaks."""
        w = self.w
        self._small(f"{output}.table", np.array([-1, width], np.int64))
        self._small("batch_axis", np.array([0], np.int64))
        w.node("Reshape", [views, f"{output}.table"], [f"{output}.flat"])
        w.node("Concat", [f"{output}.flat", line_break], [f"{output}.all"], axis=0)
        w.node("Gather", [f"{output}.all", names.ORDER], [f"{output}.ordered"], axis=0)
        w.node("Unsqueeze", [f"{output}.ordered", "batch_axis"], [output])
        return output

    def finish(self, rows: str, kept: str, tokens: int | str) -> None:
        """``rows`` [1,tokens,D] and ``kept`` int64 [1,tokens] become the outputs; saves the graph. ``kept`` is empty where all rows stay."""
        # TensorRT's parsers warn of inputs that nothing reads, and we take their warnings for failures.
        if self.group and self.w.reads(self.group):
            self.w.inputs.append(TensorInfo(names.GROUP, "int64", (1, "L")))
        self.w.node("Identity", [rows], [names.VISUAL_EMBEDS])
        self.w.outputs.append(TensorInfo(names.VISUAL_EMBEDS, "float32", (1, tokens, self.config.width)))
        if kept:
            self.w.node("Identity", [kept], [names.KEPT])
            self.w.outputs.append(TensorInfo(names.KEPT, "int64", (1, tokens)))
        self.w.save()

    def dense(self, x: str, name: str) -> str:
        """x W^T + b by our Linear, whose packed weights all project graphs of a process share."""
        self.weight(f"{name}.weight", None)
        product = f"{name}.product" if self.config.projector_bias else name
        self.w.operator("Linear", [x, f"{name}.weight"], [product])
        if self.config.projector_bias:
            self.weight(f"{name}.bias", None)
            self.w.node("Add", [product, f"{name}.bias"], [name])
        return name

    def weight(self, name: str, array: np.ndarray | None) -> str:
        """An initializer, float32: ``array``, or the projector's tensor of that name; borrowed where another graph has it."""
        if self.lender is not None and name in self.lender.constants:
            self.w.borrow(self.lender, name)
            return name
        found = self.read(name) if array is None else array
        self.w.weight(name, found.shape, "float32", [np.ascontiguousarray(found, np.float32)])
        return name

    def _small(self, name: str, array: np.ndarray) -> None:
        if name not in self.w.constants:
            self.w.constant(name, array)
