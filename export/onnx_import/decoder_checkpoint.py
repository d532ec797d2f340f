"""A decoder with past as an ONNX file, read as a checkpoint: configuration and tokenizer beside it, weights out of its graph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, found_wanted
from ..checkpoint.hf_config import read_config
from ..checkpoint.huggingface import HuggingFaceCheckpoint
from ..checkpoint.json_file import Fields
from .read import Source, external_files
from .roles import Roles, check_operators, read_roles

INPUTS = ("input_ids", "attention_mask", "position_ids")
PAST = "past_key_values.{}.{}"
PRESENT = "present.{}.{}"
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")


def is_decoder(source: Source) -> bool:
    """Whether the graph takes a cache."""
    return any(i.name.startswith("past_k") for i in source.inputs)


class OnnxCheckpoint(HuggingFaceCheckpoint):
    """The folder that `optimum-cli export onnx --task text-generation-with-past` writes."""

    kind = "onnx"

    def __init__(self, source: Source) -> None:
        """Read config.json beside the file, compare it with the graph, find all weights. Raises CheckpointError."""
        self.path = source.folder
        self.name = source.path.stem if source.path.stem != "model" else source.folder.resolve().name
        check_operators(source.path, source.model)
        config = source.folder / "config.json"
        if not config.is_file():
            raise CheckpointError(
                found_wanted(
                    f"{config}", "missing", "the configuration of the decoder", "copy it beside the .onnx file"
                )
            )
        self._fields = Fields.load(config)
        self.config = read_config(self._fields)
        if self.config.sliding_window:
            raise self._fields.bad(
                "sliding_window",
                self.config.sliding_window,
                "none",
                "export it from its checkpoint: farthing export decoder",
            )
        self._source = source
        self._check_ports()
        roles = read_roles(source.path, source.model)
        self._check_numbers(roles)
        self._weights = roles.weights
        self._drop_stored_tied_head()
        self.check()

    def names(self) -> list[str]:
        """Our names of all weights, in the order of the graph."""
        return list(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in our layout."""
        return self._weights[name].shape

    def source(self, name: str) -> str:
        """File and the constant's name there."""
        return f"{self._source.path}: {self._weights[name].tensor.name}"

    def read(self, name: str) -> np.ndarray:
        """float32; a matrix that is stored [inputs, outputs] is turned."""
        return self._weights[name].read(self._source.folder)

    def files(self) -> list[Path]:
        """The file and its external data."""
        return [self._source.path, *(self._source.folder / n for n in external_files(self._source.model))]

    def _check_ports(self) -> None:
        c, file = self.config, self._source.path
        have = {i.name: i for i in self._source.inputs}
        pasts = [PAST.format(i, part) for i in range(c.layers) for part in ("key", "value")]
        for what, found, wanted in (
            ("inputs", [n for n in have if n not in INPUTS], pasts),
            (
                "outputs",
                [o.name for o in self._source.outputs],
                ["logits", *(PRESENT.format(i, part) for i in range(c.layers) for part in ("key", "value"))],
            ),
        ):
            if sorted(found) != sorted(wanted):
                other = sorted(set(found) ^ set(wanted))
                shown = ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
                raise CheckpointError(
                    found_wanted(
                        f"{what} of {file}",
                        f"different in {shown}",
                        f"a cache of {c.layers} layers as optimum names it",
                        "config.json and graph must belong together; export both again",
                    )
                )
        for name in pasts:
            shape = have[name].shape
            if len(shape) != 4 or (shape[1], shape[3]) != (c.kv_heads, c.head_dim) or have[name].dtype != "float32":
                raise CheckpointError(
                    found_wanted(
                        f"{name} of {file}",
                        f"{have[name].dtype} {list(shape)}",
                        f"float32 [batch, {c.kv_heads}, past, {c.head_dim}]",
                        "config.json and graph must belong together, in float32",
                    )
                )

    def _check_numbers(self, roles: Roles) -> None:
        """Constants whose being wrong a few short prompts would not show."""
        file, c = self._source.path, self.config
        wanted = c.rope.inv_freq(c.head_dim)
        if len(roles.frequencies) != 1:
            raise CheckpointError(
                found_wanted(
                    f"rotary frequencies of {file}",
                    f"{len(roles.frequencies)} constants under /model/rotary_emb",
                    f"one of {wanted.size} numbers",
                    "export it again by optimum-onnx",
                )
            )
        found = roles.frequencies[0]
        # A few units in the last place: exporters take the power by torch, or in double.
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-6, atol=0):
            raise CheckpointError(
                found_wanted(
                    f"rotary frequencies of {file}",
                    f"{found[:3].tolist()}... ({found.size})",
                    f"{wanted[:3].tolist()}... ({wanted.size}) by config.json",
                    "config.json and graph must belong together; other rotary embeddings are not supported",
                )
            )
        norms = c.layers * (4 if c.qk_norm else 2) + 1
        other = {m: e for m, e in roles.epsilons.items() if np.float32(e) != np.float32(c.norm_epsilon)}
        if other or len(roles.epsilons) != norms:
            module, value = next(iter(other.items()), ("the norms", f"found in {len(roles.epsilons)} of {norms}"))
            raise CheckpointError(
                found_wanted(
                    f"epsilon of {module} of {file}",
                    value,
                    f"{c.norm_epsilon} by config.json",
                    "config.json and graph must belong together",
                )
            )

    def _drop_stored_tied_head(self) -> None:
        """A tied head that the exporter stored once more, transposed: dropped where equal, refused where not."""
        weights = self._weights
        if not self.config.tied_head or "head.weight" not in weights or "embed.weight" not in weights:
            return
        if weights["head.weight"].shape != weights["embed.weight"].shape or not np.array_equal(
            self.read("head.weight"), self.read("embed.weight")
        ):
            raise self._fields.bad(
                "tie_word_embeddings", True, "false, since the head differs from the embedding", "correct config.json"
            )
        del weights["head.weight"]
