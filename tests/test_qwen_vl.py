"""Qwen2.5-VL from pixels to logits against transformers, on random models: tower, sizes, positions, pruning, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vlm_models
from rtx import needs_rtx, rtx
from test_vlm_export import opener

import farthing
from farthing.errors import CheckpointError, RequestError
from farthing.export import export
from farthing.export.checkpoint import open_vlm, qwen_config
from farthing.export.checkpoint.hf_config import read_config
from farthing.export.checkpoint.json_file import Fields
from farthing.export.checkpoint.vlm_folder import VlmFolder
from farthing.export.compile import compile_bundle
from farthing.export.graph.project import ProjectGraph
from farthing.export.graph.visual_step import Select
from farthing.export.graph.writer import GraphWriter
from farthing.export.visual import Level, Reduction, export_visual
from farthing.export.visual.native import longest_side, native_counts
from farthing.export.visual.reduction import ratio_levels
from farthing.models.vlm import projector_tensors
from farthing.plugins import library_path
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.engines import native_parts
from farthing.runtime.keep import choose_bucket
from farthing.runtime.tensors import FEATURES, PIXELS, VISION
from farthing.runtime.visual import native
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.prepare import prepare
from farthing.runtime.visual.stepper import PromptStepper

__all__ = ["rtx"]
TOKEN = vlm_models.IMAGE_ID
BEFORE, BEHIND = [1, 40, 77], [90, 8, 13, 250]
SHAPES = [(32, 32), (24, 56), (61, 20), (8, 300), (13, 13), (400, 380)]
"""Whole windows; three rows of seven tokens; a size to round; a strip; one that is enlarged; one that is shrunk."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint = vlm_models.write_qwen(folder / "model")
    export("vlm", checkpoint, folder / "bundle")
    return checkpoint, open_bundle(folder / "bundle")


