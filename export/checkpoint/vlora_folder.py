"""Folders of VLoRA (``model_type`` llava_vlora): a decoder, a generator of weights, and CLIP's tower inside or in a folder of its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, found_wanted
from ...models.vlm import VlmConfig
from ...models.vlora import HEADS, TYPES, VloraConfig, vlora_tensors
from .hf_config import unknown_architecture
from .huggingface import canonical
from .json_file import Fields
from .llava_config import read_config
from .safetensors_file import SafetensorsFile
from .seeing_folder import SeeingFolder

FAMILY = "llava_vlora"

_GENERATOR = "model.mm_projector."
_TOWERS = ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower.vision_model.", "vision_model.")
_OF_CLIP = ("text_model.", "visual_projection.", "text_projection.", "logit_scale")
"""What a CLIP model has beside its tower."""


class VloraFolder(SeeingFolder):
    """The decoder, as any `Checkpoint`; ``vlora`` and ``vlm`` describe the rest and `visual` reads ``vlora.<name>`` and ``tower.<name>``.

    ``vision``: folder of the CLIP model whose tower the features come from, needed where the weights of the tower are not inside.
    """

    def __init__(self, path: Path, vision: Path | None = None) -> None:
        self._others = {}
        self._vision = vision
        super().__init__(path)
        fields = self._fields
        self.vlora = read_vlora(fields)
        self.vlm = self._read_tower(fields)

    def _text_fields(self, fields: Fields) -> Fields:
        if (family := fields.text("model_type")) != FAMILY:
            raise unknown_architecture(family, (FAMILY,), fields.source, "model_type")
        return Fields({**fields.values, "model_type": "llama"}, fields.source)

    def _own_name(self, file: SafetensorsFile, name: str) -> str | None:
        if name.startswith(_GENERATOR):
            self._put(file, name, "vlora." + name.removeprefix(_GENERATOR))
            return None
        for prefix in _TOWERS:
            if name.startswith(prefix):
                self._put(file, name, "tower." + name.removeprefix(prefix))
                return None
        return canonical(name)

    def _put(self, file: SafetensorsFile, theirs: str, ours: str) -> None:
        if not ours.endswith("position_ids"):
            super()._put(file, theirs, ours)

    def _read_tower(self, fields: Fields) -> VlmConfig:
        """The tower, from ``vision_config`` here or from the folder of its own. Raises CheckpointError."""
        config: Any = fields.values.get("vision_config")
        inside = any(n.startswith("tower.") for n in self._others)
        if self._vision is None and (config is None or not inside):
            raise CheckpointError(
                found_wanted(
                    f"vision tower of {self.path}",
                    "not inside" if not inside else "inside without a vision_config",
                    "weights and vision_config, or a folder of its own",
                    f"give the folder of {fields.values.get('mm_vision_tower') or 'its CLIP model'} as --vision",
                )
            )
        if self._vision is not None:
            if inside:
                raise CheckpointError(
                    found_wanted(
                        f"vision tower of {self.path}", "inside, and given as --vision", "one", "leave out --vision"
                    )
                )
            config = self._open_tower(self._vision)
        if not isinstance(config, dict):
            raise fields.bad("vision_config", config, "the tower's configuration", "fetch it again")
        if (kind := fields.text("mm_vision_select_feature", "patch")) != "patch":
            raise fields.bad("mm_vision_select_feature", kind, "'patch'")
        if fields.values.get("image_aspect_ratio") == "pad":
            warnings.warn(
                f"{self.path} was trained on pictures padded to squares; the bundle cuts the middle out: pad pictures yourself to see their edges",
                RuntimeWarning,
                stacklevel=2,
            )
        # The authors put id 0 where the image stands; a folder may name another id, which a prompt can then spell.
        token = "image_token_index" if fields.has("image_token_index") else "image_token_id"
        outer = {
            "model_type": "llava",
            "vision_config": {"model_type": "clip_vision_model", **config},
            "vision_feature_layer": fields.values.get("mm_vision_select_layer", -2),
            "vision_feature_select_strategy": "default",
            "image_token_index": fields.count(token, 0, least=0),
        }
        found = read_config(Fields(outer, fields.source), self.config.hidden_size, self.config.vocab_size)
        for what, have, want in (
            ("vlora_pos_num", found.tower.tokens, self.vlora.positions),
            ("vlora_visual_dim", found.tower.feature_size, self.vlora.visual_dim),
        ):
            if have != want:
                raise fields.bad(what, want, f"{have}, as the vision tower has", "give the tower it was trained with")
        return found

    def _open_tower(self, folder: Path) -> Any:
        fields = Fields.load(folder / "config.json")
        inner = (
            fields.values if fields.text("model_type") == "clip_vision_model" else fields.values.get("vision_config")
        )
        single = folder / "model.safetensors"
        if not single.is_file():
            raise CheckpointError(
                found_wanted(f"{single}", "missing", "the weights of the vision tower", "fetch them as safetensors")
            )
        file = SafetensorsFile(single)
        for name in file.names():
            if name.startswith("vision_model."):
                self._put(file, name, "tower." + name.removeprefix("vision_model."))
            elif not name.startswith(_OF_CLIP):
                self._put(file, name, f"other.{name}")  # `check` lists it as unexpected
        self._files = [*self._files, single]
        return inner

    def check(self) -> None:
        """The decoder as always, tower and generator the same way, and that the one fits the other. Raises CheckpointError."""
        super().check()
        fields, c, v = self._fields, self.config, self.vlora
        for what, have, want in (
            ("vlora_llm_dim", v.llm_dim, c.hidden_size),
            ("vlora_llm_depth", v.llm_depth, c.layers),
        ):
            if have != want:
                raise fields.bad(what, have, f"{want}, as the decoder has", "configuration and weights belong together")
        if c.heads != c.kv_heads or c.q_width != c.hidden_size:
            raise fields.bad(
                "num_key_value_heads",
                c.kv_heads,
                f"{c.heads} heads as wide together as hidden_size {c.hidden_size}",
                "VLoRA is defined for models without grouped queries",
            )
        if (parallel := fields.values.get("pretraining_tp", 1)) != 1:
            raise fields.bad("pretraining_tp", parallel, 1)
        wanted = {f"tower.{n}": s for n, s in self.vlm.tower.expected_tensors().items()}
        wanted |= {f"vlora.{n}": s for n, s in vlora_tensors(v).items()}
        self._check_others(wanted, "tower and generator")

    def processor(self) -> Fields:
        """preprocessor_config.json of this folder or of the tower's. Raises CheckpointError where there is neither."""
        for folder in (self.path, self._vision):
            if folder is not None and (folder / "preprocessor_config.json").is_file():
                return Fields.load(folder / "preprocessor_config.json")
        raise CheckpointError(
            found_wanted(
                f"{self.path / 'preprocessor_config.json'}", "missing", "how images are prepared", "fetch it too"
            )
        )


