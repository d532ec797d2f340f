"""``farthing eval``: how well a bundle models a text."""

from __future__ import annotations

import json

import click

from ..errors import RequestError, found_wanted

HELP = """Read a text with BUNDLE and print perplexity and bits per byte; with --against also how far it is from another bundle of the same tokens.

\b
Examples:
  farthing eval smollm2-int4
  farthing eval smollm2-int4 --against smollm2 --text my-domain.txt --tokens 8192
  farthing eval smollm2-int4 --against smollm2 --json

\b
In brackets: 95 % intervals of a bootstrap over blocks of 64 neighbouring tokens.
  loss        nats per token that BUNDLE loses more than the other
  KL          of the other's distribution to BUNDLE's, nats per token
  same top    share of positions with the same likeliest token
Encoders and vision models are compared with --against on sentences or on --images (each picture whole, mirrored, cropped, darker):
  rank correlation   Spearman's, of the similarities of all pairs of texts
  same top           share of views with the same likeliest class
  correlation        Pearson's of the outputs themselves
  KL                 of the classes; of each text's similarities to all others; of a map's pixels or places
The default text is excerpts of Python's own library, which every machine has. Windows of 512 tokens.
Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed.
"""


@click.command("eval", help=HELP, short_help="Perplexity of a bundle, and its distance from another.")
@click.argument("bundle", type=click.Path())
@click.option(
    "--against", type=click.Path(), help="Another bundle of the same tokens, e.g. the one that was quantised."
)
@click.option("--text", type=click.Path(), help="A UTF-8 text.  [default: excerpts of Python's library]")
@click.option("--tokens", type=int, default=2048, show_default=True, help="Tokens to read, at most.")
@click.option("--images", type=click.Path(), help="Vision models: a folder of pictures.")
@click.option(
    "--items",
    type=int,
    default=128,
    show_default=True,
    help="Encoders, vision models: texts or views of pictures, at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def eval_command(
    bundle: str, against: str | None, text: str | None, tokens: int, images: str | None, items: int, as_json: bool
) -> None:
    """The command itself; its help is HELP."""
    from ..calibration.evaluate import evaluate
    from ..calibration.quality import read_text
    from ..runtime.bundle import open_bundle
    from .export import progress_bar

    if open_bundle(bundle, hashes=False, networks=True).is_network:
        _eval_network(bundle, against, text, images, items, as_json)
        return
    if images is not None:
        raise RequestError(found_wanted("--images", "given", "absent for a model of text", "leave it out"))
    with progress_bar() as progress:
        found = evaluate(bundle, read_text(text), against=against, tokens=tokens, progress=progress)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    click.echo(f"{found.tokens} tokens, {found.size} bytes of {found.text} (sha256 {found.sha256[:12]})")
    rows = [
        ("perplexity", found.perplexity),
        ("  of the other", found.against_perplexity),
        ("bits per byte", found.bits_per_byte),
        ("  of the other", found.against_bits_per_byte),
        ("loss", found.loss),
        ("KL", found.kl),
        ("same top", found.same_top),
    ]
    for name, interval in rows:
        if interval is not None:
            click.echo(f"  {name:<16}{interval}" + (f", largest {found.kl_max:.4g}" if name == "KL" else ""))


def _eval_network(
    bundle: str, against: str | None, text: str | None, images: str | None, items: int, as_json: bool
) -> None:
    from ..calibration.evaluate_network import evaluate_network
    from .export import progress_bar

    if against is None:
        raise RequestError(
            found_wanted(
                "--against", "missing", "a bundle to compare this network with", "name the one it was made from"
            )
        )
    with progress_bar() as progress:
        found = evaluate_network(bundle, against, text=text, images=images, limit=items, progress=progress)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    click.echo(f"{found.items} items of {found.data} (sha256 {found.sha256[:12]})")
    for name in ("rank_correlation", "same_top", "correlation"):
        if (interval := getattr(found, name)) is not None:
            click.echo(f"  {name.replace('_', ' '):<18}{interval}")
    if found.divergence is not None:
        click.echo(f"  KL of {found.divergence.kind:<12}{found.divergence.kl}")