@pytest.mark.parametrize("kernels", [False, True], ids=["bodies", "kernels"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_those_of_transformers(exported: tuple[Path, Bundle], shape: tuple[int, int], kernels: bool) -> None:
    checkpoint, bundle = exported
    if kernels and library_path() is None:
        pytest.skip("the operator library is not built")
    images = [sample_image(3, *shape), sample_image(4, *shape[::-1])]
    ids = [*BEFORE, TOKEN, 55, TOKEN, *BEHIND]
    wanted = vlm_models.qwen_logits(checkpoint, ids, images)
    stepper = PromptStepper(bundle.manifest, opener(bundle, kernels), 400)
    found = [stepper.prompt([*BEFORE, TOKEN, 55, TOKEN, BEHIND[0]], images)]
    found += [stepper.text([i]) for i in BEHIND[1:]]
    close(np.stack(found), wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_features_of_graph_and_reference_are_those_of_transformers(
    exported: tuple[Path, Bundle], shape: tuple[int, int]
) -> None:
    checkpoint, bundle = exported
    image, how = sample_image(1, *shape), bundle.manifest["vision"]["preprocess"]
    model, inputs = vlm_models.qwen_model(checkpoint), vlm_models.qwen_inputs(checkpoint, [TOKEN], [image])
    seen: list[torch.Tensor] = []
    model.model.visual.merger.mlp[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"])
    prepared = prepare(image, how)
    order = np.argsort(_window_order(*prepared.grid, 2))
    wanted = seen[0].numpy()[order]
    session = opener(bundle, False)(VISION)
    close(session.run([FEATURES], {PIXELS: prepared.views})[0][0], wanted)
    folder = open_vlm(checkpoint)
    pixels = (torch.from_numpy(np.array(prepared.views)).float() / 255 - torch.tensor(how["mean"])) / torch.tensor(
        how["std"]
    )
    with torch.no_grad():
        found = folder.vlm.tower.features(
            lambda n: torch.from_numpy(np.array(folder.visual(f"tower.{n}"))), pixels.permute(0, 3, 1, 2)
        )
    close(found[0].numpy(), wanted)


NATIVE = pytest.param(True, id="native", marks=pytest.mark.skipif(bool(native_parts().missing), reason="not built"))


@pytest.mark.parametrize("native_core", [pytest.param(False, id="portable"), NATIVE])
def test_both_engines_follow_transformers(exported: tuple[Path, Bundle], native_core: bool) -> None:
    """Three images, one of them twice; and a question by the chat template, which brackets an image."""
    from tokenizers import Tokenizer

    checkpoint, bundle = exported
    images = [sample_image(5, 24, 56), sample_image(6, 61, 20), sample_image(7, 48, 60), sample_image(5, 24, 56)]
    prompt = [1, TOKEN, 30, 31, TOKEN, 90, TOKEN, 5, TOKEN, 17]
    options: dict[str, Any] = {"greedy": True, "max_new_tokens": 6, "ignore_eos": True}
    with farthing.load(bundle.path, native=native_core) as model:
        made = model.generate(prompt_ids=prompt, images=images, **options)
        asked = model.generate("What is it?", images=images[1:2], **options)
        text = "<s>user: <|vision_start|><|image_pad|><|vision_end|>What is it?</s>"
        ids = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        assert ids.count(TOKEN) == 1
        assert asked.ids == model.generate(prompt_ids=ids, images=images[1:2], **options).ids
    assert made.stats["vision"]["encoded"] == 3
    rows = vlm_models.qwen_logits(checkpoint, [*prompt, *made.ids[:-1]], images)
    for row, chosen in zip(rows, made.ids, strict=True):
        assert row[chosen] >= row.max() - 1e-3


@needs_rtx
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("trt", [None, "10.3"])
def test_engines_build(tmp_path: Path, trt: str | None) -> None:
    checkpoint = vlm_models.write_qwen(tmp_path / "model", vision={"depth": 2, "fullatt_block_indexes": [1]})
    bundle = export("vlm", checkpoint, tmp_path / "bundle", check=False).path
    made = compile_bundle(bundle, "tensorrt-rtx", trt=trt, context=64, chunk=32, out=tmp_path / "engines")
    assert set(made.graphs) == {"vision", "project", "visual_step", "decoder"}


def _window_order(rows: int, columns: int, side: int) -> np.ndarray:
    """Tokens window by window, as transformers' tower holds them."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.lexsort((x, y, x // side, y // side))


def test_views_are_those_of_the_processor(exported: tuple[Path, Bundle]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    checkpoint, bundle = exported
    processor, how = Qwen2VLImageProcessorPil.from_pretrained(checkpoint), bundle.manifest["vision"]["preprocess"]
    for shape in [*SHAPES, (199, 1), (1, 200), (1, 1), (12, 20), (100, 31), (47, 64)]:
        image = sample_image(7, *shape)
        wanted = processor.resize(image.transpose(2, 0, 1), processor.size, processor.resample, factor=8)
        prepared = prepare(image, how)
        np.testing.assert_array_equal(prepared.views[0], wanted.transpose(1, 2, 0))
        assert prepared.views.shape[1:3] == (8 * prepared.grid[0], 8 * prepared.grid[1])
    for shape in [(201, 1), (3, 601)]:
        image = np.zeros((*shape, 3), np.uint8)
        with pytest.raises(ValueError, match="200"):
            processor.resize(image.transpose(2, 0, 1), processor.size, processor.resample, factor=8)
        with pytest.raises(RequestError, match="200"):
            prepare(image, how)


def test_sizes_are_those_of_transformers() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    state = np.random.RandomState(0)
    for _ in range(400):
        height = int(state.randint(1, 3000))
        width = int(np.clip(height * 200.0 ** state.uniform(-1, 1), -(-height // 200), min(200 * height, 10000)))
        least, most = sorted(int(x) for x in state.randint(28 * 28, 2_000_000, 2))
        assert native.fitted((height, width), 28, least, most) == smart_resize(height, width, 28, least, most)


def test_positions_are_those_of_transformers(exported: tuple[Path, Bundle]) -> None:
    checkpoint, bundle = exported
    images = [sample_image(0, 24, 56), sample_image(1, 61, 20)]
    inputs = vlm_models.qwen_inputs(checkpoint, [1, 2, TOKEN, 5, 6, 7, TOKEN, 8], images)
    wanted, _ = vlm_models.qwen_model(checkpoint).model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )
    grids = [prepare(i, bundle.manifest["vision"]["preprocess"]).grid for i in images]
    found, at = [], 0
    for text, grid in ((2, grids[0]), (3, grids[1]), (1, None)):
        found.append(np.repeat(at + np.arange(text)[None], 3, axis=0))
        at += text
        if grid is not None:
            image, at = native.positions(at, np.arange(grid[0] * grid[1]), grid)
            found.append(image[:, 0])
    np.testing.assert_array_equal(np.concatenate(found, axis=1), wanted[:, 0])


class KeepThese(Reduction):
    """Keeps the rows it is told, before the first layer or before ``prune_layer``."""

    def __init__(self, rows: Sequence[int], prune_layer: int | None = None) -> None:
        self.rows, self.prune_layer = np.array(rows, np.int64), prune_layer

    def levels(self, model: VlmFolder, rows: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
        return (Level("r50", 0.5, (len(self.rows), max(n for n, _ in rows))),)

    def project(self, graph: ProjectGraph, model: VlmFolder, level: Level, tokens: int | str) -> None:
        graph.begin()
        graph.w.constant("these", np.resize(self.rows, int(tokens)))
        graph.w.node("Gather", [graph.rows, "these"], ["chosen"], axis=1)
        graph.w.constant("first_axis", np.array([0], np.int64))
        graph.w.node("Unsqueeze", ["these", "first_axis"], ["these.row"])
        graph.finish("chosen", "these.row", tokens)

    def select(self, model: VlmFolder, level: Level, tokens: int) -> Select:
        def choose(w: GraphWriter, stream: str) -> str:
            w.constant("these", np.resize(self.rows, tokens)[None])
            return "these"

        return choose


@pytest.mark.parametrize("layer", [None, 1, 2])
def test_kept_rows_keep_their_positions(exported: tuple[Path, Bundle], tmp_path: Path, layer: int | None) -> None:
    """24 x 56 pixels are 3 x 7 tokens, of which some are dropped; the language model of transformers gets the rest, and where they stood."""
    checkpoint, _ = exported
    kept = [0, 3, 4, 6, 8, 9, 11, 12, 13, 14, 15]  # the exporter's own image has 16 rows
    made = export_visual(checkpoint, tmp_path / "bundle", KeepThese(kept, layer))
    bundle, image = open_bundle(made.path), sample_image(5, 24, 56)
    stepper = PromptStepper(bundle.manifest, opener(bundle, False), 100)
    found = [stepper.prompt([*BEFORE, TOKEN, BEHIND[0]], [image], "r50")]
    found += [stepper.text([i]) for i in BEHIND[1:]]
    np.testing.assert_array_equal(stepper.kept[0], kept)
    model = vlm_models.qwen_model(checkpoint)
    inputs = vlm_models.qwen_inputs(checkpoint, [*BEFORE, TOKEN, *BEHIND], [image])
    stays = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    stays[len(BEFORE) : len(BEFORE) + 21] = torch.isin(torch.arange(21), torch.tensor(kept))
    close(np.stack(found), _pruned(model, inputs, stays, layer or 0)[-len(BEHIND) :])


@torch.no_grad()
def _pruned(model: Any, inputs: dict[str, Any], stays: torch.Tensor, layer: int) -> np.ndarray:
    """Logits of the rows that stay, where the others are missing from ``layer`` on."""
    places, _ = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"])
    text = model.model.language_model
    stream = text.embed_tokens(inputs["input_ids"])
    rows = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    stream[0, inputs["input_ids"][0] == TOKEN] = torch.cat(list(rows))
    if layer == 0:
        hidden = text(inputs_embeds=stream[:, stays], position_ids=places[..., stays]).last_hidden_state
        return np.asarray(model.lm_head(hidden)[0])
    for i, block in enumerate(text.layers):
        if i == layer:
            stream, places = stream[:, stays], places[..., stays]
        stream = block(stream, position_embeddings=text.rotary_emb(stream, places))
    return np.asarray(model.lm_head(text.norm(stream))[0])


@pytest.mark.parametrize("method", ["idpruner", "zoo-prune"])
def test_methods_that_prune(exported: tuple[Path, Bundle], tmp_path: Path, method: str) -> None:
    """Their own choice of rows is others' business: here every level drops about what it says, and the exporter's check ran."""
    checkpoint, _ = exported
    made = export(method, checkpoint, tmp_path / "bundle", ratios=[0.5, 0.75])
    assert made.check is not None
    bundle = open_bundle(made.path)
    assert bundle.manifest["vision"]["positions"] == "keep"
    stepper = PromptStepper(bundle.manifest, opener(bundle, False), 100)
    whole = stepper.encoder.rows(sample_image(5, 48, 60), "full")
    half, quarter = (stepper.encoder.rows(sample_image(5, 48, 60), level) for level in ("r50", "r75"))
    assert whole.total == 48
    assert 24 <= len(half.kept) <= 27
    assert 12 <= len(quarter.kept) <= 14
    everything, _ = whole.positions(9, False)
    np.testing.assert_array_equal(half.positions(9, False)[0], everything[..., half.kept])


def test_compact_positions_are_refused(exported: tuple[Path, Bundle], tmp_path: Path) -> None:
    reduction = KeepThese([0, 1, 2])
    reduction.positions = "compact"
    with pytest.raises(RequestError, match="compact"):
        export_visual(exported[0], tmp_path / "bundle", reduction)
    assert not (tmp_path / "bundle").exists()


def test_buckets_serve_every_image() -> None:
    entry = {"patch": 14, "merge": 2, "min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}
    for least, most in (
        (56 * 56, 28 * 28 * 1280),
        (56 * 56, 28 * 28 * 16384),
        (28 * 28, 28 * 28 * 4),
        (50_000, 50_000),
    ):
        entry |= {"min_pixels": least, "max_pixels": most}
        counts, longest = native_counts(entry), longest_side(entry)
        levels = ratio_levels([0.5, 0.9], counts)
        assert all(1 <= len(level.buckets) <= 12 for level in levels)
        for height in (1, 9, 28, 50, 333, 1000, 4000):
            for stretch in (1, 1.3, 2, 7.7, 40, 200):
                high, wide = native.fitted((height, int(height * stretch)), 28, least, most)
                rows = high * wide // 784
                assert max(high, wide) // 28 <= longest
                for level in levels:
                    chosen = choose_bucket(level.buckets, rows, level.ratio)
                    if rows >= 0.5 * counts[-1][0] and chosen is not None and rows > 100:
                        assert chosen <= 1.15 * rows * (1 - level.ratio) + 1


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
        ("config.json", {"vision_config": {"window_size": 20}}, "window_size"),
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


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4 * max(1, np.abs(wanted).max()))
