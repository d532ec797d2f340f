"""Are image codes less like language than text? The claims of Chan et al. 2024 on Fashion-MNIST, with as many symbols and tokens on both sides.

    python benchmarks/token_statistics.py --vq build/images/vq8.safetensors [--images 10000] [--json F] [--plot F.png]

Images: the 10,000 test pictures of Fashion-MNIST, by a trained tokenizer of 256 codes (examples/images). Text: the sources of Python's standard
library, byte-level BPE of 256 symbols learnt from them; bytes, 512 and 1,024 symbols beside it, for what the choice of symbols does.

A claim holds when the intervals of both sides do not overlap.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from farthing.calibration.token_statistics import Analysis, Stream, analyze_tokens, read_codes, recommend, stream_of
from farthing.calibration.token_statistics.show import plot, table
from farthing.calibration.token_statistics.text import text_stream, train_tokenizer
from farthing.calibration.visual.intervals import Interval

VOCAB = 256
SYNTHETIC = 100_000
"""Tokens of the streams with known entropy and exponent."""


def sources() -> list[str]:
    """The standard library's own modules, without its tests and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
    files = [f for f in sorted(root.rglob("*.py")) if not left_out & set(f.relative_to(root).parts)]
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files]
    # Non-ASCII sources would spend symbols on bytes that hardly occur.
    return [text for text in texts if text.isascii()]


class Bytes:
    """The tokenizer without any merge."""

    def encode(self, text: str, add_special_tokens: bool = False) -> Encoded:
        return Encoded(list(text.encode()))

    def get_vocab_size(self) -> int:
        return 256


class Encoded(NamedTuple):
    ids: list[int]


def codes_of(vq_file: Path, images: int) -> np.ndarray:
    """int64 [N,g,g] of the first test images, by the tokenizer in a file named after its configuration (vq8, vq16)."""
    import torch
    from image_data import load, pixels
    from image_tokenizers import tokenizer_config
    from safetensors.torch import load_file

    from farthing.models.vq import Vq

    name = next(n for n in ("vq16", "vq8") if n in vq_file.stem)
    vq = Vq(tokenizer_config(name)).eval()
    vq.load_state_dict({k: v.float() for k, v in load_file(vq_file).items()})
    grey = load("test")[0][:images]
    with torch.no_grad():
        made = torch.cat([vq.encode(pixels(grey[i : i + 250])) for i in range(0, len(grey), 250)]).numpy()
    side = round(made.shape[1] ** 0.5)
    return made.reshape(len(made), side, side)


def apart(low: Interval, high: Interval) -> bool:
    return low.high < high.low


