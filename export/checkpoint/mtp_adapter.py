"""Reading and writing adapters for multi-token prediction: masks, gated LoRAs and sampler head in one safetensors file.

Names of a layer's linear, before ``.lora_A.weight`` [R,inputs] and ``.lora_B.weight`` [outputs,R] (or ``.lora_BT`` [R,outputs]):

    ours            layers.3.q                          also qkv and gate_up, fused
    Hugging Face    model.layers.3.self_attn.q_proj     also qkv_proj, gate_up_proj; any prefix
    BatchSpec       layers.3.attention.wqkv             wo; feed_forward.w13, w1, w3, w2; rows of q and k interleaved

and ``sampler_head.layers.{0,1}.linear.weight``, ``.norm.weight`` (also ``sampler.``), and the masks: ``mtp_embedding_delta`` [k,D], or the
rows of a whole embedding table behind the base's V. BatchSpec (github.com/siihwanpark/BatchSpec) keeps the scale in its code, so for
such files it must be given.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CheckpointError, RequestError, found_wanted
from ...models.config import DecoderConfig
from . import PICKLES, pickle_refusal
from .base import Checkpoint
from .safetensors_file import SafetensorsFile, write_safetensors

if TYPE_CHECKING:
    from ...models.mtp import MtpAdapter

_HF = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "qkv_proj": "qkv",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "gate_up_proj": "gate_up",
    "down_proj": "down",
}
_ENGINE = {
    "wq": "q",
    "wk": "k",
    "wv": "v",
    "wqkv": "qkv",
    "wo": "o",
    "w1": "gate",
    "w3": "up",
    "w13": "gate_up",
    "w2": "down",
}
_OURS = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")

_LORA = re.compile(
    r"(?:.*\.)?layers\.(\d+)\.(?:(self_attn|mlp|attention|feed_forward)\.)?(\w+)\.(lora_A\.weight|lora_B\.weight|lora_BT)"
)
_SAMPLER = re.compile(r"sampler(?:_head)?\.layers\.([01])\.(linear|norm)\.(weight|bias)")
_WEIGHT = re.compile(r"(?:.*\.)?layers\.\d+\.(?:\w+\.)*\w+\.weight")
_EMBEDDINGS = ("model.embed_tokens.weight", "tok_embeddings.weight", "embed.weight")

NOTE = "mtp."
"""Prefix of our entries in the file's metadata."""


def check_base(config: DecoderConfig) -> None:
    """Raise CheckpointError for a base that masks cannot be added to."""
    if config.sliding_window:
        raise CheckpointError(
            found_wanted(
                "sliding window of the base",
                config.sliding_window,
                "none",
                "masks need attention over the whole past; choose another base",
            )
        )


