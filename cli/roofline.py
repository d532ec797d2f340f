"""``farthing roofline``: the machine's peaks, and how near the passes of a bundle come."""

from __future__ import annotations

import json

import click

HELP = """Measure what one thread of this machine reads and computes in a second, and how near the passes of BUNDLE come.

\b
  farthing roofline                       the peaks alone
  farthing roofline bundle
  farthing roofline bundle --rows 1,8,64 --json

\b
A pass reads all weights once and multiplies them with every row; the longer of the two times, at peak, is its bound. Decoding (1 row) is
bound by memory, prefill by arithmetic. The last column is how much of the bound is reached; integer weights multiply integers, which
is faster than the float peak, so theirs may be above 100 %. Operators are timed by ONNX Runtime's profiler.
Run it while nothing else is running. Exit codes: 0 done, 2 bad request, 4 bad bundle, 6 a part is not installed.
"""


@click.command("roofline", help=HELP, short_help="What this machine can do, and how near a bundle comes.")
@click.argument("bundle", type=click.Path(), required=False)
@click.option("--rows", default="1,8,64", show_default=True, help="Rows of the passes, separated by commas.")
@click.option("--past", type=int, default=64, show_default=True, help="Tokens before them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def roofline_command(bundle: str | None, rows: str, past: int, as_json: bool) -> None:
    from ..calibration.op_times import profile
    from ..calibration.roofline import bounds, measure_peaks
    from ..runtime.bundle import open_bundle
    from .options import whole_numbers

    counts = whole_numbers("--rows", rows)
    opened = None if bundle is None else open_bundle(bundle)
    peaks = measure_peaks()
    passes = [] if opened is None else profile(opened, counts, past=past)
    found = [] if opened is None else bounds(opened, [(p.rows, p.past, p.seconds) for p in passes], peaks)
    if as_json:
        made = {"bandwidth": peaks.bandwidth, "flops": peaks.flops, "passes": [b.as_json() for b in found]}
        for one, measured in zip(made["passes"], passes, strict=True):  # type: ignore[call-overload]
            one["operators"] = measured.as_json()["operators"]
        click.echo(json.dumps(made))
        return
    click.echo(f"one thread: {peaks.bandwidth / 1e9:.1f} GB/s from memory, {peaks.flops / 1e9:.0f} GFLOP/s in float32")
    if found:
        click.echo(
            f"\n{'rows':>5}{'takes':>10}{'bound':>10}  {'by':<11}{'weights':>9}{'cache':>8}{'GFLOP':>8}{'reached':>9}"
        )
    for b in found:
        click.echo(
            f"{b.rows:>5}{1e3 * b.seconds:>7.2f} ms{1e3 * b.bound:>7.2f} ms  {b.by:<11}{b.weight_bytes / 1e6:>6.0f} MB"
            f"{b.cache_bytes / 1e6:>5.1f} MB{b.flop / 1e9:>8.2f}{100 * b.share:>7.0f} %"
        )
    for p in passes:
        click.echo(f"\n{p.rows} row(s) over {p.past} tokens, {1e3 * p.seconds:.2f} ms")
        for o in [o for o in p.operators if o.seconds > 0.002 * p.seconds]:
            click.echo(
                f"  {o.name:<22}{o.nodes:>4} nodes{1e3 * o.seconds:>9.3f} ms{100 * o.seconds / p.seconds:>6.1f} %"
            )
        click.echo(
            f"  {'between operators':<22}{'':>10}{1e3 * p.between:>9.3f} ms{100 * p.between / p.seconds:>6.1f} %"
        )
