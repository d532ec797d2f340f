"""prune-view: every kept row lights the place it stands for, on single views, several views, images of their own shape and pooled squares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import vlm_models
from click.testing import CliRunner
from PIL import Image

from farthing.calibration.visual.picture import draw, lit
from farthing.calibration.visual.trial import kernels_encoder
from farthing.calibration.visual.view import Panel, Part, panels
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.export import export
from farthing.runtime.bundle import open_bundle
from farthing.runtime.visual.images import sample_image
from farthing.runtime.visual.spec import vision_spec


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("view")
    one = vlm_models.write_llava(root / "llava")
    several = vlm_models.write_llava(root / "llava_next", "llava_next")
    return {
        "one": export("idpruner", one, root / "one", ratios=[0.5, 0.75], check=False).path,
        "inside": export("idpruner", one, root / "inside", ratios=[0.75], prune_layer=1, check=False).path,
        "several": export("zoo-prune", several, root / "several", ratios=[0.75], check=False).path,
        "pooled": export("matryoshka", several, root / "pooled", scales=[1], check=False).path,
        "shaped": export(
            "idpruner", vlm_models.write_qwen(root / "qwen"), root / "shaped", ratios=[0.75], check=False
        ).path,
        "full": export("vlm", one, root / "full", check=False).path,
    }


def kept_rows(path: Path, pixels: np.ndarray, level: str) -> tuple[np.ndarray, object]:
    bundle = open_bundle(path)
    spec = vision_spec(bundle)
    assert spec is not None
    encoder = kernels_encoder(bundle, spec, kernels=False)
    prepared, features = encoder.features(pixels)
    return encoder.rows_of(prepared, features, level).kept, prepared


def test_one_view(bundles: dict[str, Path]) -> None:
    pixels = sample_image(3, 40, 30)
    found = panels(open_bundle(bundles["one"]), pixels, kernels=False)
    assert [(p.level, p.kept, p.total, p.breaks) for p in found] == [
        ("full", 9, 9, 0),
        ("r50", 4, 9, 0),
        ("r75", 2, 9, 0),
    ]
    for panel in found:
        kept, prepared = kept_rows(bundles["one"], pixels, panel.level)
        assert np.flatnonzero(panel.parts[0].lit.reshape(-1)).tolist() == kept.tolist()
        np.testing.assert_array_equal(panel.parts[0].pixels, prepared.views[0])
    assert [p.level for p in panels(open_bundle(bundles["one"]), pixels, ["r75", "full"], kernels=False)] == [
        "r75",
        "full",
    ]


@pytest.mark.parametrize("shape", [(48, 48), (30, 61), (61, 30), (24, 400)])
def test_several_views(bundles: dict[str, Path], shape: tuple[int, int]) -> None:
    """Each kept row's view and cell, from the layout's own order, is a lit place with the pixels of that cell."""
    pixels = sample_image(4, *shape)
    panel = panels(open_bundle(bundles["several"]), pixels, ["r75"], kernels=False)[0]
    kept, prepared = kept_rows(bundles["several"], pixels, "r75")
    layout, side, patch = prepared.layout(3), vlm_models.SIDE, 8
    places = layout.order[kept]
    cells = [divmod(int(p), 9) for p in places if p < layout.views * 9]
    assert panel.kept == len(kept) and panel.kept - panel.breaks == len(cells) == sum(
        int(p.lit.sum()) for p in panel.parts
    )
    thumbnail = panel.parts[-1]
    assert thumbnail.name == "thumbnail"
    assert np.flatnonzero(thumbnail.lit.reshape(-1)).tolist() == [cell for view, cell in cells if view == 0]
    canvas = panel.parts[0]
    for view, cell in cells:
        if view == 0:
            continue
        down, across = divmod(view - 1, layout.tiles[1])
        row, column = down * 3 + cell // 3 - layout.rows[0], across * 3 + cell % 3 - layout.columns[0]
        assert canvas.lit[row, column]
        y, x = row * patch, column * patch
        own = prepared.views[view].reshape(3, patch, 3, patch, 3)[cell // 3, :, cell % 3]
        np.testing.assert_array_equal(canvas.pixels[y : y + patch, x : x + patch], own)
    if shape == (48, 48):
        assert canvas.pixels.shape == (2 * side, 2 * side, 3)


def test_images_of_their_own_shape(bundles: dict[str, Path]) -> None:
    pixels = sample_image(4, 24, 57)
    panel = panels(open_bundle(bundles["shaped"]), pixels, ["r75"], kernels=False)[0]
    kept, prepared = kept_rows(bundles["shaped"], pixels, "r75")
    part = panel.parts[0]
    assert part.lit.shape == prepared.grid == (3, 7) and panel.total == 21
    assert np.flatnonzero(part.lit.reshape(-1)).tolist() == kept.tolist()
    np.testing.assert_array_equal(part.pixels, prepared.views[0])


def test_inside_the_decoder(bundles: dict[str, Path]) -> None:
    pixels = sample_image(5, 30, 30)
    full, fewer = panels(open_bundle(bundles["inside"]), pixels, kernels=False)
    assert full.parts[0].lit.all() and (fewer.kept, int(fewer.parts[0].lit.sum())) == (2, 2)


def test_pooled(bundles: dict[str, Path]) -> None:
    pixels = sample_image(6, 48, 48)
    full, one = panels(open_bundle(bundles["pooled"]), pixels, kernels=False)
    assert full.kept == full.total == 9 + 6 * 7 and not full.parts[0].pooled
    # A token for each of five views, and two rows of the canvas end with a line break.
    assert (one.kept, one.total, one.breaks) == (7, full.total, 2)
    assert [p.lit.shape for p in one.parts] == [(2, 2), (1, 1)] and all(p.pooled and p.lit.all() for p in one.parts)


def test_levels_that_cannot_be_shown(bundles: dict[str, Path]) -> None:
    pixels = sample_image(6, 48, 48)
    with pytest.raises(RequestError, match="the nearest is"):
        panels(open_bundle(bundles["one"]), pixels, ["r51"])
    with pytest.raises(RequestError, match="different ones"):
        panels(open_bundle(bundles["one"]), pixels, ["r50", "r50"])
    with pytest.raises(RequestError, match="full alone"):
        panels(open_bundle(bundles["full"]), pixels)


def test_light_and_dark() -> None:
    part = Part(np.full((12, 12, 3), 200, np.uint8), np.array([[True, False], [False, True]]))
    picture = lit(part, (40, 40))
    assert (picture[5, 5] == 200).all() and (picture[5, 30] == 60).all() and (picture[30, 30] == 200).all()
    assert (picture[5, 19] > 200).all(), "an edge"
    whole = lit(Part(part.pixels, np.ones((2, 2), bool)), (40, 40))
    assert (whole == 200).all()
    pooled = lit(Part(part.pixels, np.ones((2, 2), bool), pooled=True), (40, 40))
    assert (pooled[20, :, 0] > 200).all() and (pooled[:, 20, 0] > 200).all() and (pooled[21:, 21:] == 200).all()
    # Sizes that the grid does not divide: every token still has its place.
    odd = lit(Part(np.zeros((24, 24, 3), np.uint8), np.eye(7, dtype=bool)), (100, 90))
    assert odd.shape == (100, 90, 3)


def test_the_same_picture_every_time(bundles: dict[str, Path]) -> None:
    shown = panels(open_bundle(bundles["several"]), sample_image(7, 30, 61), kernels=False)
    first = draw(shown, "a title")
    np.testing.assert_array_equal(first, draw(shown, "a title"))
    assert first.dtype == np.uint8 and (first[:20] == 255).all()
    many = draw([*shown, *shown, *shown], "x" * 500)
    assert many.shape[0] > 2 * first.shape[0] - 200, "a second row of panels"
    strip = Panel("r50", 1, 40, 0, (Part(np.zeros((8, 320, 3), np.uint8), np.zeros((1, 40), bool)),))
    assert draw([strip]).shape[2] == 3


def run(*arguments: object) -> tuple[int, str, str]:
    made = CliRunner().invoke(cli, [str(a) for a in arguments])
    code = getattr(made.exception, "exit_code", made.exit_code) if made.exception else made.exit_code
    return code, made.stdout, str(made.exception)


def test_command(bundles: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(sample_image(8, 60, 40)).save(tmp_path / "a.png")
    asked = ("prune-view", tmp_path / "a.png", "--bundle", bundles["one"], "--no-native")
    code, out, _ = run(*asked, "--level", "r75", "--level", "r50", "--out", tmp_path / "view.png")
    assert code == 0 and "r75      2 of 9 tokens" in out
    with Image.open(tmp_path / "view.png") as picture:
        assert picture.width > picture.height > 380
    first = (tmp_path / "view.png").read_bytes()
    code, out, _ = run(*asked, "--level", "r75", "--level", "r50", "--out", tmp_path / "view.png", "--json")
    assert code == 0 and json.loads(out)["levels"][1] == {"level": "r50", "kept": 4, "total": 9}
    assert (tmp_path / "view.png").read_bytes() == first
    for wrong, word in (
        ((*asked, "--level", "r99", "--out", tmp_path / "b.png"), "level is 'r99'"),
        ((*asked, "--out", tmp_path / "none" / "b.png"), "in no folder"),
        ((*asked, "--out", tmp_path / "b.strange"), "not writable"),
        (("prune-view", tmp_path / "none.png", *asked[2:], "--out", tmp_path / "b.png"), "missing"),
    ):
        code, _, error = run(*wrong)
        assert code == 2 and word in error, error
    assert not (tmp_path / "b.png").exists()
