"""Hugging Face folders: config.json, safetensors (sharded or not), tokenizer.json, chat template."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, found_wanted
from . import PICKLES, pickle_refusal
from .base import Checkpoint
from .hf_config import read_config
from .json_file import Fields
from .safetensors_file import SafetensorsFile
from .tokenizer import TokenizerFiles, finish, parse

INDEX = "model.safetensors.index.json"

_TOP = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
_LAYER_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_DERIVED = re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""Buffers that old transformers saved; they follow from the configuration."""


def canonical(name: str) -> str | None:
    """Our name of a tensor; unknown ones keep theirs (and are refused later); None for derived buffers."""
    if _DERIVED.fullmatch(name):
        return None
    if match := _LAYER_NAME.fullmatch(name):
        layer, part, kind = match.groups()
        if part in _LAYER:
            return f"layers.{int(layer)}.{_LAYER[part]}.{kind}"
    return _TOP.get(name, name)


class HuggingFaceCheckpoint(Checkpoint):
    """A folder as `save_pretrained` writes it. Opens config.json and the headers of all shards."""

    kind = "huggingface"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name or "model"
        self._fields = self._text_fields(Fields.load(path / "config.json"))
        self.config = read_config(self._fields)
        self._tensors: dict[str, tuple[SafetensorsFile, str]] = {}
        self._files = self._weight_files()
        for file in map(SafetensorsFile, self._files):
            for name in file.names():
                ours = self._own_name(file, name)
                if ours is None:
                    continue
                if ours in self._tensors:
                    raise CheckpointError(
                        found_wanted(
                            f"tensor {name} of {path}", "in two shards", "in one", "remove the stale weight files"
                        )
                    )
                self._tensors[ours] = (file, name)
        self._drop_copy_of_tied_head()

    def _text_fields(self, fields: Fields) -> Fields:
        """The configuration of the decoder: the whole file, unless the folder has more than a decoder."""
        return fields

    def _own_name(self, file: SafetensorsFile, name: str) -> str | None:
        """Our name of a tensor of the decoder; None for what is not the decoder's."""
        return canonical(name)

    def names(self) -> list[str]:
        """Canonical names, shard by shard."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape from the header of the shard."""
        file, theirs = self._tensors[name]
        return file.shape(theirs)

    def source(self, name: str) -> str:
        """Shard and Hugging Face's name."""
        file, theirs = self._tensors[name]
        return f"{file.path}: {theirs}"

    def read(self, name: str) -> np.ndarray:
        """A view of the mapped shard; bfloat16 widened to float32."""
        file, theirs = self._tensors[name]
        return file.read(theirs)

    def files(self) -> list[Path]:
        """model.safetensors, or the shards of the index."""
        return self._files

    def _weight_files(self) -> list[Path]:
        single, index = self.path / "model.safetensors", self.path / INDEX
        if single.is_file():
            return [single]
        if not index.is_file():
            pickles = sorted(p for p in self.path.iterdir() if p.suffix in PICKLES and p.name != "training_args.bin")
            if pickles:
                raise CheckpointError(pickle_refusal(pickles[0]))
            raise CheckpointError(
                found_wanted(f"{single}", "missing", f"weights, there or listed in {INDEX}", "fetch the weights too")
            )
        fields = Fields.load(index)
        table = fields.values.get("weight_map")
        if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
            raise fields.bad("weight_map", table, "an object from tensor names to file names", "fetch it again")
        for shard in sorted(set(table.values())):
            # A file name only: an index must not point out of its folder.
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise fields.bad(
                    "weight_map", shard, "names of .safetensors files in the same folder", "fetch it again"
                )
        missing = [s for s in sorted(set(table.values())) if not (self.path / s).is_file()]
        if missing:
            raise CheckpointError(
                found_wanted(
                    f"shards {', '.join(missing)} of {self.path}",
                    "missing",
                    f"all files {INDEX} lists",
                    "fetch them too",
                )
            )
        return [self.path / s for s in sorted(set(table.values()))]

    def _drop_copy_of_tied_head(self) -> None:
        """Some folders store a tied head once more. Equal: drop it. Different: the configuration is wrong about tying."""
        if not self.config.tied_head or "head.weight" not in self._tensors or "embed.weight" not in self._tensors:
            return
        head, embed = self.read("head.weight"), self.read("embed.weight")
        if head.shape != embed.shape or not np.array_equal(head, embed):
            raise self._fields.bad(
                "tie_word_embeddings",
                True,
                "false, since lm_head.weight differs from the embedding",
                "correct the configuration",
            )
        del self._tensors["head.weight"]

    def tokenizer(self) -> TokenizerFiles | None:
        """tokenizer.json as it is, ids and template from the files beside it; None if there is no tokenizer."""
        path = self.path / "tokenizer.json"
        if not path.is_file():
            others = [n for n in ("tokenizer.model", "vocab.json") if (self.path / n).is_file()]
            if not others:
                return None
            raise CheckpointError(
                found_wanted(
                    f"tokenizer of {self.path}",
                    f"only {others[0]}",
                    "a tokenizer.json",
                    "make one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
                )
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                found_wanted(f"{path}", f"not UTF-8 ({error})", "a tokenizer.json", "fetch it again")
            ) from error
        tokenizer = parse(text, str(path))
        settings = self._optional("tokenizer_config.json")
        generation = self._optional("generation_config.json")
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        # The order transformers' generate() follows; the tokenizer's own token only when neither file names one.
        eos = (
            generation.ids("eos_token_id")
            or self._fields.ids("eos_token_id")
            or _token_id(settings, "eos_token", vocab)
        )
        bos = (
            generation.ids("bos_token_id")
            or self._fields.ids("bos_token_id")
            or _token_id(settings, "bos_token", vocab)
        )
        return finish(
            text,
            tokenizer,
            source=str(path),
            model_vocab=self.config.vocab_size,
            bos_id=bos[0] if bos else None,
            eos_ids=eos,
            chat_template=self._chat_template(settings),
        )

    def _optional(self, name: str) -> Fields:
        path = self.path / name
        return Fields.load(path) if path.is_file() else Fields({}, str(path))

    def _chat_template(self, settings: Fields) -> str | None:
        path = self.path / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        value = settings.values.get("chat_template")
        if isinstance(value, list):  # several named ones: [{"name": ..., "template": ...}]
            named = {v.get("name"): v.get("template") for v in value if isinstance(v, dict)}
            value = named.get("default")
            if value is None:
                raise settings.bad("chat_template", sorted(map(str, named)), "a template named 'default'")
        if value is not None and not isinstance(value, str):
            raise settings.bad("chat_template", value, "a string")
        return value


def _token_id(settings: Fields, key: str, vocab: dict[str, int]) -> tuple[int, ...]:
    value = settings.values.get(key)
    if isinstance(value, dict):  # an AddedToken written out
        value = value.get("content")
    return (vocab[value],) if isinstance(value, str) and value in vocab else ()
