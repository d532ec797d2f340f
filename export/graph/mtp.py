"""The two graphs of multi-token prediction (Samragh et al. 2025): the decoder step with mask rows, and the chain of drafts.

`mtp_step` is the decoder's step with gated adapters behind its linears; without masks (M = 0) it computes what the decoder does.
`mtp_draft_chain` unrolls the sampler head k times. Its table and head are the step's, at the same place of the same file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...models.config import DecoderConfig
from ...models.mtp import MASKS, SAMPLER
from ...runtime import tensors as names
from ..checkpoint.base import Checkpoint
from .decoder import TreeDecoderGraph
from .writer import GraphWriter, Progress, TensorInfo, no_progress

if TYPE_CHECKING:
    import torch

    from ...models.mtp import MtpAdapter


def write_mtp_step(
    writer: GraphWriter, checkpoint: Checkpoint, adapter: MtpAdapter, *, dtype: str, progress: Progress = no_progress
) -> None:
    """Fill ``writer`` with the step of ``checkpoint`` and ``adapter``, and save it. Raises CheckpointError."""
    _StepGraph(writer, checkpoint, adapter, dtype, progress).write()


class _StepGraph(TreeDecoderGraph):
    def __init__(
        self, writer: GraphWriter, checkpoint: Checkpoint, adapter: MtpAdapter, dtype: str, progress: Progress
    ) -> None:
        super().__init__(writer, checkpoint, dtype, progress)
        self.adapter = adapter

    def declare_more(self) -> None:
        super().declare_more()
        self.w.inputs.append(TensorInfo(names.MASK_ROWS, "int64", ("M",)))
        self.w.outputs.append(TensorInfo(names.MASK_HIDDEN, "float32", ("B", "M/B", self.config.hidden_size)))

    def embed(self, stream: str) -> None:
        """Ids from V on are masks. Two tables, since the first is the head's matrix too; each is read at an index it has."""
        w, vocab = self.w, self.config.vocab_size
        self._matrix("embed.weight", "embed.weight")
        _weight(w, "mask_embed.weight", self.adapter.tensors[MASKS], self.dtype)
        for name, value in (("first_mask_id", vocab), ("last_id", vocab - 1), ("zero_id", 0)):
            w.constant(name, np.array(value, np.int64))
        w.node("Min", [names.INPUT_IDS, "last_id"], ["token_ids"])
        w.node("Gather", ["embed.weight", "token_ids"], ["token_rows"], axis=0)
        w.node("Sub", [names.INPUT_IDS, "first_mask_id"], ["mask_offsets"])
        w.node("Max", ["mask_offsets", "zero_id"], ["mask_ids"])
        w.node("Gather", ["mask_embed.weight", "mask_ids"], ["mask_vectors"], axis=0)
        w.node("GreaterOrEqual", [names.INPUT_IDS, "first_mask_id"], ["is_mask_flat"])
        w.constant("column", np.array([2], np.int64))
        w.node("Unsqueeze", ["is_mask_flat", "column"], ["is_mask"])
        narrow = self.dtype == "float16"
        w.node("Where", ["is_mask", "mask_vectors", "token_rows"], ["embedded" if narrow else stream])
        if narrow:
            w.node("Cast", ["embedded"], [stream], to=1)

    def adapt(self, layer: int, group: str, x: str, y: str) -> str:
        pair = self.adapter.fused(self.config, layer, group)
        if pair is None:
            return y
        p = f"layers.{layer}.{group}"
        _weight(self.w, f"{p}.lora_a", pair[0], self.dtype)
        _weight(self.w, f"{p}.lora_b", pair[1], self.dtype)
        self.w.operator(
            "GatedLora",
            [x, y, f"{p}.lora_a", f"{p}.lora_b", names.MASK_ROWS],
            [f"{p}_adapted"],
            scale=float(self.adapter.config.scale),
        )
        return f"{p}_adapted"

    def finish(self, normed: str) -> None:
        """mask_hidden [B,M/B,D]. Its shape is computed, since M may be 0 and a Reshape cannot infer a dimension of nothing."""
        w, d = self.w, self.config.hidden_size
        w.constant("flat_shape", np.array([-1, d], np.int64))
        w.constant("width", np.array([d], np.int64))
        w.node("Reshape", [normed, "flat_shape"], ["final_rows"])
        w.node("Gather", ["final_rows", names.MASK_ROWS], ["mask_rows_hidden"], axis=0)
        w.node("Shape", [names.INPUT_IDS], ["batch"], start=0, end=1)
        w.node("Shape", [names.MASK_ROWS], ["mask_count"])
        w.node("Div", ["mask_count", "batch"], ["masks_each"])
        w.node("Concat", ["batch", "masks_each", "width"], ["mask_shape"], axis=0)
        w.node("Reshape", ["mask_rows_hidden", "mask_shape"], [names.MASK_HIDDEN], allowzero=1)


def write_draft_chain(
    writer: GraphWriter,
    step: GraphWriter,
    checkpoint: Checkpoint,
    adapter: MtpAdapter,
    *,
    dtype: str,
    draft_ids: np.ndarray | None = None,
) -> None:
    """Fill ``writer`` with the chain over the weights of ``step``, a graph in the same folder, and save it.

    ``draft_ids`` int64 [v], ascending: drafts are chosen among these, through a head of v rows of its own.
    """
    _ChainGraph(writer, step, checkpoint, adapter, dtype, draft_ids).write()