def read_vlora(fields: Fields) -> VloraConfig:
    """The fields about the generator. None has a default: the code's own differ from what was trained. Raises CheckpointError."""
    types, rank = fields.text("vlora_type"), fields.count("vlora_rank")
    if not types or len(set(types)) != len(types) or not set(types) <= set(TYPES):
        raise fields.bad("vlora_type", types, f"different letters of {TYPES}")
    depth, skip, dim = fields.count("vlora_llm_depth"), fields.count("skip_layers"), fields.count("vlora_dim")
    if skip > depth or depth % skip:
        raise fields.bad("skip_layers", skip, f"a divisor of vlora_llm_depth {depth}")
    if dim % HEADS:
        raise fields.bad("vlora_dim", dim, f"a multiple of {HEADS}, the heads of the generator")
    if not isinstance(separate := fields.values.get("weights_sep"), bool):
        raise fields.bad("weights_sep", separate, "true or false")
    # A null alpha is the rank; a missing one is a folder that nobody can read.
    if "vlora_alpha" not in fields.values:
        raise fields.bad("vlora_alpha", "missing", "a value")
    return VloraConfig(
        dim=dim,
        depth=fields.count("vlora_depth"),
        visual_dim=fields.count("vlora_visual_dim"),
        positions=fields.count("vlora_pos_num"),
        llm_dim=fields.count("vlora_llm_dim"),
        llm_depth=depth,
        rank=rank,
        types=types,
        alpha=fields.number("vlora_alpha", float(rank)),
        skip_layers=skip,
        separate=separate,
    )


def open_vlora(path: str | Path, vision: str | Path | None = None) -> VloraFolder:
    """Open the folder ``path``; checks as in `open_checkpoint`. Raises CheckpointError."""
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            found_wanted(f"checkpoint {path}", "no folder", "the folder of a VLoRA model", "check the path")
        )
    try:
        model = VloraFolder(folder, None if vision is None else Path(vision))
        model.check()
    except OSError as error:
        raise CheckpointError(
            found_wanted(
                f"checkpoint {path}", f"unreadable ({error})", "readable files", "check the path and its rights"
            )
        ) from error
    return model
