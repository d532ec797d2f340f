"""Train the small image models of examples/images, stage by stage; resumable: run it again to go on.

    python benchmarks/train_image_fixture.py --out build/images                  # every stage that is shipped or measured
    python benchmarks/train_image_fixture.py --out build/images --stage plain8   # one; those it rests on must be done
    python benchmarks/train_image_fixture.py --out build/images --ship examples/images

judge                          the classifier that drawn images are judged by
vq8, vq16                      tokenizers: 32x32 pixels to 8x8 or 16x16 codes of 256
bae8                           the same for ELM: 8x8 codes of 8 bits
plain8, plain16                LlamaGen, raster order
drafter                        EAGLE's layer on plain8, for LANTERN
nar16                          Neighbouring AR: a trunk like plain16's and one block more
shuffle16, shuffle16-4         Token-Shuffle, windows of 2x2 and 4x4; pool16: its control without the compression table
elm8, elm8-1x8, elm8-4x2       ELM with 2 sub-codes of 4 bits, 1 of 8, 4 of 2: equal steps
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from image_data import load, pixels
from image_models import KINDS, Codes, DrafterTrainer, bits_a_code, build, trainer
from image_scores import Classifier, batched
from image_ship import ship
from image_tokenizers import BaeTrainer, Signed, VqTrainer, encode_all, tokenizer_config
from image_training import Plan, fit
from torch import nn
from torch.nn import functional as F

PLANS = {
    "judge": Plan(number=1, steps=1500, batch=96, rate=3e-3),
    "vq8": Plan(number=2, steps=1400, batch=32, rate=2e-3, decay=0.0),
    "vq16": Plan(number=3, steps=800, batch=32, rate=2e-3, decay=0.0),
    "bae8": Plan(number=4, steps=1000, batch=32, rate=2e-3, decay=0.0),
    "plain8": Plan(number=5, steps=3000, batch=32, rate=3e-3),
    "drafter": Plan(number=6, steps=1200, batch=32, rate=3e-3),
    "elm8": Plan(number=7, steps=1200, batch=32, rate=3e-3),
    "elm8-1x8": Plan(number=7, steps=1200, batch=32, rate=3e-3),
    "elm8-4x2": Plan(number=7, steps=1200, batch=32, rate=3e-3),
    "plain16": Plan(number=8, steps=1500, batch=16, rate=3e-3),
    "nar16": Plan(number=8, steps=1500, batch=16, rate=3e-3),
    "shuffle16": Plan(number=8, steps=1500, batch=16, rate=3e-3),
    "shuffle16-4": Plan(number=8, steps=1500, batch=16, rate=3e-3),
    "pool16": Plan(number=8, steps=1500, batch=16, rate=3e-3),
}
"""Models that are compared have one number and so see the same images in the same order."""


def judge(out: Path, seed: int) -> None:
    plan, model = PLANS["judge"], Classifier()
    images, labels = load("train")

    def loss(step: int, draw: np.random.Generator) -> torch.Tensor:
        rows = draw.integers(0, len(images), plan.batch)
        moved = np.roll(images[rows], draw.integers(-1, 2, 2), (1, 2))
        return F.cross_entropy(model(pixels(moved)).float(), torch.from_numpy(labels[rows]))

    def report() -> str:
        test, right = load("test")
        return f"{(batched(model, pixels(test)).argmax(1) == right).mean():.4f} of 10,000 test images right"

    fit(out, "judge", plan, model, loss, seed=seed, report=report)


def keep_codes(out: Path, name: str, model: nn.Module) -> None:
    """Codes of every image, computed once."""
    for split in ("train", "test"):
        if not (out / f"{name}-{split}.pt").exists():
            torch.save(encode_all(model, split), out / f"{name}-{split}.pt")


def vq(name: str, out: Path, seed: int) -> None:
    plan = PLANS[name]
    held = VqTrainer(tokenizer_config(name), plan.steps, plan.batch)
    fit(out, name, plan, held, held.loss, seed=seed, report=held.report, before=held.before)
    keep_codes(out, name, held.vq)


def bae(out: Path, seed: int) -> None:
    held = BaeTrainer(PLANS["bae8"].batch)
    fit(out, "bae8", PLANS["bae8"], held, held.loss, seed=seed, report=held.report)
    keep_codes(out, "bae8", Signed(held.bae))


def autoregressive(name: str, out: Path, seed: int) -> None:
    kind, plan = KINDS[name], PLANS[name]
    codes = Codes(out, kind.tokenizer)
    torch.manual_seed(seed * 1000 + plan.number)
    model = build(kind)
    report = f"{{:.4f}} bits a code on {2000} test images"
    fit(
        out,
        name,
        plan,
        model,
        trainer(kind, model, codes, plan),
        seed=seed,
        report=lambda: report.format(bits_a_code(kind, model, codes)),
    )


def drafter(out: Path, seed: int) -> None:
    target, plan = build(KINDS["plain8"]), PLANS["drafter"]
    target.load_state_dict(torch.load(out / "plain8.pt", weights_only=True)["model"])
    torch.manual_seed(seed * 1000 + plan.number)
    held = DrafterTrainer(target, Codes(out, "vq8"), plan)  # type: ignore[arg-type]
    fit(out, "drafter", plan, held, held.loss, seed=seed, report=held.report)


STAGES: dict[str, Callable[[Path, int], None]] = {
    "vq8": partial(vq, "vq8"),
    "judge": judge,
    "vq16": partial(vq, "vq16"),
    "plain8": partial(autoregressive, "plain8"),
    "drafter": drafter,
    "bae8": bae,
    **{n: partial(autoregressive, n) for n in ("elm8", "nar16", "plain16", "shuffle16", "elm8-1x8", "elm8-4x2")},
}
LEFT_OUT = {n: partial(autoregressive, n) for n in ("shuffle16-4", "pool16")}
"""Controls that run by name alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/images"))
    parser.add_argument("--stage", choices=[*STAGES, *LEFT_OUT], help="Only this one; default: all, in this order.")
    parser.add_argument(
        "--ship", type=Path, metavar="FOLDER", help="Train nothing; write the finished models to FOLDER."
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ship:
        ship(args.out, args.ship)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in [args.stage] if args.stage else STAGES:
        {**STAGES, **LEFT_OUT}[stage](args.out, args.seed)


if __name__ == "__main__":
    main()