class _ChainGraph:
    def __init__(
        self,
        writer: GraphWriter,
        step: GraphWriter,
        checkpoint: Checkpoint,
        adapter: MtpAdapter,
        dtype: str,
        draft_ids: np.ndarray | None,
    ) -> None:
        self.w, self.step, self.checkpoint, self.adapter = writer, step, checkpoint, adapter
        self.config: DecoderConfig = checkpoint.config
        self.dtype, self.draft_ids = dtype, draft_ids

    def write(self) -> None:
        w, k, d = self.w, self.adapter.config.masks, self.config.hidden_size
        w.inputs += [
            TensorInfo(names.FIRST_TOKEN, "int64", ("B",)),
            TensorInfo(names.MASK_LATENTS, "float32", ("B", k, d)),
        ]
        w.outputs += [
            TensorInfo(names.DRAFT, "int64", ("B", k)),
            TensorInfo(names.DRAFT_CHANCE, "float32", ("B", k)),
        ]
        w.borrow(self.step, "embed.weight")
        head = self._head()
        for name, tensor in self.adapter.tensors.items():
            if name.startswith("sampler_head."):
                _weight(w, name, tensor, self.dtype if tensor.ndim == 2 else "float32")
        w.constant("column", np.array([1], np.int64))
        token = names.FIRST_TOKEN
        for i in range(k):
            token = self._step(i, token, head)
        for name, output in (("token_column", names.DRAFT), ("chance", names.DRAFT_CHANCE)):
            w.node("Concat", [f"draft.{i}.{name}" for i in range(k)], [output], axis=1)
        w.save()

    def _head(self) -> str:
        """The weight that logits of drafts are made with."""
        head = "embed.weight" if self.config.tied_head else "head.weight"
        if self.draft_ids is not None:
            self.w.constant("draft_ids", self.draft_ids.astype(np.int64))
            rows = self.checkpoint.tensor(head)[self.draft_ids]
            self.w.weight("draft_head.weight", rows.shape, self.dtype, [rows])
            return "draft_head.weight"
        if head != "embed.weight":
            self.w.borrow(self.step, head)
        return head

    def _step(self, i: int, token: str, head: str) -> str:
        """Draft token i from the one before it; returns its name."""
        w, p = self.w, f"draft.{i}."
        w.constant(p + "index", np.array(i, np.int64))
        w.node("Gather", [names.MASK_LATENTS, p + "index"], [p + "latent"], axis=1)
        narrow = self.dtype == "float16"
        w.node("Gather", ["embed.weight", token], [p + ("stored" if narrow else "previous")], axis=0)
        if narrow:
            w.node("Cast", [p + "stored"], [p + "previous"], to=1)
        w.node("Concat", [p + "previous", p + "latent"], [p + "pair"], axis=1)
        first = self._block(0, p + "pair", p + "first")
        out = self._block(1, first, p + "second")
        other = {"none": None, "block": first, "latent": p + "latent"}[self.adapter.config.residual]
        if other is not None:
            w.node("Add", [out, other], [p + "row"])
            out = p + "row"
        w.operator("Linear", [out, head], [p + "logits"])
        w.node("ArgMax", [p + "logits"], [p + "token_column" if self.draft_ids is None else p + "place"], axis=-1)
        w.node("Softmax", [p + "logits"], [p + "chances"], axis=-1)
        w.node("ReduceMax", [p + "chances", "column"], [p + "chance"], keepdims=1)
        if self.draft_ids is not None:
            w.node("Gather", ["draft_ids", p + "place"], [p + "token_column"], axis=0)
        w.node("Squeeze", [p + "token_column", "column"], [p + "token"])
        return p + "token"

    def _block(self, block: int, x: str, y: str) -> str:
        """norm(silu(linear(x)))."""
        w, c, tensors = self.w, self.adapter.config, self.adapter.tensors
        weight, bias, gain, shift = (
            SAMPLER.format(block, n) for n in ("linear.weight", "linear.bias", "norm.weight", "norm.bias")
        )
        w.operator("Linear", [x, weight], [f"{y}.product"])
        product = f"{y}.product"
        if bias in tensors:
            w.node("Add", [product, bias], [f"{y}.biased"])
            product = f"{y}.biased"
        w.node("Sigmoid", [product], [f"{y}.sigmoid"])
        w.node("Mul", [product, f"{y}.sigmoid"], [f"{y}.active"])
        if c.norm == "layer":
            inputs = [f"{y}.active", gain] + [shift] * (shift in tensors)
            w.node("LayerNormalization", inputs, [y], axis=-1, epsilon=c.epsilon)
        else:
            w.node("RMSNormalization", [f"{y}.active", gain], [y], axis=-1, epsilon=c.epsilon)
        return y


def _weight(w: GraphWriter, name: str, tensor: torch.Tensor, dtype: str) -> None:
    w.weight(name, tuple(tensor.shape), dtype, [tensor.numpy()])