def estimators() -> dict[str, object]:
    """Claim 6: streams whose entropy and exponent are known."""
    random = np.random.default_rng(0)
    shares = np.arange(1, VOCAB + 1) ** -1.2
    shares /= shares.sum()
    shape = (SYNTHETIC // 64, 8, 8)
    zipf = analyze_tokens(stream_of(random.choice(VOCAB, shape, p=shares), VOCAB), resamples=20)
    even = analyze_tokens(stream_of(random.integers(0, VOCAB, shape), VOCAB), resamples=20)
    truth = float(-(shares * np.log2(shares)).sum())
    a = zipf.rank_frequency[0].exponent.value
    found = {
        "zipf_a": a,
        "zipf_bits": zipf.entropy[0].block.value,
        "zipf_bits_true": truth,
        "uniform_bits": even.entropy[0].block.value,
    }
    good = abs(a / 1.2 - 1) < 0.05 and abs(found["zipf_bits"] - truth) < 0.05 and abs(found["uniform_bits"] - 8) < 0.05
    return {**found, "holds": bool(good)}


def claims(image: Analysis, text: Analysis, mixed_image: Analysis, mixed_text: Analysis) -> list[tuple[str, str, bool]]:
    """(claim, figures, holds)."""
    h = [a.entropy[0].block for a in (image, text)]
    c = [a.compression.huffman for a in (image, text)]
    t = [a.innovation[0].tokens_to["0.99"] for a in (image, text)]
    g = [a.hits[1].top[1] for a in (image, text)]
    same = all(
        (a.entropy[0].block.value, a.compression.huffman.value)
        == (b.entropy[0].block.value, b.compression.huffman.value)
        for a, b in ((image, mixed_image), (text, mixed_text))
    )
    lost, alone = mixed_text.hits[1].top[1], text.hits[0].top[1]
    return [
        ("1 H_1(image) > H_1(text), bits", f"{h[0]} > {h[1]}", apart(h[1], h[0])),
        ("2 Huffman saves less on images", f"{c[0]} < {c[1]}", apart(c[0], c[1])),
        ("3 images reach 99 % of used codes sooner, tokens", f"{t[0]} < {t[1]}", apart(t[0], t[1])),
        ("4 2-gram top-1: text > image", f"{g[1]} > {g[0]}", apart(g[0], g[1])),
        (
            "5 shuffling within a sentence keeps 1 and 2, destroys 4",
            f"equal: {same}; text 2-gram {g[1]} -> {lost}, 1-gram {alone}",
            same and lost.value < alone.value + 0.1 * (g[1].value - alone.value),
        ),
        (
            "KL of codes to uniform: image < text, bits",
            f"{image.kl_uniform['1']:.3f} < {text.kl_uniform['1']:.3f}",
            apart(h[1], h[0]),
        ),
    ]


def line(a: Analysis) -> str:
    """A row of the docs' table."""
    x, y, d = (a.neighbour(name) for name in ("x", "y", "diagonal"))
    best = a.best_hits()
    return (
        f"| {a.name} | {a.vocab} | {a.tokens:,} | {a.usage.used} | {a.entropy[0].block.value:.2f} | {a.normalised_entropy:.3f} "
        f"| {a.entropy[1].conditional.value:.2f} | {a.compression.huffman.value:.1%} | {a.compression.zlib:.1%} "
        f"| {x.share.value:.1%} / {y.share.value:.1%} / {d.share.value:.1%} "
        f"| {a.hits[0].top[1].value:.1%} | {a.hits[1].top[1].value:.1%} | {best.top[1].value:.1%} ({best.context}) "
        f"| {a.rank_frequency[0].exponent.value:.2f} | {a.innovation[0].tokens_to['0.99'].value:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--vq", type=Path, help="vq8 or vq16, .safetensors")
    given.add_argument("--codes", type=Path, help="Codes of 256 made elsewhere: .npy [N,g,g], or packed")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    start = time.process_time()
    codes = read_codes(arguments.codes)[0] if arguments.codes else codes_of(arguments.vq, arguments.images)
    image = stream_of(codes[: arguments.images], VOCAB)
    grid = (image.codes.shape[1], image.codes.shape[2])
    texts = sources()
    print(f"text: {len(texts)} files, {sum(map(len, texts)):,} characters", flush=True)
    words: dict[str, Stream] = {}
    for vocab in (256, 512, 1024):
        words[f"text, {vocab} symbols"] = text_stream(texts, train_tokenizer(texts, vocab), grid, image.images)
    words["text, bytes"] = text_stream(texts, Bytes(), grid, image.images)
    least = min(image.images, *(w.images for w in words.values()))
    print(f"{least} pieces of {grid[0]}x{grid[1]} on every side", flush=True)
    if least < image.images:
        image = image.drawn(least, 0)
    streams = {"images": image, **{name: w.first(least) for name, w in words.items()}}
    streams["images shuffled"] = streams["images"].shuffled(0)
    streams["text shuffled"] = streams["text, 256 symbols"].shuffled(0)
    streams["noise"] = stream_of(np.random.default_rng(0).integers(0, VOCAB, image.codes.shape), VOCAB)
    found = {}
    for name, stream in streams.items():
        found[name] = analyze_tokens(stream, name, resamples=arguments.resamples)
        print(line(found[name]), flush=True)

    pair = [found["images"], found["text, 256 symbols"]]
    print(table(pair, recommend(found["images"])))
    for name in ("images shuffled", "noise", "text, 256 symbols"):
        told = recommend(found[name])
        print(f"{name}: now {told.now}, to train {told.to_train}")
    proof = claims(*pair, found["images shuffled"], found["text shuffled"])
    for claim, figures, holds in proof:
        print(f"{'holds' if holds else 'FAILS'}  {claim}: {figures}")
    known = estimators()
    print(f"{'holds' if known['holds'] else 'FAILS'}  6 estimators on known streams: {known}")
    print(f"{time.process_time() - start:.0f} CPU s")
    if arguments.plot:
        plot(pair, arguments.plot)
    if arguments.json:
        told = {
            "claims": [{"claim": c, "figures": f, "holds": h} for c, f, h in proof],
            "estimators": known,
            "streams": {n: a.as_json() for n, a in found.items()},
        }
        arguments.json.write_text(json.dumps(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
