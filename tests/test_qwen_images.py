"""Images of any size: views, sizes and positions as in transformers, and numbers of rows for which graphs are built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import vlm_models

from farthing.errors import RequestError
from farthing.export import export
from farthing.export.visual.native import longest_side, native_counts
from farthing.export.visual.reduction import ratio_levels
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.keep import choose_bucket
from farthing.runtime.visual import native
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.prepare import prepare

TOKEN = vlm_models.IMAGE_ID
SHAPES = [(24, 48), (40, 40), (61, 20), (8, 300), (13, 13), (400, 380)]
"""Whole windows of 3 x 3 tokens; 5 x 5; a size to round, 8 x 2; a strip; one that is enlarged; one that is shrunk."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint = vlm_models.write_qwen(folder / "model")
    export("vlm", checkpoint, folder / "bundle", check=False)
    return checkpoint, open_bundle(folder / "bundle")


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
