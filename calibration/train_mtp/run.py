"""The training loop: AdamW, warm-up and cosine, checkpoints to go on from."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import RequestError, found_wanted
from ...export.checkpoint import Checkpoint, open_checkpoint
from ...export.checkpoint.mtp_adapter import check_base, save_adapter
from ...models.mtp import MtpAdapter, MtpConfig
from .data import Document, draw, read_documents, split
from .forward import FrozenBase
from .losses import accepted, losses
from .options import Options

Progress = Callable[[str, int, int], None]

_HELD_OUT_BATCHES = 4


@dataclass(frozen=True)
class TrainResult:
    """``accepted`` is the mean number of draft tokens accepted on held-out text, teacher-forced; ``without_sampler`` the same through
    the base's head alone."""

    path: Path
    parameters: int
    steps: int
    tokens: int
    losses: dict[str, float]
    accepted: float
    without_sampler: float
    cpu_seconds: float

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def train(
    checkpoint: str | Path | Checkpoint,
    texts: Sequence[str | Path],
    out: str | Path,
    options: Options,
    *,
    pause_while: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TrainResult:
    """Train an adapter for ``checkpoint`` on ``texts`` and write it to ``out`` (safetensors, float16).

    Every ``options.save_every`` steps the state goes to ``<out>.resume.pt``; a run with the same options goes on from there, and gives
    what an uninterrupted one gives. ``<out>.log.jsonl`` has the losses of every step. While the file ``pause_while`` exists, nothing runs.
    Raises RequestError, CheckpointError.
    """
    options.check()
    out = Path(out)
    if out.suffix != ".safetensors":
        raise RequestError(found_wanted("out", out.name, "a name that ends in .safetensors", "correct --out"))
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    check_base(source.config)
    documents = read_documents(texts, source)
    training, held = split(documents, options.held_out, options.seed)
    base = FrozenBase(source, options.compute)
    adapter = MtpAdapter.initial(
        source.config,
        MtpConfig(options.masks, options.scale, options.norm, options.residual, source.config.norm_epsilon),
        rank=options.rank,
        embedding_std=float(base.embed.std()),
        norm_weight=base.norm,
        seed=options.seed,
    )
    for tensor in adapter.tensors.values():
        tensor.requires_grad_(True)
    run = _Run(source, base, adapter, options, out)
    run.resume()
    while run.step < options.steps:
        while pause_while is not None and Path(pause_while).exists():
            time.sleep(2)
        run.one(training)
        progress("training", run.step, options.steps)
        if run.step % options.save_every == 0 or run.step == options.steps:
            run.save()
    return run.finish(held)


class _Run:
    def __init__(self, source: Checkpoint, base: FrozenBase, adapter: MtpAdapter, options: Options, out: Path) -> None:
        self.source, self.base, self.adapter, self.options, self.out = source, base, adapter, options, out
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.recent: dict[str, float] = {}
        # Weight decay for products only: gains and mask embeddings have a scale of their own.
        matrices = [t for n, t in adapter.tensors.items() if "lora" in n or "linear.weight" in n]
        others = [t for n, t in adapter.tensors.items() if not ("lora" in n or "linear.weight" in n)]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95))
        self._state = out.with_name(out.name + ".resume.pt")
        self._log = out.with_name(out.name + ".log.jsonl")

    def resume(self) -> None:
        if not self._state.exists():
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._log.unlink(missing_ok=True)
            return
        kept = torch.load(self._state, weights_only=True)
        wanted = json.dumps([asdict(self.options), self.source.sha256()], sort_keys=True)
        if kept["run"] != wanted:
            raise RequestError(
                found_wanted(
                    f"options in {self._state}",
                    "those of another run",
                    "the ones given now",
                    "repeat the command as it was, delete that file, or choose another --out",
                )
            )
        with torch.no_grad():
            for name, tensor in self.adapter.tensors.items():
                tensor.copy_(kept["tensors"][name])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.step, self.tokens, self.seconds = kept["step"], kept["tokens"], kept["seconds"]
        self.recent = kept["recent"]

    def one(self, documents: list[Document]) -> None:
        """One step. Its batch depends on seed and step alone, so a resumed run draws what an uninterrupted one draws."""
        o, began = self.options, time.process_time()
        rng = np.random.default_rng([o.seed, self.step])
        batch = draw(documents, rng, o.batch, o.length, o.density, o.masks)
        for group in self.optimiser.param_groups:
            group["lr"] = o.rate * self._schedule()
        self.optimiser.zero_grad()
        if bool(batch.valid.any()):
            found = losses(self.base, self.adapter, batch, targets=o.targets, consistency=o.consistency, decay=o.decay)
            found.total.backward()
            torch.nn.utils.clip_grad_norm_(list(self.adapter.tensors.values()), o.clip)
            self.optimiser.step()
            numbers = found.numbers()
            self.recent = {k: 0.95 * self.recent.get(k, v) + 0.05 * v for k, v in numbers.items()}
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": self.step, **{k: round(v, 5) for k, v in numbers.items()}}) + "\n")
        self.step, self.tokens = self.step + 1, self.tokens + int(batch.valid.sum())
        self.seconds += time.process_time() - began

    def _schedule(self) -> float:
        o = self.options
        warm = min(1.0, (self.step + 1) / max(1, o.warm_up))
        return warm * (0.1 + 0.45 * (1 + math.cos(math.pi * self.step / o.steps)))

    def save(self) -> None:
        state = {
            "run": json.dumps([asdict(self.options), self.source.sha256()], sort_keys=True),
            "tensors": {n: t.detach() for n, t in self.adapter.tensors.items()},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "recent": self.recent,
        }
        # Beside it and renamed: an interrupt leaves the old state whole.
        fresh = self._state.with_name(self._state.name + ".new")
        torch.save(state, fresh)
        os.replace(fresh, self._state)
        details = {"steps": str(self.step), "masks_seen": str(self.tokens)}
        save_adapter(self.out, self.adapter, self.source, details=details)

    def finish(self, held: list[Document]) -> TrainResult:
        o = self.options
        totals = {True: (0.0, 0), False: (0.0, 0)}
        for number in range(_HELD_OUT_BATCHES):
            rng = np.random.default_rng([o.seed, 1 << 30, number])
            batch = draw(held, rng, 1, o.length, min(o.density, 32 / o.length), o.masks)
            for sampler, (total, drafts) in totals.items():
                more, count = accepted(self.base, self.adapter, batch, sampler=sampler)
                totals[sampler] = (total + more, drafts + count)
        kept = {sampler: total / max(1, drafts) for sampler, (total, drafts) in totals.items()}
        return TrainResult(
            self.out,
            self.adapter.parameters,
            self.step,
            self.tokens,
            {k: round(v, 4) for k, v in self.recent.items()},
            kept[True],
            kept[False],
            round(self.seconds, 1),
        )
