"""Claims about the small image models that are not a row of a table: distributions, neighbourhoods of codes, codes in use, likelihoods.

python benchmarks/image_proofs.py first --runs 2000        # speculation draws what plain decoding draws: first codes, chi-square
python benchmarks/image_proofs.py neighbours               # LANTERN's substitutes look like what they stand for
python benchmarks/image_proofs.py codes                    # codes in use and reconstruction of every tokenizer
python benchmarks/image_proofs.py likelihood --states build/images     # bits a code of every trained model, and training's cost
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from image_data import load, pixels
from image_drawing import Bench
from image_methods import SCALE, ways
from image_models import KINDS, with_condition

from farthing.export.checkpoint.llamagen_checkpoint import LlamaGenCheckpoint


def chi_square(a: np.ndarray, b: np.ndarray, codes: int, least: int = 10) -> tuple[float, int, float]:
    """(statistic, degrees of freedom, p) that two samples of codes int [N] have one distribution; rare codes are one cell.

    A cell has ``least`` in both samples together, so that at least 5 are expected in each.
    """
    counts = np.stack([np.bincount(x, minlength=codes) for x in (a, b)]).astype(np.float64)
    common = counts.sum(0) >= least
    cells = np.concatenate([counts[:, common], counts[:, ~common].sum(1, keepdims=True)], 1)
    if cells[:, -1].sum() < least:
        cells[:, -2] += cells[:, -1]
        cells = cells[:, :-1]
    expected = cells.sum(0) * cells.sum(1, keepdims=True) / cells.sum()
    statistic, freedom = float(((cells - expected) ** 2 / expected).sum()), cells.shape[1] - 1
    p = torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.float64), torch.tensor(statistic / 2))
    return statistic, freedom, float(p)


@torch.no_grad()
def surprise(bench: Bench, codes: np.ndarray, label: int) -> np.ndarray:
    """float64 [N]: mean negative log-likelihood of drawn codes [N,64] in the guided distribution that plain decoding draws from.

    It sees what frequencies of single codes do not: drafts that were kept too readily are too likely, or too unlikely.
    """
    model = LlamaGenCheckpoint(bench.examples / "plain8").model
    found = []
    for rows in torch.from_numpy(codes).split(100):
        both = [model(with_condition(KINDS["plain8"], rows, torch.full((len(rows),), c))) for c in (label, 10)]
        logs = (both[1] + SCALE * (both[0] - both[1])).log_softmax(-1)
        found.append(-logs.gather(2, rows[..., None])[..., 0].mean(1).double())
    return torch.cat(found).numpy()


PLACES = (0, 1, 2, 3, 18, 27, 36)
"""Codes whose frequencies are compared: the first ones, and some of the middle of an 8x8 grid, where an image's classes differ."""


def first(bench: Bench, runs: int, labels: list[int]) -> None:
    """Codes of one class, of plain decoding and of speculation, under seeds that have nothing in common; the last way is lossy on purpose."""
    known = {w.label: w for w in ways()}
    for label in labels:
        base: np.ndarray | None = None
        for n, name in enumerate(("plain8", "plain8", "gsd-exact", "lantern-exact", "gsd-50")):
            way, seed = known[name], 1_000_000 * (1 + n)
            file = bench.out / f"codes-{label}-{n}-{name}.npy"
            if not file.exists():
                np.save(
                    file, np.concatenate([bench.ask(way, [label] * 100, seed + i).codes for i in range(0, runs, 100)])
                )
            codes = np.load(file)[:runs]
            told = surprise(bench, codes[:1000], label)
            deviation = told.std() / len(told) ** 0.5
            print(f"class {label}, {name}: {told.mean():.4f} +- {deviation:.4f} nats a code by the model", flush=True)
            if base is None:
                base = codes
                continue
            each = [(k, *chi_square(base[:, k], codes[:, k], 256)) for k in PLACES]
            text = ", ".join(f"{k}: {s:.0f} at {f} (p {p:.3f})" for k, s, f, p in each)
            print(f"class {label}, {runs} runs, plain8 against {name}: chi-square of codes {text}", flush=True)


