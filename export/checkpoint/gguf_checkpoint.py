"""GGUF files of llama (also SmolLM2 and Mistral), qwen2 and qwen3 models.

Metadata keys: llama.cpp gguf-py/gguf/constants.py. Two things differ from Hugging Face folders: llama files store the rows of q
and k interleaved for llama.cpp's rotary layout, and llama3 rope scaling is a tensor of divisors (``rope_freqs.weight``).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, found_wanted
from ...models.config import DecoderConfig, Rope
from .base import Checkpoint
from .gguf_file import GgufFile
from .gguf_tokenizer import build_tokenizer
from .hf_config import unknown_architecture
from .json_file import Fields
from .tokenizer import TokenizerFiles

ARCHITECTURES = ("llama", "qwen2", "qwen3")

_TOP = {"token_embd.weight": "embed.weight", "output_norm.weight": "norm.weight", "output.weight": "head.weight"}
_LAYER = {
    "attn_norm": "attn_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
ROPE_DIVISORS = "rope_freqs.weight"


def canonical(name: str) -> str:
    """Our name of a tensor; unknown ones keep theirs (and are refused later)."""
    if match := _LAYER_NAME.fullmatch(name):
        layer, part, kind = match.groups()
        if part in _LAYER:
            return f"layers.{int(layer)}.{_LAYER[part]}.{kind}"
    return _TOP.get(name, name)


class GgufCheckpoint(Checkpoint):
    """One .gguf file."""

    kind = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GgufFile(path)
        self._fields = Fields(self._file.fields, str(path))
        architecture = self._fields.text("general.architecture")
        if architecture not in ARCHITECTURES:
            raise unknown_architecture(architecture, ARCHITECTURES, str(path), "general.architecture")
        if self._fields.count("split.count", 1, least=0) > 1:
            raise self._fields.bad(
                "split.count",
                self._fields.values["split.count"],
                "one whole file",
                "join the parts: llama-gguf-split --merge",
            )
        self.name = self._fields.text("general.name", path.stem) or path.stem
        self._tensors = {canonical(n): n for n in self._file.names() if n != ROPE_DIVISORS}
        self._interleaved = architecture == "llama"
        self.config = self._config(architecture)
        if self.config.tied_head:
            self._tensors.pop("head.weight", None)

    def names(self) -> list[str]:
        """Canonical names, in file order."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape from the tensor table; GGUF's order of dimensions is turned round."""
        return self._file.shape(self._tensors[name])

    def source(self, name: str) -> str:
        """File and llama.cpp's name."""
        return f"{self.path}: {self._tensors[name]}"

    def read(self, name: str) -> np.ndarray:
        """Dequantised; q and k rows of llama files in half-split order."""
        array = self._file.read(self._tensors[name])
        part = name.split(".")[-2]
        if self._interleaved and part in ("q", "k"):
            heads = self.config.heads if part == "q" else self.config.kv_heads
            return to_half_split(array, heads)
        return array

    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def tokenizer(self) -> TokenizerFiles | None:
        """Built from the vocabulary in the metadata; None if there is none."""
        if not self._fields.has("tokenizer.ggml.model"):
            return None
        return build_tokenizer(self._fields, self.config.vocab_size)

    def _config(self, arch: str) -> DecoderConfig:
        fields = self._fields
        if fields.values.get(f"{arch}.expert_count", 0):
            raise fields.bad(
                f"{arch}.expert_count",
                fields.values[f"{arch}.expert_count"],
                "no experts",
                "mixtures of experts are not supported",
            )
        hidden, heads = fields.count(f"{arch}.embedding_length"), fields.count(f"{arch}.attention.head_count")
        kv_heads = fields.count(f"{arch}.attention.head_count_kv", heads)
        if heads % kv_heads:
            raise fields.bad(f"{arch}.attention.head_count_kv", kv_heads, f"a divisor of the {heads} query heads")
        key = f"{arch}.attention.key_length"
        if not fields.has(key) and hidden % heads:
            raise fields.bad(f"{arch}.attention.head_count", heads, f"a divisor of embedding_length {hidden}")
        dim = fields.count(key, max(hidden // heads, 1))
        for other in (f"{arch}.attention.value_length", f"{arch}.rope.dimension_count"):
            if fields.count(other, dim) != dim:
                raise fields.bad(
                    other, fields.values[other], f"{dim}, the size of a head", "such heads are not supported"
                )
        if dim % 2:
            raise fields.bad(key, dim, "an even number", "rotary embedding turns pairs of features")
        if "embed.weight" not in self._tensors:
            raise CheckpointError(
                found_wanted(f"tensor token_embd.weight of {self.path}", "missing", "the embedding", "fetch it again")
            )
        has = self._tensors.__contains__
        return DecoderConfig(
            family=arch,
            vocab_size=fields.count(f"{arch}.vocab_size", self.shape("embed.weight")[0]),
            hidden_size=hidden,
            intermediate_size=fields.count(f"{arch}.feed_forward_length"),
            layers=fields.count(f"{arch}.block_count"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dim,
            max_positions=fields.count(f"{arch}.context_length"),
            norm_epsilon=_short(fields.number(f"{arch}.attention.layer_norm_rms_epsilon")),
            rope=self._rope(arch, dim),
            tied_head=not has("head.weight"),
            sliding_window=fields.count(f"{arch}.attention.sliding_window", 0, least=0),
            # Metadata does not say which biases there are; the first layer does, and the others must agree.
            qkv_bias=has("layers.0.q.bias"),
            o_bias=has("layers.0.o.bias"),
            mlp_bias=has("layers.0.down.bias"),
            qk_norm=arch == "qwen3",
        )

    def _rope(self, arch: str, dim: int) -> Rope:
        fields = self._fields
        theta = _short(fields.number(f"{arch}.rope.freq_base", 10000.0))
        kind = fields.text(f"{arch}.rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise fields.bad(
                f"{arch}.rope.scaling.type", kind, "'none' or 'linear'", "other scalings are not supported"
            )
        if ROPE_DIVISORS in self._file.names():
            divisors = self._file.read(ROPE_DIVISORS).astype(np.float32).reshape(-1)
            if (
                divisors.size != dim // 2
                or not np.all(np.isfinite(divisors))
                or not np.all(divisors > 0)
                or kind != "none"
            ):
                raise CheckpointError(
                    found_wanted(
                        f"tensor {ROPE_DIVISORS} of {self.path}",
                        f"{divisors.size} values with rope scaling {kind!r}",
                        f"{dim // 2} positive numbers without another scaling",
                        "fetch it again",
                    )
                )
            return Rope(theta, "factors", divisors=tuple(float(v) for v in divisors))
        if kind == "linear":
            return Rope(theta, "linear", _short(fields.number(f"{arch}.rope.scaling.factor")))
        return Rope(theta)


def to_half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's row order: per head (a0 b0 a1 b1 ...) becomes (a0 a1 ... b0 b1 ...), as our rotary layout has it."""
    head = rows.shape[0] // heads
    paired = rows.reshape(heads, head // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)


def _short(value: float) -> float:
    """A float32 from the file as the decimal it was written from: 9.999999747e-06 is 1e-5."""
    return float(str(np.float32(value)))
