"""The layout of images with several views against transformers' LLaVA-NeXT, and the inputs derived from it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reduction_graphs import matryoshka, run

from farthing.errors import RequestError
from farthing.models import token_reduction as reference
from farthing.runtime.anyres import NEWLINE, anyres, choose_pinpoint

PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
SIZES = [
    (480, 640),
    (640, 480),
    (300, 1000),
    (1000, 300),
    (336, 672),
    (335, 335),
    (320, 300),
    (37, 41),
    (1080, 1920),
    (3000, 700),
    (10, 1000),
    (1000, 7),
    (1, 1),
    (673, 671),
]


def theirs(original: tuple[int, int], grid: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(sequence of feature numbers, tiles) by transformers; the line break is number T*N."""
    module = pytest.importorskip("transformers.models.llava_next.modeling_llava_next")
    pinpoints = [list(p) for p in PINPOINTS]
    tiles = module.get_anyres_image_grid_shape(original, pinpoints, 336)
    total = (1 + tiles[0] * tiles[1]) * grid * grid
    features = torch.arange(total, dtype=torch.float64).reshape(-1, grid * grid, 1)
    sides = SimpleNamespace(image_size=336, patch_size=336 // grid)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=sides, image_grid_pinpoints=pinpoints))
    packed, _ = module.LlavaNextModel.pack_image_features(
        model, [features], torch.tensor([original]), "default", torch.tensor([float(total)], dtype=torch.float64)
    )
    return packed[0][:, 0].long().numpy(), tiles


@pytest.mark.parametrize("grid", (24, 12, 6, 3, 1))
@pytest.mark.parametrize("original", SIZES, ids=str)
def test_order_equals_transformers(original: tuple[int, int], grid: int) -> None:
    wanted, tiles = theirs(original, grid)
    fitted = choose_pinpoint(original, PINPOINTS)
    assert (fitted[0] // 336, fitted[1] // 336) == tiles
    layout = anyres(original, tiles, grid)
    np.testing.assert_array_equal(layout.order, wanted)
    tokens = grid * grid
    np.testing.assert_array_equal(
        layout.group[0], [NEWLINE if i == layout.views * tokens else i // tokens for i in wanted]
    )
    assert layout.candidates + layout.newlines == len(wanted)
    assert layout.counts.sum() == layout.candidates and layout.counts[0] == tokens


def test_the_whole_canvas_without_cutting_and_without_breaks() -> None:
    layout = anyres((10, 1000), (2, 2), 3, unpad=False, newline=False)
    assert layout.order.size == 5 * 9 and (np.sort(layout.order) == np.arange(45)).all()
    np.testing.assert_array_equal(layout.order[9:15], [9, 10, 11, 18, 19, 20])  # one row through both upper tiles
    alone = anyres((10, 10), (0, 0), 2)
    np.testing.assert_array_equal(alone.order, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(alone.group, [[0, 0, 0, 0, NEWLINE]])


def test_a_grid_of_one_token_may_lose_its_tiles_and_need_not() -> None:
    tiles = tuple(v // 336 for v in choose_pinpoint((320, 300), PINPOINTS))
    layout = anyres((320, 300), tiles, 1)
    assert tiles == (1, 2) and layout.empty == (1, 2) and layout.candidates == 1  # what transformers does, too
    assert layout.taps()[1].sum() == 0
    kept = anyres((320, 300), tiles, 1, least=1)
    assert kept.empty == () and kept.candidates == 3


@pytest.mark.parametrize("original", [(480, 640), (300, 1000), (1000, 300), (3000, 700)], ids=str)
def test_taps_are_bilinear_interpolation(original: tuple[int, int]) -> None:
    grid = 6
    tiles = tuple(v // 336 for v in choose_pinpoint(original, PINPOINTS))
    layout = anyres(original, tiles, grid)
    index, weight = layout.taps()
    plane = np.random.default_rng(3).standard_normal((grid, grid))
    size = (layout.rows[1] - layout.rows[0], layout.columns[1] - layout.columns[0])
    wanted = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], size, mode="bilinear").numpy()[0, 0]
    got = (plane.reshape(-1)[index] * weight).sum(1)
    np.testing.assert_allclose(got[layout.group[0] > 0].reshape(size), wanted, atol=1e-6)
    assert not weight[layout.group[0] <= 0].any()


def test_regions_cover_the_thumbnail_once_and_the_last_tile_has_the_remainder() -> None:
    for tiles, grid in (((2, 2), 24), ((1, 3), 24), ((3, 1), 8), ((2, 3), 7), ((1, 3), 2)):
        regions = anyres((10, 10), tiles, grid).regions()
        np.testing.assert_array_equal(regions.sum(0), np.ones(grid * grid))
        assert not regions[0].any()
    rows = anyres((10, 10), (3, 1), 8).regions().sum(1)
    np.testing.assert_array_equal(rows, [0, 16, 16, 32])


@pytest.mark.parametrize("scale", (144, 36, 16, 9, 4, 1))
def test_pooled_views_are_stitched_on_the_smaller_grid(tmp_path, scale: int) -> None:
    """Matryoshka on several views: pool every view, then stitch, cut and break lines."""
    grid, width, original = 12, 5, (700, 900)
    small = int(scale**0.5)
    tiles = (2, 2)
    layout = anyres(original, tiles, small)
    x = np.random.default_rng(4).standard_normal((5, grid * grid, width)).astype(np.float32)
    rows = run(matryoshka(tmp_path, grid, scale, width), {"x": x, "order": layout.order})[0]
    pooled = reference.matryoshka(torch.from_numpy(x).double(), scale).numpy()
    assert pooled.shape == (5, scale, width)
    table = np.concatenate([pooled.reshape(-1, width), np.zeros((1, width))])
    np.testing.assert_allclose(rows, table[theirs_order(original, tiles, small)], atol=1e-6)
    if scale == grid * grid:
        assert (
            rows.tobytes()
            == np.concatenate([x.reshape(-1, width), np.zeros((1, width), np.float32)])[layout.order].tobytes()
        )


def theirs_order(original: tuple[int, int], tiles: tuple[int, int], grid: int) -> np.ndarray:
    numbers, found = theirs(original, grid)
    assert found == tiles
    return numbers


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((0, 5), (2, 2), 24), "original size is (0, 5), expected two numbers of at least 1"),
        (((5, 5), (2, 0), 24), "tiles is (2, 0), expected two numbers of at least 1"),
        (((5, 5), (2, 2), 0), "grid is 0, expected 1 or more"),
    ],
)
def test_sizes_that_are_none_are_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(RequestError) as error:
        anyres(*arguments)
    assert says in str(error.value)


def test_a_model_without_pinpoints_is_refused() -> None:
    with pytest.raises(RequestError, match="pinpoints is none"):
        choose_pinpoint((5, 5), [])
