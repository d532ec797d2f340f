"""Recording what a vision-language bundle says to made-up images, by its bodies; and comparing that with the PyTorch reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import VerificationError, found_wanted
from ...runtime.visual.encoder import Rows, VisualEncoder
from ...runtime.visual.images import sample_image
from ...runtime.visual.prepare import prepare
from ...runtime.visual.spec import Route, VisionSpec
from ...runtime.visual.stepper import PromptStepper
from ..checkpoint.vlm_folder import VlmFolder
from ..graph import Progress
from ..vectors.check import TOLERANCE
from ..vectors.record import Case, open_graph
from .reduction import SKIP

NEW_TOKENS = 8
BEFORE, BEHIND = 5, 4
"""Ids of text before and behind the image."""


@dataclass(frozen=True)
class ImageCase:
    """One prompt with one image. ``case`` has ids with the image token in them and the greedy continuation; ``kept`` int64 [K]."""

    seed: int
    height: int
    width: int
    level: str
    kept: np.ndarray
    rows: int
    """Slots of the cache that the image takes; 1 where it becomes weights and leaves a position free."""
    case: Case

    @property
    def pixels(self) -> np.ndarray:
        """The image, made again."""
        return sample_image(self.seed, self.height, self.width)

    def as_json(self) -> dict[str, Any]:
        """As vectors/decoder.json stores it, beside the cases without images."""
        image = {"seed": self.seed, "height": self.height, "width": self.width}
        return {
            "image": image,
            "level": self.level,
            "kept": self.kept.tolist(),
            "rows": self.rows,
            **self.case.as_json(),
        }


def record_images(folder: Path, manifest: dict[str, Any], progress: Progress) -> list[ImageCase]:
    """A case for every level, and with several views one for a wide image, too."""
    spec = VisionSpec(manifest["vision"])
    sessions: dict[str, Any] = {}

    def opened(name: str) -> Any:
        if name not in sessions:
            sessions[name] = open_graph(folder / f"{name}.onnx")
        return sessions[name]

    shapes = _shapes(spec)
    cases, total = [], len(spec.levels) * len(shapes)
    vocab, token = int(manifest["model"]["vocab_size"]), spec.image_token_id
    for seed, (height, width) in enumerate(shapes):
        for level in spec.levels:
            ids = _text(vocab, token)
            prompt = [*(next(ids) for _ in range(BEFORE)), token, *(next(ids) for _ in range(BEHIND))]
            encoder = VisualEncoder(spec, opened)
            rows = 1 if spec.perceive else encoder.rows(sample_image(seed, height, width), level).embeds.shape[1]
            stepper = PromptStepper(manifest, opened, BEFORE + rows + BEHIND + NEW_TOKENS)
            stepper.encoder = encoder  # its features are made already
            logits, chosen = [stepper.prompt(prompt, [sample_image(seed, height, width)], level)], list[int]()
            for _ in range(NEW_TOKENS):
                chosen.append(int(logits[-1].argmax()))
                if len(chosen) < NEW_TOKENS:
                    logits.append(stepper.text(chosen[-1:]))
            case = Case(prompt, chosen, np.stack(logits))
            cases.append(ImageCase(seed, height, width, level, stepper.kept[0], rows, case))
            progress("recording images", len(cases), total)
    return cases


def check_images(cases: list[ImageCase], model: VlmFolder, manifest: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Compare every recorded row of logits with PyTorch, which gets the rows that the graphs kept. Raises VerificationError.

    Returns ``max_abs``, ``allowed``, ``rows``. That the right rows were kept is the business of the operator's and the method's tests.
    """
    import torch

    from ...models.decoder import Decoder
    from ...models.vlm_reference import ImageRows, image_features, image_rows, logits, pooled

    spec = VisionSpec(manifest["vision"])
    how = spec.entry["preprocess"]
    decoder = Decoder(model, storage=dtype, lazy=True)
    worst, allowed, rows = 0.0, 1.0, 0

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(model.visual(name)))

    for case in cases:
        with torch.no_grad():
            prepared = prepare(case.pixels, how)
            found = image_features(model.vlm, read, prepared.views, how["mean"], how["std"])
            level = spec.level(case.level)
            pool, grid = int(level.get("pool", 1)), int(spec.entry["grid"])
            layout = prepared.layout(grid // pool) if spec.entry["newline"] else None
            embeds = image_rows(
                model.vlm,
                read,
                found,
                None if layout is None else layout.order,
                partial(pooled, grid=grid, pool=pool),
            )
            kept = torch.from_numpy(case.kept)
            late = spec.prune_layer if len(kept) < len(embeds) else None
            plan = spec.entry["method"]["plan"] if case.level == SKIP else {}
            skip = {int(layer): what for layer, what in plan.items()}
            taken = np.arange(len(embeds)) if late is not None else case.kept
            rows_of = Rows(embeds.numpy()[None], taken, len(embeds), Route("", "", None), prepared.grid)
            places, span = rows_of.positions(0, spec.compact)
            stays = kept if late is not None else torch.arange(len(kept))
            image = ImageRows(embeds[torch.from_numpy(taken)], torch.from_numpy(places).squeeze(-2), span, stays)
            ids = [*case.case.prompt_ids, *case.case.greedy_ids[:-1]]
            wanted = logits(decoder, spec.image_token_id, ids, [image], NEW_TOKENS, skip=skip, prune_layer=late).numpy()
        error = np.abs(case.case.logits - wanted).max(-1)
        bound = TOLERANCE * np.maximum(1.0, np.abs(wanted).max(-1))
        step = int(np.argmax(np.nan_to_num(error / bound, nan=np.inf)))
        if not error[step] <= bound[step]:
            raise VerificationError(
                found_wanted(
                    f"largest difference between graphs and PyTorch reference (image {case.height} x {case.width}, "
                    f"level {case.level}, step {step})",
                    f"{error[step]:.3g}",
                    f"at most {bound[step]:.3g}",
                    "this is a defect of the exporter for this model, please report it; nothing was written",
                )
            )
        rows += len(error)
        if error[step] / bound[step] >= worst / allowed:
            worst, allowed = float(error[step]), float(bound[step])
    return {"max_abs": worst, "allowed": allowed, "rows": rows}


def _shapes(spec: VisionSpec) -> list[tuple[int, int]]:
    """(height, width) of images that show every level, and what is particular about the family."""
    how = spec.entry["preprocess"]
    side = int(how.get("crop", 56))
    if spec.entry["newline"]:
        return [(side * 2, side * 2), (side, side * 3 // 2)]
    if how["kind"] != "qwen2_vl":
        return [(side * 4 // 3, side)]
    # Windows that are cut at two edges; and as many rows as a level needs to drop some.
    unit, window = int(how["patch"]) * int(how["merge"]), int(how["window"])
    least = [b["tokens"] for level in spec.entry["levels"] for b in level.get("buckets", [])[:1]]
    wide = math.ceil(1.2 * max(least) ** 0.5) * unit if least else 0
    cut = (2 * window - unit + unit // 4, window + unit - unit // 4)
    return [cut, *([(wide, wide)] if least else [])]


def _text(vocab: int, image_token: int) -> Iterator[int]:
    """Made-up ids without the image token, the same on every machine: Knuth's MMIX generator, high bits."""
    state = 20240301
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        if (token := (state >> 33) % vocab) != image_token:
            yield token
