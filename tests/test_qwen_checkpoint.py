"""Folders of Qwen2.5-VL: layouts, published sizes, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import vlm_models

from farthing.errors import CheckpointError
from farthing.export import export
from farthing.export.checkpoint import qwen_config
from farthing.export.checkpoint.hf_config import read_config
from farthing.export.checkpoint.json_file import Fields
from farthing.models.vlm import projector_tensors
from farthing.runtime.bundle import Bundle, open_bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint = vlm_models.write_qwen(folder / "model")
    export("vlm", checkpoint, folder / "bundle", check=False)
    return checkpoint, open_bundle(folder / "bundle")


def _published(**decoder: Any) -> Fields:
    """config.json of Qwen's own folders, as they are on hubs."""
    return Fields(
        {
            "model_type": "qwen2_5_vl",
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "image_token_id": 151655,
            "hidden_act": "silu",
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "use_sliding_window": False,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {
                "depth": 32,
                "hidden_act": "silu",
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "in_chans": 3,
                "out_hidden_size": decoder["hidden_size"],
                "patch_size": 14,
                "spatial_merge_size": 2,
                "spatial_patch_size": 14,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
                "tokens_per_second": 2,
                "temporal_patch_size": 2,
            },
            **decoder,
        },
        "config.json",
    )


SIZES = {
    3_754_622_976: {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    8_292_166_656: {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    },
}
"""Qwen2.5-VL 3B and 7B by their number of weights."""


@pytest.mark.parametrize("parameters", SIZES)
def test_published_models_have_their_number_of_weights(parameters: int) -> None:
    fields = _published(**SIZES[parameters])
    text = qwen_config.text_fields(fields)
    decoder = qwen_config.decoder_config(read_config(text), text)
    vlm = qwen_config.read_config(fields, decoder.hidden_size, decoder.vocab_size)
    shapes = [*vlm.tower.expected_tensors().values(), *projector_tensors(vlm).values()]
    assert decoder.parameters + sum(map(math.prod, shapes)) == parameters
    assert decoder.mrope_section == (16, 24, 24)
    assert decoder.rope.theta == 1e6


def _copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def _change(path: Path, change: dict[str, Any]) -> None:
    values = json.loads(path.read_text())
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("names", ["new", "old"])
def test_other_layouts_make_the_same_bundle(exported: tuple[Path, Bundle], tmp_path: Path, names: str) -> None:
    """As transformers 4.52 saved it (``model.visual``, ``model.language_model``); and hubs' flat config.json with rope_scaling."""
    from safetensors.numpy import load_file, save_file

    checkpoint, bundle = exported
    folder = _copied(checkpoint, tmp_path / "model")
    if names == "new":
        tensors = load_file(folder / "model.safetensors")
        renamed = {
            n
            if n.startswith("lm_head")
            else f"model.{n}"
            if n.startswith("visual.")
            else n.replace("model.", "model.language_model.", 1): a
            for n, a in tensors.items()
        }
        assert {n.split(".")[1] for n in renamed} == {"visual", "language_model", "weight"}
        save_file(renamed, folder / "model.safetensors")
    else:
        config = json.loads((folder / "config.json").read_text())
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text |= {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        }
        config = {**text, **config}
        config["vision_config"]["model_type"] = "qwen2_5_vl"
        config["vision_config"]["in_chans"] = config["vision_config"].pop("in_channels")
        del config["vision_config"]["rope_parameters"]
        (folder / "config.json").write_text(json.dumps(config))
    made = open_bundle(export("vlm", folder, tmp_path / "out", check=False).path)
    assert made.manifest["files"] == bundle.manifest["files"]
    assert made.manifest["vision"] == bundle.manifest["vision"]


@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("config.json", {"vision_config": {"window_size": 28}}, "window_size"),
        ("config.json", {"vision_config": {"out_hidden_size": 40}}, "out_hidden_size"),
        ("config.json", {"vision_config": {"hidden_act": "gelu"}}, "hidden_act"),
        ("config.json", {"vision_config": {"num_heads": 3}}, "num_heads"),
        ("config.json", {"vision_config": {"depth": 3}}, "unexpected tower.blocks.3"),
        ("config.json", {"vision_config": {"fullatt_block_indexes": "all"}}, "fullatt_block_indexes"),
        ("config.json", {"vision_config": {"model_type": "qwen3_vl"}}, "qwen3_vl"),
        ("config.json", {"text_config": {"rope_parameters": {"mrope_section": [1, 2, 4]}}}, "mrope_section"),
        ("config.json", {"image_token_id": 300}, "image_token_id"),
        ("preprocessor_config.json", {"patch_size": 14}, "patch_size"),
        ("preprocessor_config.json", {"do_rescale": False}, "do_rescale"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 9}}, "size"),
        ("preprocessor_config.json", {"min_pixels": 4000}, "max_pixels"),
    ],
)
def test_what_is_refused(
    exported: tuple[Path, Bundle], tmp_path: Path, file: str, change: dict[str, Any], word: str
) -> None:
    folder = _copied(exported[0], tmp_path / "model")
    _change(folder / file, change)
    with pytest.raises(CheckpointError, match=word):
        export("vlm", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_largest_image_is_cut_to_the_context(exported: tuple[Path, Bundle], tmp_path: Path) -> None:
    folder = _copied(exported[0], tmp_path / "model")
    _change(folder / "preprocessor_config.json", {"max_pixels": 12845056})
    bundle = open_bundle(export("vlm", folder, tmp_path / "out", check=False).path)
    assert bundle.manifest["vision"]["preprocess"]["max_pixels"] == 512 * 64
