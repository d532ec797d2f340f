"""``farthing quantize`` of networks that are run once per input, and what it says of widths and losses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..errors import RequestError, found_wanted

if TYPE_CHECKING:
    from ..calibration.evaluate_network import NetworkEvaluation
    from ..calibration.static import StaticOptions


def given_by_name(name: str) -> bool:
    """Whether an option was named on the command line."""
    from click.core import ParameterSource

    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def quantize_network_weights(
    bundle: str, out: str, text: str | None, images: str | None, budget: int | None, as_json: bool
) -> None:
    """A network's weights alone."""
    from ..calibration.network_int4 import WeightOptions, quantize_weights
    from .export import progress_bar

    given = click.get_current_context().params
    for name in ("head", "kv", "no_measure", "ranges", "smooth", "keep", "target"):
        if given_by_name(name):
            raise RequestError(
                found_wanted(
                    f"--{name.replace('_', '-')} for int4 weights of a network",
                    repr(given[name]),
                    "absent",
                    "leave it out",
                )
            )
    if budget is not None and given_by_name("weights"):
        raise RequestError(
            found_wanted("--weights", repr(given["weights"]), "absent with --budget, which chooses", "leave it out")
        )
    options = WeightOptions(
        block=given["block"],
        rounding=given["rounding"] or "gptq",
        symmetric=given["symmetric"],
        embedding=given["embedding"] if given_by_name("embedding") else "int8",
        budget=budget,
    )
    with progress_bar() as progress:
        r = quantize_weights(bundle, out, options, text=text, images=images, progress=progress)
    if as_json:
        click.echo(json.dumps(r.as_json()))
        return
    click.echo(
        f"{r.path}: {counts(r.widths)}, blocks of {options.block}, rounding {options.rounding}, {r.seconds:.1f} s\n"
        f"graph, MB         {r.source_bytes / 1e6:.1f} -> {r.bytes / 1e6:.1f}"
    )
    if options.rounding.startswith("awq"):
        click.echo(f"scaled            {r.scaled} of {len(r.widths)}: where a normalisation takes the factors")
    if r.search is not None:
        click.echo("\n".join(candidates(r.search)))
    for name, why in r.left.items():
        click.echo(f"  stays float     {name}: {why}")
    _network_loss(r.loss)


def counts(widths: dict[str, str]) -> str:
    """How many matrices have which width."""
    used = list(widths.values())
    return "matrices " + ", ".join(f"{width} {used.count(width)}" for width in sorted(set(used)))


def candidates(search: dict[str, Any]) -> list[str]:
    rows = (f"  {c['name']:<28}{c['bytes'] / 1e6:>8.2f} MB   KL {c['kl']:.4g}" for c in search["candidates"])
    return [
        f"within {search['limit'] / 1e6:.2f} MB, KL on the calibration data:",
        *rows,
        f"  taken: {search['chosen']}",
    ]


def _network_loss(loss: NetworkEvaluation) -> None:
    for name in ("rank_correlation", "same_top", "correlation"):
        if (interval := getattr(loss, name)) is not None:
            click.echo(f"  {name.replace('_', ' '):<18}{interval}")
    if loss.same_top_clear is not None:
        click.echo(f"  {'where it is clear':<18}{loss.same_top_clear} ({loss.clear_items} items)")
    if loss.divergence is not None:
        click.echo(f"  KL of {loss.divergence.kind:<12}{loss.divergence.kl}")
    click.echo(f"on {loss.items} items of {loss.data} that did not calibrate (sha256 {loss.sha256[:12]})")


def quantize_network_int8(
    bundle: str, out: str, text: str | None, images: str | None, options: StaticOptions, as_json: bool
) -> None:
    """A network's weights and activations."""
    from ..calibration.static import quantize_network
    from .export import progress_bar

    context = click.get_current_context()
    decoders = ("weights", "kv", "block", "embedding", "head", "symmetric", "no_measure")
    for name in decoders:
        if given_by_name(name) and not (name == "weights" and context.params[name] == "int8"):
            raise RequestError(
                found_wanted(
                    f"--{name.replace('_', '-')} for a network that is run once per input",
                    repr(context.params[name]),
                    "absent: weights and activations become int8",
                    "leave it out",
                )
            )
    with progress_bar() as progress:
        r = quantize_network(bundle, out, options, text=text, images=images, progress=progress)
    if as_json:
        click.echo(json.dumps(r.as_json()))
        return
    click.echo(
        f"{r.path}: int8 in {r.quantized} of {r.layers} layers, ranges by {r.options.ranges}, {r.smoothed} smoothed, {r.centred} centred, "
        f"rounding {r.options.rounding}, {r.seconds:.1f} s\n"
        f"graph, MB         {r.source_bytes / 1e6:.1f} -> {r.bytes / 1e6:.1f}"
    )
    for what, names in (("kept in float", r.kept), ("never anything but 0, kept in float", r.silent)):
        if names:
            click.echo(f"{what}: {', '.join(names)}")
    if r.search:
        click.echo(
            f"{r.kept_share:.2%} of the weights in float for a {r.search['measure'].replace('_', ' ')} of {r.search['value']:.4f} "
            f"on the calibrating half (target {r.search['target']:g})"
        )
    _network_loss(r.loss)
