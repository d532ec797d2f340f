"""A width for each matrix of a decoder, within a number of bytes: sensitivities on the calibration text, then candidates measured whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import RequestError, found_wanted
from ...export.graph import Progress, no_progress
from ...plugins import DOMAIN
from ...runtime import tensors as names
from ...runtime.bundle import Bundle
from ..budget import Found, Item, check_budget, search
from ..budget.sizes import product_error, stored, stored_blocks
from ..quality import PIECE, Stream
from .blocks import Blocks, round_blocks
from .gptq import round_gptq
from .moments import InputMoments
from .options import BITS, Options
from .plan import HEAD, LayerPlan
from .rewrite import rewrite_decoder
from .tensors import SourceTensors

ALONE = 128
"""Tokens on which each matrix is rounded alone."""

WHOLE = 512
"""Tokens on which candidates are compared, unless their log-probabilities take more than LIMIT bytes."""

LIMIT = 1 << 28

FLOAT = "float16"

_CACHE = 1 << 14
"""Bytes of the body of the operator that reads a cache in int8; its scales come on top."""


class DecoderSearch:
    """Widths for the matrices of the decoder ``source``; ``moments`` of their inputs over the calibration text, on which losses are measured, too.

    ``plan`` keeps every rounding made: one byte for each weight and each of two widths in memory. 8-bit ones are to nearest, whatever the options
    say: their loss is some fifty times smaller than that of 4 bits.
    """

    def __init__(
        self,
        source: Bundle,
        options: Options,
        moments: InputMoments,
        plan: LayerPlan,
        progress: Progress = no_progress,
    ) -> None:
        self._path = source.graph(names.DECODER)
        self._source, self._options, self._moments = source, options, moments
        self._plan, self._progress = plan, progress
        plan.keep = True
        self._model = onnx.load(str(self._path), load_external_data=False)
        self._tensors = SourceTensors(self._path, self._model)
        self._kv = source.manifest["kv"]
        self.alone: dict[str, float] = {}
        self._linears = self._find()
        count = min(WHOLE, max(PIECE, LIMIT // (4 * source.manifest["model"]["vocab_size"])), len(moments.ids))
        self._wanted = self._read(Stream(self._path, self._kv), count)
        self._items: list[Item] | None = None
        self._measured: dict[tuple[str, ...], float] = {}

    def _find(self) -> dict[str, tuple[str, str]]:
        """Name of each matrix -> (tensor, value that enters it), in the order of the graph."""
        found: dict[str, tuple[str, str]] = {}
        for node in self._model.graph.node:
            if node.domain == DOMAIN and node.op_type == "Linear" and node.input[1] in self._tensors:
                name = HEAD if node.output[0] == names.LOGITS else node.input[1]
                found.setdefault(name, (node.input[1], node.input[0]))
        return found

    def items(self) -> list[Item]:
        """Each matrix with its bytes and predicted losses; measured once."""
        if self._items is None:
            made = []
            for done, (name, (tensor, x)) in enumerate(self._linears.items()):
                made.append(self._item(name, tensor, x))
                self._progress("sensitivity", done + 1, len(self._linears))
            self._items = made
        return self._items

    def costs(self) -> dict[str, dict[str, int]]:
        """Bytes of each matrix by width."""
        made = {}
        for name, (tensor, _) in self._linears.items():
            outputs, inputs = self._tensors.shape(tensor)
            # A tied head in float16 is the table of token vectors itself: it takes no bytes of its own.
            tied = name == HEAD and tensor == "embed.weight" and self._options.embedding == FLOAT
            made[name] = {FLOAT: 0 if tied else stored(2 * outputs * inputs)}
            for width, bits in BITS.items():
                symmetric = self._options.is_symmetric(bits)
                made[name][width] = stored_blocks(outputs, inputs, bits, self._options.block, symmetric=symmetric)
        return made

    def _item(self, name: str, tensor: str, x: str) -> Item:
        plain = np.asarray(self._tensors.array(tensor), np.float32)
        factors = self._plan.factors
        matrix = plain if factors is None else factors.apply(tensor, plain)
        moments = self._plan.moments(tensor, self._moments.of(x))
        errors = {FLOAT: 0.0}
        for width, bits in BITS.items():
            dense = self._round(name, matrix, moments, bits).dense()
            errors[width] = product_error(matrix, dense, moments)
            if bits == 4:
                self.alone[name] = self._loss_alone(tensor, name, plain + self._without_factors(tensor, dense - matrix))
        whole = max(errors["int4"], 1e-30)
        # The divergence is quadratic in small errors, so int8's follows from int4's by the errors of the products.
        measured = {width: self.alone[name] * error / whole for width, error in errors.items()}
        size = max(product_error(matrix, np.zeros_like(matrix), moments), 1e-30)
        relative = {width: error / size for width, error in errors.items()}
        return Item(name, self.costs()[name], {"divergence": measured, "output error": relative})

    def _round(self, name: str, matrix: np.ndarray, moments: np.ndarray, bits: int) -> Blocks:
        block, symmetric = self._options.block, self._options.is_symmetric(bits)
        by_inputs = bits == 4 and name != HEAD and self._options.rounding.endswith("gptq")

        def make() -> Blocks:
            if by_inputs:
                return round_gptq(matrix, moments, bits, block, symmetric=symmetric)
            return round_blocks(matrix, bits, block, symmetric=symmetric)

        return self._plan.blocks(name, bits, make)

    def _without_factors(self, tensor: str, wrong: np.ndarray) -> np.ndarray:
        """An error of the matrix with AWQ's factors as one of the source's."""
        factors = self._plan.factors
        if factors is None:
            return wrong
        columns, rows = factors.columns.get(tensor), factors.rows.get(tensor)
        wrong = wrong if columns is None else wrong / columns
        return wrong if rows is None else wrong * rows[:, None]

    def _loss_alone(self, tensor: str, name: str, dense: np.ndarray) -> float:
        """With one matrix replaced in the source. A tied head is replaced where it is the head only."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        new = numpy_helper.from_array(np.ascontiguousarray(dense, np.float32), f"{tensor}.rounded")
        copy.graph.initializer.append(new)
        for node in copy.graph.node:
            is_head = node.output[0] == names.LOGITS
            if node.op_type == "Linear" and node.input[1] == tensor and is_head == (name == HEAD):
                node.input[1] = new.name
        stream = Stream(copy.SerializeToString(), self._kv, folder=self._path.parent)
        return self._divergence(stream, min(ALONE, self._count))

    @property
    def _count(self) -> int:
        return sum(len(piece) for piece in self._wanted)

    def _read(self, stream: Stream, count: int) -> list[np.ndarray]:
        ids = self._moments.ids
        return [stream.feed(ids[at : min(at + PIECE, count)]) for at in range(0, count, PIECE)]

    def _divergence(self, stream: Stream, count: int) -> float:
        found: list[float] = []
        for wanted, own in zip(self._wanted, self._read(stream, count), strict=False):
            found += np.einsum("rv,rv->r", np.exp(wanted), wanted - own, dtype=np.float64).tolist()
        return max(float(np.mean(found)), 0.0) if np.isfinite(found).all() else float("inf")

    def measure(self, widths: Mapping[str, str]) -> float:
        """KL in nats per token on the calibration text, of the graph as it would be written."""
        key = tuple(widths[name] for name in self._linears)
        if key not in self._measured:
            with tempfile.TemporaryDirectory(prefix="farthing-budget-") as folder:
                self.write(widths, Path(folder))
                stream = Stream(Path(folder) / self._path.name, self._kv)
                self._measured[key] = self._divergence(stream, self._count)
        return self._measured[key]

    def write(self, widths: Mapping[str, str], folder: Path) -> None:
        """Write the graph into ``folder``, by the roundings that were kept."""
        self.items()  # makes those
        self._plan.widths = dict(widths)
        rewrite_decoder(self._path, folder, self._options, plan=self._plan)

    def fixed_bytes(self) -> int:
        """Of all graphs and weights of the bundle, what does not depend on the widths."""
        plan = LayerPlan(dict.fromkeys(self._linears, "int4"))
        with tempfile.TemporaryDirectory(prefix="farthing-budget-") as folder:
            rewrite_decoder(self._path, Path(folder), replace(self._options, rounding="nearest"), plan=plan)
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
        if self._options.kv != "float32":
            size += _CACHE + 2 * self._kv["layers"] * stored(4 * self._kv["kv_heads"] * self._kv["head_dim"])
        manifest = self._source.manifest
        files = manifest["files"]
        others = {f for n, g in manifest["graphs"].items() if n != names.DECODER for f in (g["file"], *g["data"])}
        return size - sum(cost["int4"] for cost in self.costs().values()) + sum(files[f]["bytes"] for f in others)

    def uniforms(self) -> dict[str, dict[str, str]]:
        """Every uniform choice, with the head like the layers or wider."""
        order = ("int4", "int8", FLOAT)
        made = {}
        for place, width in enumerate(order):
            for head in order[place:]:
                name = width if head == width else f"{width}, head {head}"
                made[name] = {n: head if n == HEAD else width for n in self._linears}
        return made

    def within(self, budget: int) -> Found:
        """The best widths with at most ``budget`` bytes of graphs and weights. Raises RequestError where there is no choice."""
        fixed = self.fixed_bytes()
        check_budget(list(self.costs().values()), budget, fixed)  # before minutes of reading
        return search(self.items(), budget, fixed, self.uniforms(), self.measure, self._progress)


def check_source(source: Bundle, what: str) -> None:
    """Raises RequestError for a bundle whose other graphs are made of the same matrices, as a vision-language bundle's are."""
    if "vision" in source.manifest:
        raise RequestError(
            found_wanted(f"{what} for {source.path}", "a vision-language bundle", "a decoder of text", "leave it out")
        )


def described(found: Found, search_: DecoderSearch, limit: int) -> dict[str, Any]:
    """What the manifest says of the search."""
    return {"limit": limit, **found.as_json(), "sensitivity": {n: float(f"{v:.6g}") for n, v in search_.alone.items()}}
