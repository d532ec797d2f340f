"""The graph of a gated associative memory: one step over S new rows with a state of k-1 rows a layer, whatever the context.

    input_ids, positions [B,S]   logit_rows [B,R]   conv_state.i [B,k-1,C]  ->  logits [B,R,V], conv_window.i [B,k-1+S,C]

The whole window is given out and not only its end: the state after the first a rows is its rows a..a+k-2, so a verifier that
accepts a of S drafted tokens goes back without another pass.
"""

from __future__ import annotations

import numpy as np

from ...runtime import tensors as names
from ..checkpoint.gam_checkpoint import GamCheckpoint
from .writer import GraphWriter, Progress, TensorInfo, no_progress

EPSILON = 1e-5


def quantized_rows(bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 [M,C], float32 [M]): each row in steps of its largest magnitude / 127. A row of zeros has step 1."""
    step = np.abs(bank.astype(np.float32)).max(axis=1) / np.float32(127)
    step[step == 0] = 1
    return np.clip(np.rint(bank / step[:, None]), -127, 127).astype(np.int8), step.astype(np.float32)


def write_gam(
    writer: GraphWriter, checkpoint: GamCheckpoint, *, dtype: str, memory: str, progress: Progress = no_progress
) -> None:
    """Fill ``writer`` with the model of ``checkpoint`` and save it.

    ``dtype`` (``float32`` or ``float16``) is how matrices are stored, ``memory`` (also ``int8``) how the banks are; norms, biases,
    taps and all arithmetic are float32. Raises CheckpointError.
    """
    _GamGraph(writer, checkpoint, dtype, memory, progress).write()


class _GamGraph:
    def __init__(
        self, writer: GraphWriter, checkpoint: GamCheckpoint, dtype: str, memory: str, progress: Progress
    ) -> None:
        self.w = writer
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.dtype, self.memory = dtype, memory
        self._progress = progress
        self._done = 0

    def write(self) -> None:
        self._declare()
        self._begin()
        for layer in range(self.config.layers):
            self._layer(layer)
        self._head()
        self.w.save()

    def _declare(self) -> None:
        c, w = self.config, self.w
        w.inputs += [
            TensorInfo(names.INPUT_IDS, "int64", ("B", "S")),
            TensorInfo(names.POSITIONS, "int64", ("B", "S")),
            TensorInfo(names.LOGIT_ROWS, "int64", ("B", "R")),
        ]
        w.outputs.append(TensorInfo(names.LOGITS, "float32", ("B", "R", c.vocab_size)))
        state, window = ("B", c.kernel_size - 1, c.hidden_size), ("B", "W", c.hidden_size)
        for i in range(c.layers):
            w.inputs.append(TensorInfo(names.CONV_STATE.format(i), "float32", state))
            w.outputs.append(TensorInfo(names.CONV_WINDOW.format(i), "float32", window))
        w.inner += [
            TensorInfo(names.HIDDEN.format(i), "float32", ("B", "S", c.hidden_size)) for i in range(c.layers + 1)
        ]

    def _begin(self) -> None:
        """Token and position embeddings, added."""
        w = self.w
        w.constant("last_axis", np.array([-1], np.int64))
        for name, ids in (("token_embedding", names.INPUT_IDS), ("pos_embedding", names.POSITIONS)):
            weight = self._matrix(f"{name}.weight")
            narrow = self.dtype == "float16"
            w.node("Gather", [weight, ids], [name + ("_narrow" if narrow else "")], axis=0)
            if narrow:
                w.node("Cast", [name + "_narrow"], [name], to=1)
        w.node("Add", ["token_embedding", "pos_embedding"], [names.HIDDEN.format(0)])

    def _layer(self, i: int) -> None:
        w, p, source = self.w, f"layers.{i}.", f"blocks.{i}."
        stream = names.HIDDEN.format(i)
        normed = self._norm(stream, source + "ln1", p + "mixer_in")
        self._layer_mixer(i, normed, p, source)
        w.node("Add", [stream, p + "mixed"], [p + "mixed_stream"])
        hidden = self._linear(self._norm(p + "mixed_stream", source + "ln2", p + "ffn_in"), source + "ffn.0", p + "up")
        w.node("Gelu", [hidden], [p + "activation"], approximate="none")
        down = self._linear(p + "activation", source + "ffn.2", p + "down")
        w.node("Add", [p + "mixed_stream", down], [names.HIDDEN.format(i + 1)])

    def _layer_mixer(self, i: int, normed: str, p: str, source: str) -> None:
        inputs = [
            normed,
            names.CONV_STATE.format(i),
            self._taps(source + "causal_conv.weight"),
            self._vector(source + "causal_conv.bias"),
            source + "memory_bank",
            self._matrix(source + "gate.weight"),
            self._vector(source + "gate.bias"),
        ]
        if self.memory == "int8":
            inputs.append(source + "memory_bank.step")
        self._bank(source + "memory_bank")
        self.w.operator(
            "GatedAssocMemory",
            inputs,
            [p + "mixed", names.CONV_WINDOW.format(i)],
            kernel_size=self.config.kernel_size,
            scale=1.0,  # the official code divides by no square root, and a loaded bank depends on that
            mode="gate",
            return_window=1,
        )

    def _head(self) -> None:
        """Logits of the wanted rows, by the embedding: norm and head see no other row."""
        w = self.w
        w.node("Unsqueeze", [names.LOGIT_ROWS, "last_axis"], ["logit_row_index"])
        w.node("GatherND", [names.HIDDEN.format(self.config.layers), "logit_row_index"], ["wanted_rows"], batch_dims=1)
        final = self._norm("wanted_rows", "ln_f", "final")
        w.operator("Linear", [final, "token_embedding.weight"], [names.LOGITS])

    def _norm(self, x: str, source: str, out: str) -> str:
        weight, bias = self._vector(source + ".weight"), self._vector(source + ".bias")
        self.w.node("LayerNormalization", [x, weight, bias], [out], axis=-1, epsilon=EPSILON)
        return out

    def _linear(self, x: str, source: str, out: str) -> str:
        # The bias is an Add: a graph carries one body of Linear, and the head has none.
        self.w.operator("Linear", [x, self._matrix(source + ".weight")], [out + "_product"])
        self.w.node("Add", [out + "_product", self._vector(source + ".bias")], [out])
        return out

    def _bank(self, name: str) -> None:
        bank = self._read(name)
        if self.memory != "int8":
            self.w.weight(name, bank.shape, self.memory, [bank])
            return
        slots, step = quantized_rows(bank)
        self.w.weight(name, slots.shape, "int8", [slots])
        self.w.weight(name + ".step", step.shape, "float32", [step])

    def _taps(self, name: str) -> str:
        taps = self._read(name)[:, 0]
        self.w.weight(name, taps.shape, "float32", [taps])
        return name

    def _matrix(self, name: str) -> str:
        array = self._read(name)
        self.w.weight(name, array.shape, self.dtype, [array])
        return name

    def _vector(self, name: str) -> str:
        array = self._read(name)
        self.w.weight(name, array.shape, "float32", [array])
        return name

    def _read(self, name: str) -> np.ndarray:
        array = self.checkpoint.tensor(name)
        self._done += array.size
        self._progress("writing weights", self._done, self.config.parameters)
        return array
