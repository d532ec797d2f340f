"""Hugging Face folders of vision-language models: LLaVA-1.5, LLaVA-NeXT and Qwen2.5-VL; tower, projector and decoder in one set of shards.

The same tensor is called differently by transformers before 4.52 (``language_model.model.layers.0...``, Qwen's ``model.layers.0...``), since
(``model.language_model.layers.0...``), and again as version 5 saves it (``vision_tower.embeddings...``); `part_of` knows all of them.
What config.json says is read by a module for each kind of model: `llava_config`, `qwen_config`.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError, found_wanted
from ...models.vlm import VlmConfig, projector_tensors
from . import llava_config, qwen_config
from .hf_config import unknown_architecture
from .huggingface import canonical
from .json_file import Fields
from .safetensors_file import SafetensorsFile
from .seeing_folder import SeeingFolder

FAMILIES = {"llava": llava_config, "llava_next": llava_config, "qwen2_5_vl": qwen_config}
"""Who reads the configuration, by ``model_type``."""

_TOP = ("language_model.", "vision_tower.", "multi_modal_projector.", "image_newline", "visual.")

_MERGER = {"merger.mlp.0.": "linear_1.", "merger.mlp.2.": "linear_2."}
"""The two linears of Qwen's merger are a projector like any other; its norm stays with the tower."""

_BUFFERS = ("position_ids", "rotary_pos_emb.inv_freq")
"""Ends of names that old transformers saved; they follow from the configuration."""


def part_of(name: str) -> tuple[str, str]:
    """(``text``, ``tower``, ``projector`` or ``other``; the name inside it) of a tensor, whatever wrote the file."""
    if name == "lm_head.weight" or name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return "text", name
    if name.startswith("model.") and name.removeprefix("model.").startswith(_TOP):
        name = name.removeprefix("model.")
    if name == "image_newline":
        return "projector", name
    if name.startswith("multi_modal_projector."):
        return "projector", name.removeprefix("multi_modal_projector.")
    if name.startswith("vision_tower."):
        return "tower", name.removeprefix("vision_tower.").removeprefix("vision_model.")
    if name.startswith("visual."):
        inner = name.removeprefix("visual.")
        for theirs, ours in _MERGER.items():
            if inner.startswith(theirs):
                return "projector", ours + inner.removeprefix(theirs)
        return "tower", inner
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.")
        return "text", inner if inner.startswith(("model.", "lm_head.")) else f"model.{inner}"
    return "other", name


class VlmFolder(SeeingFolder):
    """The decoder of a vision-language folder, as any `Checkpoint`; ``vlm`` describes the rest and `visual` reads it."""

    vlm: VlmConfig
    outer: Fields
    """All of config.json."""

    def __init__(self, path: Path) -> None:
        self._others = {}
        super().__init__(path)
        self.config = self._reader.decoder_config(self.config, self._fields)
        self.vlm = self._reader.read_config(self.outer, self.config.hidden_size, self.config.vocab_size)

    def _text_fields(self, fields: Fields) -> Fields:
        """config.json's part about the decoder."""
        family = fields.text("model_type")
        if family not in FAMILIES:
            raise unknown_architecture(family, tuple(FAMILIES), fields.source, "model_type")
        self.outer, self._reader = fields, FAMILIES[family]
        return self._reader.text_fields(fields)

    def _own_name(self, file: SafetensorsFile, name: str) -> str | None:
        part, inner = part_of(name)
        if part == "text":
            return canonical(inner)
        if not inner.endswith(_BUFFERS):
            self._put(file, name, f"{part}.{inner}")
        return None

    def check(self) -> None:
        """The decoder as always, tower and projector the same way. Raises CheckpointError."""
        super().check()
        wanted = {f"tower.{n}": s for n, s in self.vlm.tower.expected_tensors().items()}
        wanted |= {f"projector.{n}": s for n, s in projector_tensors(self.vlm).items()}
        self._check_others(wanted, "tower and projector")

    def processor(self) -> Fields:
        """preprocessor_config.json, or the image part of processor_config.json. Raises CheckpointError where there is neither."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (self.path / name).is_file():
                fields = Fields.load(self.path / name)
                inner = fields.values.get("image_processor")
                return Fields(inner, f"{fields.source}: image_processor") if isinstance(inner, dict) else fields
        raise CheckpointError(
            found_wanted(
                f"{self.path / 'preprocessor_config.json'}", "missing", "how images are prepared", "fetch it too"
            )
        )