def open_adapter(
    path: str | Path, base: Checkpoint, *, masks: int | None = None, alpha: float | None = None
) -> MtpAdapter:
    """The adapter in the safetensors file ``path``, checked against ``base``; float32, in our names.

    ``masks`` uses the first so many of the trained ones. ``alpha`` gives scale = alpha / rank where the file does not say it. Raises
    CheckpointError (not an adapter, of another base, damaged) and RequestError (more masks than were trained, no scale).
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise CheckpointError(pickle_refusal(path).replace("checkpoint", "adapter", 1))
    if not path.is_file():
        raise CheckpointError(found_wanted(f"adapter {path}", "missing", "a .safetensors file", "check the path"))
    check_base(base.config)
    return _Reader(path, base).adapter(masks, alpha)


def save_adapter(path: Path, adapter: MtpAdapter, base: Checkpoint, *, details: dict[str, str] | None = None) -> None:
    """Write ``adapter`` of ``base`` to ``path``, float16, with what its weights do not say as metadata."""
    c = adapter.config
    notes = {
        "masks": str(c.masks),
        "scale": repr(c.scale),
        "norm": c.norm,
        "residual": c.residual,
        "epsilon": repr(c.epsilon),
        "base": base.name,
        "base_sha256": base.sha256(),
        **(details or {}),
    }
    tensors = {n: t.detach().numpy().astype(np.float16) for n, t in adapter.tensors.items()}
    write_safetensors(path, tensors, {NOTE + name: value for name, value in notes.items()})


class _Reader:
    def __init__(self, path: Path, base: Checkpoint) -> None:
        self.path, self.base, self.config = path, base, base.config
        self.file = SafetensorsFile(path)
        self.notes = {k.removeprefix(NOTE): v for k, v in self.file.metadata.items() if k.startswith(NOTE)}

    def adapter(self, masks: int | None, alpha: float | None) -> MtpAdapter:
        from ...models.mtp import MASKS, MtpAdapter, MtpConfig, ranks_of

        tensors: dict[str, np.ndarray] = {}
        for name in self.file.names():
            if found := self._named(name):
                key, array = found
                if key in tensors:
                    raise self._bad(f"tensor {name}", f"a second {key}", "one of them", "remove one")
                if not np.isfinite(array).all():
                    raise self._bad(f"tensor {name}", "not finite", "finite weights", "train the adapter again")
                tensors[key] = array.astype(np.float32)
        self._check_complete(tensors, MASKS)
        import torch

        trained = tensors[MASKS].shape[0]
        if masks is not None and not 1 <= masks <= trained:
            raise RequestError(
                found_wanted(
                    "masks", masks, f"1 to {trained}, as many as {self.path} was trained with", "correct --masks"
                )
            )
        config = MtpConfig(
            trained,
            1.0,
            self.notes.get("norm", "layer" if "sampler_head.layers.0.norm.bias" in tensors else "rms"),
            self.notes.get("residual", "block"),
            self._number("epsilon", self.config.norm_epsilon),
        )
        adapter = MtpAdapter(
            config, {n: torch.from_numpy(np.require(t, requirements=["W", "C"])) for n, t in tensors.items()}
        )
        self._check_shapes(adapter)
        # Parts stacked into a fused LoRA add up their ranks; alpha belongs to the single one.
        scale = self._scale(alpha, min(ranks_of(adapter)))
        adapter = MtpAdapter(MtpConfig(trained, scale, config.norm, config.residual, config.epsilon), adapter.tensors)
        return adapter if masks is None else adapter.limited(masks)

    def _named(self, name: str) -> tuple[str, np.ndarray] | None:
        """(our name, tensor in our layout) of a tensor of the file; None for one that is no part of an adapter's weights."""
        from ...models.mtp import MASKS, SAMPLER

        if match := _LORA.fullmatch(name):
            layer, module, linear, kind = match.groups()
            engine = module in ("attention", "feed_forward")
            part = _ENGINE.get(linear) if engine else _HF.get(linear, linear if linear in _OURS else None)
            if part is None:
                raise self._bad(
                    f"tensor {name}", f"of linear {linear!r}", "a linear of a decoder layer", "see docs/mtp.md"
                )
            array = self.file.read(name)
            if kind == "lora_BT":
                array = array.T
            if (
                kind != "lora_A.weight"
                and engine
                and part in ("q", "k", "qkv")
                and array.shape[0] == self._outputs(part)
            ):
                array = self._deinterleaved(array, part)
            letter = "A" if kind == "lora_A.weight" else "B"
            return f"layers.{int(layer)}.{part}.lora_{letter}.weight", array
        if match := _SAMPLER.fullmatch(name):
            block, kind, suffix = match.groups()
            return SAMPLER.format(block, f"{kind}.{suffix}"), self.file.read(name)
        if name == MASKS:
            return MASKS, self.file.read(name)
        if name in _EMBEDDINGS:
            rows, vocab = self.file.shape(name)[0], self.config.vocab_size
            if rows <= vocab:
                raise self._bad(
                    f"rows of {name}", rows, f"more than the base's {vocab}: the masks come last", "check the base"
                )
            return MASKS, self.file.read(name)[vocab:]
        if _WEIGHT.fullmatch(name):
            raise self._bad(
                f"tensor {name}",
                "a weight of the model",
                "lora_A and lora_B beside a frozen base",
                "a merged adapter changes every token; give the adapter as it was before merging",
            )
        raise self._bad(f"tensor {name}", "unknown", "masks, LoRAs and sampler head", "see docs/mtp.md for the names")

    def _outputs(self, part: str) -> int:
        from ...models.mtp import group_shape

        return group_shape(self.config, part)[0]

    def _deinterleaved(self, b: np.ndarray, part: str) -> np.ndarray:
        """Rows of q and k from pairs side by side (the engine's rotary layout) to halves (ours)."""
        c, done, at = self.config, [], 0
        for p in ("q", "k", "v") if part == "qkv" else (part,):
            rows = b[at : at + self._outputs(p)]
            at += len(rows)
            if p != "v":
                rows = rows.reshape(-1, c.head_dim // 2, 2, b.shape[1]).transpose(0, 2, 1, 3).reshape(rows.shape)
            done.append(rows)
        return np.concatenate(done)

    def _check_complete(self, tensors: dict[str, np.ndarray], masks: str) -> None:
        if masks not in tensors:
            raise self._bad(
                "masks",
                "missing",
                f"{masks}, or embedding rows behind the vocabulary",
                "an adapter without masks is ordinary LoRA, which is not gated: it cannot draft",
            )
        if not any(n.endswith("lora_A.weight") for n in tensors):
            raise self._bad("LoRAs", "missing", "lora_A and lora_B of the layers", "give the adapter's file")
        for name in tensors:
            for one, other in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
                if one in name and name.replace(one, other) not in tensors:
                    raise self._bad(
                        f"tensor {name.replace(one, other)}",
                        "missing",
                        f"the other half of {name}",
                        "fetch the file again",
                    )
        for block in (0, 1):
            for kind in ("linear.weight", "norm.weight"):
                if f"sampler_head.layers.{block}.{kind}" not in tensors:
                    raise self._bad(
                        f"tensor sampler_head.layers.{block}.{kind}",
                        "missing",
                        "a sampler head of two blocks",
                        "train one, see docs/mtp.md",
                    )

    def _check_shapes(self, adapter: MtpAdapter) -> None:
        from ...models.mtp import GROUPS, LORA_A, LORA_B, MASKS, group_shape

        c, d = self.config, self.config.hidden_size
        wanted: dict[str, tuple[Any, ...]] = {MASKS: (adapter.config.masks, d)}
        for block, width in enumerate((2 * d, d)):
            wanted[f"sampler_head.layers.{block}.linear.weight"] = (d, width)
            for name in ("linear.bias", "norm.weight", "norm.bias"):
                wanted[f"sampler_head.layers.{block}.{name}"] = (d,)
        for layer in range(c.layers):
            for group, parts in GROUPS.items():
                for part in {group, *parts}:
                    outputs, inputs = group_shape(c, part)
                    rank = adapter.tensors.get(LORA_A.format(layer, part), np.zeros(1)).shape[0]
                    wanted[LORA_A.format(layer, part)] = (rank, inputs)
                    wanted[LORA_B.format(layer, part)] = (outputs, rank)
                if LORA_A.format(layer, group) in adapter.tensors and len(parts) > 1:
                    twice = [p for p in parts if LORA_A.format(layer, p) in adapter.tensors]
                    if twice:
                        raise self._bad(
                            f"LoRA of layer {layer}",
                            f"one for {group} and one for {twice[0]}",
                            "one of them",
                            "remove one",
                        )
        for name, tensor in adapter.tensors.items():
            if name not in wanted:
                raise self._bad(
                    f"tensor {name}",
                    "of a layer the base does not have",
                    f"layers 0 to {c.layers - 1}",
                    "use the base it was trained on",
                )
            if tuple(tensor.shape) != wanted[name]:
                raise self._bad(
                    f"shape of {name}",
                    list(tensor.shape),
                    f"{list(wanted[name])} by base and rank",
                    "use the base it was trained on",
                )
        trained_on = self.notes.get("base_sha256")
        if trained_on is not None and trained_on != self.base.sha256():
            raise self._bad(
                "base",
                f"{self.base.name} ({self.base.sha256()[:12]})",
                f"{self.notes.get('base')} ({trained_on[:12]})",
                "use the checkpoint it was trained on",
            )

    def _scale(self, alpha: float | None, rank: int) -> float:
        if alpha is not None:
            if not (np.isfinite(alpha) and alpha > 0):
                raise RequestError(found_wanted("alpha", alpha, "a number above 0", "correct --alpha"))
            return alpha / rank
        if "scale" not in self.notes:
            raise RequestError(
                found_wanted(f"scale of {self.path}", "not in the file", "alpha of the training run", "give --alpha")
            )
        return self._number("scale", 1.0)

    def _number(self, name: str, default: float) -> float:
        try:
            value = float(self.notes.get(name, default))
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise self._bad(
                f"metadata mtp.{name}", repr(self.notes.get(name)), "a finite number", "train the adapter again"
            )
        return value

    def _bad(self, what: str, found: object, wanted: object, fix: str) -> CheckpointError:
        return CheckpointError(found_wanted(f"{what} of {self.path}", found, wanted, fix))
