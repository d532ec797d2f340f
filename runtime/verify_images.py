"""Replaying the recorded images of a vision-language bundle: the same rows kept, the same logits, at every level."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import BundleError, found_wanted
from .bundle import Bundle
from .visual.encoder import Open
from .visual.images import sample_image
from .visual.stepper import PromptStepper

_SIDES = range(1, 4097)


ROUNDED_ROWS = 0.1
"""Part of the kept rows that may be others where activations are rounded to 8 bits: near-ties go either way. Measured: 1 of 14."""


def image_failure(bundle: Bundle, open_graph: Open, tolerance: float, *, rounded: bool = False) -> str | None:
    """The house sentence about the first recorded image that comes out differently by ``open_graph`` (name -> session), or None.

    Recorded ids are fed back. A choice whose margin is within the tolerance is a tie. ``rounded``: activations are rounded, so ROUNDED_ROWS
    of the rows may be others, and what follows from other rows is not compared. Raises BundleError for unusable recordings.
    """
    sessions: dict[str, Any] = {}

    def opened(name: str) -> Any:
        if name not in sessions:
            sessions[name] = open_graph(name)
        return sessions[name]

    for number, case in enumerate(_cases(bundle)):
        picture = sample_image(case["seed"], case["height"], case["width"])
        slots = len(case["prompt"]) + len(case["ids"]) + case["rows"]
        stepper = PromptStepper(bundle.manifest, opened, slots)
        logits = stepper.prompt(case["prompt"], [picture], case["level"])
        what = f"image {number}, level {case['level']}"
        if (found := stepper.kept[0].tolist()) != case["kept"]:
            missing = len(set(case["kept"]) - set(found))
            if rounded and len(found) == len(case["kept"]) and missing <= max(1, ROUNDED_ROWS * len(found)):
                continue
            return found_wanted(
                f"kept rows of {what}",
                f"{len(found)} rows, {missing} of the recorded ones not among them",
                f"the {len(case['kept'])} recorded rows",
                "see docs/verify.md for what may cause it",
            )
        error = np.nan_to_num(np.abs(logits[case["logit_ids"]] - case["values"]), nan=np.inf)
        allowed = tolerance * max(1.0, float(np.abs(case["values"]).max()))
        if not error.max() <= allowed:
            return found_wanted(
                f"difference of logit {case['logit_ids'][int(error.argmax())]} from the recorded one ({what})",
                f"{error.max():.3g}",
                f"at most {allowed:.3g}",
                "see docs/verify.md for what may cause it",
            )
        for step, (wanted, margin) in enumerate(zip(case["ids"], case["margins"], strict=True)):
            if int(logits.argmax()) != wanted and margin > 2 * allowed:
                return found_wanted(
                    f"greedy id of step {step} ({what})", int(logits.argmax()), wanted, "see docs/verify.md"
                )
            if step + 1 < len(case["ids"]):
                logits = stepper.text([wanted])
    return None


def _cases(bundle: Bundle) -> list[dict[str, Any]]:
    name, vocab = bundle.manifest["vectors"], bundle.manifest["model"]["vocab_size"]
    try:
        cases = []
        for raw in json.loads(bundle.text(name))["images"]:
            image, kept = raw["image"], [int(i) for i in raw["kept"]]
            case: dict[str, Any] = {
                "seed": int(image["seed"]),
                "height": int(image["height"]),
                "width": int(image["width"]),
                "level": str(raw["level"]),
                "kept": kept,
                "rows": int(raw["rows"]),
                "prompt": [int(i) for i in raw["prompt_ids"]],
                "ids": [int(i) for i in raw["greedy_ids"]],
                "margins": [float(m) for m in raw["margins"]],
                "logit_ids": np.array(raw["logits"]["ids"], np.int64),
                "values": np.array(raw["logits"]["values"], np.float32),
            }
            ids = [*case["prompt"], *case["ids"], *case["logit_ids"]]
            if case["height"] not in _SIDES or case["width"] not in _SIDES or not 0 <= case["seed"] < 2**32:
                raise ValueError("an image of impossible size or seed")
            if not case["ids"] or len(case["margins"]) != len(case["ids"]) or min(ids) < 0 or max(ids) >= vocab:
                raise ValueError("ids outside the vocabulary, or without margins")
            if case["values"].shape != case["logit_ids"].shape or not case["values"].size:
                raise ValueError("logits without a value for each id")
            if not 0 < case["rows"] <= 1 << 20:
                raise ValueError("an impossible number of rows")
            cases.append(case)
        if not cases:
            raise ValueError("no image")
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            found_wanted(f"{bundle.path / name}", f"unusable ({error!r})", "recorded images", "export the bundle again")
        ) from error
    return cases
