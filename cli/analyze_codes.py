"""``farthing analyze-codes``: statistics of image codes, and what they say about decoding."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..errors import RequestError, found_wanted

HELP = """Measure the codes of an image tokenizer as one measures a language, and say which way of decoding suits them.

\b
CODES is one of
  codes.npy     integers [N,H,W], or [N,H*W] with --grid; needs --codebook
  codes.codes   written by --save: packed, without loss
  a bundle      of an image model with its tokenizer's encoder; --images is then a folder of pictures
At least 100 images; a thousand and more for intervals that decide something. Leave out padding and ends of lines.

\b
Measured, each with its definition in the table:
  use          codes that occur, entropy (Miller-Madow), distance from uniform
  entropy      of a code when those to its left are known
  compression  Huffman, zlib, and our file
  neighbours   mutual information to the right, below, and along diagonals
  guesses      how often n-gram tables of other images propose the right code: the most that n-gram drafts can win
  innovation   how soon the codebook was seen, Heaps' law
  rank laws    Zipf, Zipf-Mandelbrot, lognormal, by maximum likelihood
  attention    with --checkpoint: how much of it stays near, layer by layer
Intervals are 95 %, by drawing whole images. N-grams do not cross the ends of rows.

\b
Then, with figures and thresholds (ours), advice on: plain, gsd, lantern, nar, token-shuffle.

\b
--text measures text beside the images: cut to the same shape, as many tokens of both, and unless --tokenizer says
otherwise byte-level BPE with as many symbols as the codebook has.

\b
Examples:
  farthing analyze-codes codes.npy --codebook 16384 --grid 16
  farthing analyze-codes bundle --images photos --save photos.codes --plot codes.png
  farthing analyze-codes codes.npy --codebook 256 --text docs/ --json report.json
  farthing analyze-codes bundle --images photos --checkpoint llamagen-b
Exit codes: 0 done, 2 bad request, 3 bad checkpoint, 4 bad bundle, 6 a package is missing.
"""


@click.command("analyze-codes", help=HELP, short_help="Measure image codes, and say how to decode them.")
@click.argument("codes", type=click.Path())
@click.option("--images", type=click.Path(), help="Folder of pictures, where CODES is a bundle.")
@click.option("--codebook", type=int, help="Size V of the tokenizer's codebook. [default: the file's or bundle's]")
@click.option("--grid", help="Rows and columns of an image: 16, or 12x16. [default: the array's or bundle's]")
@click.option("--text", type=click.Path(), help="A text file, or a folder of them, to measure beside the images.")
@click.option("--tokenizer", type=click.Path(), help="A tokenizer.json for the text.")
@click.option(
    "--checkpoint", type=click.Path(), help="A LlamaGen folder over these codes: how local its layers' attention is."
)
@click.option(
    "--top-k", type=click.IntRange(0), default=0, help="Top-k you draw with; warned about if it costs variety."
)
@click.option(
    "--resamples", type=click.IntRange(20, 10000), default=100, show_default=True, help="Draws for intervals."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same report.")
@click.option(
    "--save", type=click.Path(dir_okay=False), help="Write the codes: .npy, or any other name for packed ones."
)
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the figures to this file (.png, .svg, .pdf).")
@click.option(
    "--json",
    "report",
    is_flag=False,
    flag_value="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the report as JSON to this file; alone, or -, print it instead of the table.",
)
@click.option("--no-native", is_flag=True, help="Encode pictures by standard operators only.")
def analyze_codes_command(
    codes: str,
    images: str | None,
    codebook: int | None,
    grid: str | None,
    text: str | None,
    tokenizer: str | None,
    checkpoint: str | None,
    top_k: int,
    resamples: int,
    seed: int,
    save: str | None,
    plot: str | None,
    report: str | None,
    no_native: bool,
) -> None:
    """The command itself; its help is HELP."""
    from ..calibration.token_statistics import analyze_tokens, recommend
    from ..calibration.token_statistics.attention import attention, attention_table
    from ..calibration.token_statistics.files import save_codes, stream_from
    from ..calibration.token_statistics.show import plot as draw
    from ..calibration.token_statistics.show import table
    from ..calibration.token_statistics.text import beside
    from .export import progress_bar

    for option, path in (("--save", save), ("--plot", plot), ("--json", None if report == "-" else report)):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise RequestError(found_wanted(f"folder of {option} {path}", "missing", "a folder", "make it"))
        if path is not None and Path(path).resolve() == Path(codes).resolve():
            raise RequestError(found_wanted(f"{option} {path}", "the codes themselves", "another file", "name it"))
    if tokenizer and not text:
        raise RequestError(found_wanted("--tokenizer", "given without --text", "both or none", "add --text"))
    with progress_bar() as progress:
        stream = stream_from(codes, images, codebook, _grid(grid), native=not no_native, progress=progress)
        # A text that cannot be used is refused before minutes are spent on the images.
        pair = beside(stream, text, tokenizer, seed) if text else None
        looks = attention(stream, checkpoint, seed=seed, progress=progress) if checkpoint else None
        if save:
            save_codes(stream, save)
        found = [analyze_tokens(stream, resamples=resamples, seed=seed, progress=progress)]
        if pair:
            shorter, words = pair
            if shorter is not stream:
                found.append(
                    analyze_tokens(
                        shorter, f"{shorter.images} images", resamples=resamples, seed=seed, progress=progress
                    )
                )
            found.append(analyze_tokens(words, "text", resamples=resamples, seed=seed, progress=progress))
    advice = recommend(found[0], top_k)
    if plot:
        draw(found, plot)
    if report:
        told = {**found[0].as_json(), "recommendation": advice.as_json(), "beside": [f.as_json() for f in found[1:]]}
        if looks:
            told["attention"] = asdict(looks)
        if report == "-":
            click.echo(json.dumps(told))
            return
        try:
            Path(report).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise RequestError(
                found_wanted(f"--json {report}", f"not writable ({error.strerror})", "a file", "choose another")
            ) from error
    click.echo(table(found, advice))
    if looks:
        click.echo("\n" + attention_table(looks))


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(s.isascii() and s.isdigit() and 0 < int(s) < 1 << 16 for s in sides):
        return int(sides[0]), int(sides[-1])
    raise RequestError(
        found_wanted("--grid", repr(text[:40]), "a side such as 16, or rows x columns: 12x16", "correct it")
    )
