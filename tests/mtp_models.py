"""Adapters of tiny models, and quadratic decoding in numpy over the two graphs of a bundle, by their bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from farthing.export.checkpoint import Checkpoint
from farthing.models.mtp import MtpAdapter, MtpConfig
from farthing.runtime import tensors as names
from farthing.runtime.bundle import Bundle
from farthing.runtime.mask_feeds import causal_feeds, mask_feeds


def random_adapter(checkpoint: Checkpoint, *, masks: int = 3, rank: int = 4, **config: object) -> MtpAdapter:
    """Nothing in it is zero, so that everything that is left out somewhere shows."""
    base = checkpoint.config
    d = base.hidden_size
    adapter = MtpAdapter.initial(
        base,
        MtpConfig(masks, 1.5, **config),  # type: ignore[arg-type]
        rank=rank,
        embedding_std=0.5,
        norm_weight=torch.full((d,), 0.7),
    )
    draw = torch.Generator().manual_seed(5)
    for name, tensor in adapter.tensors.items():
        if "lora_B" in name or "norm" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.2 + (0.7 if "norm.weight" in name else 0))
        tensor.copy_(tensor.half().float())  # files are float16
    return adapter


def session(path: Path, library: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Loop:
    """One sequence. ``passes`` and ``accepted`` count what the last `decode` did."""

    def __init__(self, bundle: Bundle, library: Path | None = None) -> None:
        self.step = session(bundle.graph(names.MTP_STEP), library)
        self.chain = session(bundle.graph(names.MTP_DRAFT_CHAIN), library)
        self.kv, self.vocab = bundle.manifest["kv"], bundle.manifest["model"]["vocab_size"]
        self.masks = bundle.manifest["mtp"]["masks"]
        layers = range(self.kv["layers"])
        self.pasts = [n.format(i) for i in layers for n in (names.PAST_K, names.PAST_V)]
        self.presents = [n.format(i) for i in layers for n in (names.PRESENT_K, names.PRESENT_V)]
        self.passes, self.accepted = 0, []  # type: ignore[var-annotated]

    def start(self, capacity: int) -> None:
        # Not zeros: slots that are not filled yet hold whatever was in memory.
        shape = (1, self.kv["kv_heads"], capacity, self.kv["head_dim"])
        self.cache = [np.full(shape, 7.5e8, np.float32) for _ in self.pasts]

    def run(self, ids: np.ndarray, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        feeds = {names.INPUT_IDS: ids, **feeds, **dict(zip(self.pasts, self.cache, strict=True))}
        logits, latents, *self.cache = self.step.run([names.LOGITS, names.MASK_HIDDEN, *self.presents], feeds)
        return logits, latents

    def plain(self, ids: list[int], past: int) -> np.ndarray:
        """Logits [V] of the last row; a pass without masks."""
        rows = np.arange(len(ids))
        feeds = {
            names.POSITIONS: (past + rows)[None],
            names.PAST_LEN: np.array([past]),
            names.LOGIT_ROWS: rows[-1:][None],
            **causal_feeds(1, len(ids)),
        }
        return self.run(np.array([ids]), feeds)[0][0, 0]

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        self.start(len(prompt) + count)
        made = [int(self.plain(prompt, 0).argmax())]
        while len(made) < count:
            made.append(int(self.plain(made[-1:], len(prompt) + len(made) - 1).argmax()))
        return made

    def decode(self, prompt: list[int], count: int) -> list[int]:
        """Quadratic: masks behind every real row of every pass."""
        k = self.masks
        self.start(len(prompt) + count + (k + 1) ** 2)
        if len(prompt) > 1:
            self.plain(prompt[:-1], 0)
        past, real, made = len(prompt) - 1, [prompt[-1]], []  # type: ignore[var-annotated]
        self.passes, self.accepted = 0, []
        while len(made) < count:
            ids = np.array([real + [self.vocab + i for _ in real for i in range(k)]])
            logits, latents = self.run(ids, mask_feeds(len(real), k, np.array([past])))
            chosen = logits[0].argmax(-1)
            kept = 0
            while kept < len(real) - 1 and real[kept + 1] == chosen[kept]:
                kept += 1
            made += [*real[1 : kept + 1], int(chosen[kept])]
            past += kept + 1
            self.passes += 1
            self.accepted.append(kept)
            feeds = {names.FIRST_TOKEN: np.array([made[-1]]), names.MASK_LATENTS: latents[:, kept * k : (kept + 1) * k]}
            draft = self.chain.run([names.DRAFT], feeds)[0][0]
            real = [made[-1], *(int(i) for i in draft)]
        return made[:count]
