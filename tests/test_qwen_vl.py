"""Qwen2.5-VL from pixels to logits against transformers, on random models: tower, both engines, pruned rows."""

from __future__ import annotations

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
from farthing.errors import RequestError
from farthing.export import export
from farthing.export.checkpoint import open_vlm
from farthing.export.checkpoint.vlm_folder import VlmFolder
from farthing.export.compile import compile_bundle
from farthing.export.graph.project import ProjectGraph
from farthing.export.graph.visual_step import Select
from farthing.export.graph.writer import GraphWriter
from farthing.export.visual import Level, Reduction, export_visual
from farthing.plugins import library_path
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.engines import native_parts
from farthing.runtime.tensors import FEATURES, PIXELS, VISION
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.prepare import prepare
from farthing.runtime.visual.stepper import PromptStepper

__all__ = ["rtx"]
TOKEN = vlm_models.IMAGE_ID
BEFORE, BEHIND = [1, 40, 77], [90, 8, 13, 250]
SHAPES = [(24, 48), (40, 40), (61, 20), (8, 300), (13, 13), (400, 380)]
"""Whole windows of 3 x 3 tokens; 5 x 5; a size to round, 8 x 2; a strip; one that is enlarged; one that is shrunk."""


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
    order = np.argsort(_window_order(*prepared.grid, 3))
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


@pytest.mark.parametrize("native_core", [pytest.param(False, id="portable"), NATIVE])
def test_a_second_question_goes_on_behind_the_image(exported: tuple[Path, Bundle], native_core: bool) -> None:
    """21 rows take 7 positions, so behind an image positions are smaller than slots; also where only the text behind it is new."""
    _, bundle = exported
    images = [sample_image(5, 24, 56), sample_image(6, 61, 20)]
    prompts = [[1, 40, TOKEN, 30, 31, TOKEN, 90, 17, 23], [1, 40, TOKEN, 30, 31, TOKEN, 90, 18], [1, 40, TOKEN, 30, 77]]
    options: dict[str, Any] = {"greedy": True, "max_new_tokens": 6, "ignore_eos": True}
    fresh, again = [], []
    for reuse, made in ((False, fresh), (True, again)):
        with farthing.load(bundle.path, native=native_core) as model:
            for prompt in prompts:
                shown = images[: prompt.count(TOKEN)]
                made.append(model.generate(prompt_ids=prompt, images=shown, reuse_prefix=reuse, **options))
    assert [m.ids for m in again] == [m.ids for m in fresh]
    assert again[1].stats["vision"]["rows"] == again[2].stats["vision"]["rows"] == 0


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
    with farthing.load(bundle.path, native=False) as one, farthing.load(bundle.path) as other:
        options: dict[str, Any] = {"greedy": True, "max_new_tokens": 6, "ignore_eos": True, "level": "r75"}
        prompt = {"prompt_ids": [1, TOKEN, 30, 31], "images": [sample_image(5, 48, 60)]}
        assert one.generate(**prompt, **options).ids == other.generate(**prompt, **options).ids
    everything, _ = whole.positions(9, False)
    np.testing.assert_array_equal(half.positions(9, False)[0], everything[..., half.kept])


def test_compact_positions_are_refused(exported: tuple[Path, Bundle], tmp_path: Path) -> None:
    """Also of a method that would have them by default; asked for nothing it keeps positions."""
    for method in ("zoo-prune", "idpruner"):
        with pytest.raises(RequestError, match="compact"):
            export(method, exported[0], tmp_path / "bundle", positions="compact")
        assert not (tmp_path / "bundle").exists()
    made = export("zoo-prune", exported[0], tmp_path / "bundle", ratios=(0.5,), check=False)
    assert open_bundle(made.path).manifest["vision"]["positions"] == "keep"


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4 * max(1, np.abs(wanted).max()))