@torch.no_grad()
def neighbours(bench: Bench, deltas: tuple[float, ...] = (0.05, 0.2, 0.4), count: int = 100) -> None:
    """At each place of test images: x, the model's best code; y of A(x), drawn by p; r, any code. Pixels of x against y and r."""
    pair = LlamaGenCheckpoint(bench.examples / "plain8")
    vq = pair.tokenizer
    test, labels = load("test")
    codes = vq.encode(pixels(test[:count]))
    condition = torch.from_numpy(labels[:count])
    with_class = pair.model(with_condition(KINDS["plain8"], codes, condition))
    without = pair.model(with_condition(KINDS["plain8"], codes, torch.full_like(condition, 10)))
    p = (without + SCALE * (with_class - without)).softmax(-1)
    table = vq.table()
    order = (-(table @ table.T) + 4 * torch.eye(len(table))).argsort(-1)[:, :-1]  # itself is last, and left out
    best = p.argmax(-1)
    draw = torch.Generator().manual_seed(0)
    for delta in deltas:
        near = order[best]
        mass = p.gather(2, near)
        running = mass.cumsum(-1)
        inside = running <= delta
        borrowed = (mass * inside).sum(-1)
        some = inside.any(-1) & (borrowed > 0)
        chosen = torch.multinomial((mass * inside + 1e-30).flatten(0, 1), 1, generator=draw).view(best.shape)
        substitute = near.gather(2, chosen[..., None])[..., 0]
        any_code = torch.randint(0, len(table), best.shape, generator=draw)
        near_error, any_error, places = [], [], []
        for place in range(0, codes.shape[1], 3):
            rows = some[:, place].nonzero()[:, 0]
            if not len(rows):
                continue
            images = []
            for ids in (best, substitute, any_code):
                changed = codes[rows].clone()
                changed[:, place] = ids[rows, place]
                images.append(vq.decode(changed).clamp(-1, 1))
            near_error.append((images[1] - images[0]).square().mean((1, 2, 3)))
            any_error.append((images[2] - images[0]).square().mean((1, 2, 3)))
            places.append(len(rows))
        one, other = torch.cat(near_error), torch.cat(any_error)
        apart = other - one
        print(
            f"delta {delta}: borrowed at most {float(borrowed.max()):.4f}, mean {float(borrowed.mean()):.4f}, "
            f"{float(inside.sum(-1).float().mean()):.1f} neighbours; pixel mse of substitutes {float(one.mean()):.5f}, "
            f"of any code {float(other.mean()):.5f}, apart {float(apart.mean()):.5f} +- {float(apart.std() / len(apart) ** 0.5):.5f} "
            f"at {sum(places)} places",
            flush=True,
        )


def codes_in_use(states: Path) -> None:
    """Of 10,000 test images: codes taken, entropy; squared error is in the report of training."""
    for name in ("vq8", "bae8", "vq16"):
        if not (states / f"{name}.pt").exists():
            continue
        ids = torch.load(states / f"{name}-test.pt", weights_only=True).long().flatten()
        share = torch.bincount(ids, minlength=256).double() / len(ids)
        bits = float(-(share[share > 0] * share[share > 0].log2()).sum())
        often = int((share * len(ids) >= 64).sum())
        print(f"{name}: {int((share > 0).sum())} of 256 codes used, {often} at least 64 times, {bits:.3f} of 8 bits")


def likelihood(states: Path) -> None:
    """What training said of each stage, and its CPU seconds."""
    for path in sorted(states.glob("*.pt")):
        if "-train" in path.name or "-test" in path.name:
            continue
        held = torch.load(path, weights_only=True)["held"]
        print(f"{path.stem}: {held['step']} steps, {held['seconds']:.0f} CPU s, {held['report']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=("first", "neighbours", "codes", "likelihood"))
    parser.add_argument("--examples", type=Path, default=Path("examples/images"))
    parser.add_argument("--out", type=Path, default=Path("build/images/methods"))
    parser.add_argument("--states", type=Path, default=Path("build/images"))
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--classes", default="9", help="Of claim first.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.claim == "codes":
        codes_in_use(args.states)
    elif args.claim == "likelihood":
        likelihood(args.states)
    elif args.claim == "first":
        first(Bench(args.examples, args.out), args.runs, [int(c) for c in args.classes.split(",")])
    else:
        neighbours(Bench(args.examples, args.out))


if __name__ == "__main__":
    main()
