"""Tables, ratios and the plot, made from the result dictionary alone (so a saved JSON file can be shown again)."""

from pathlib import Path

CLASSES = ("fp32", "fp16", "int8", "int4")
COLORS = {"fp32": "#8a8f98", "fp16": "#7c6bb0", "int8": "#3f8f8c", "int4": "#3b6ea8", "farthing": "#c8742b"}
BEGIN, END = "<!-- peers:begin (written by benchmarks/peers.py) -->", "<!-- peers:end -->"
HEAD = [
    "peer",
    "class",
    "weights MB",
    "decode tok/CPU-s",
    "prefill tok/CPU-s",
    "spread",
    "peak RSS MB",
    "open s",
    "decode tok/s, 2 thr",
    "prefill tok/s, 2 thr",
    "load",
    "ids = HF",
]


def cells(row: dict) -> list[str]:
    """One table line as text; a failed row keeps its place and says why in `failures`."""
    if "reason" in row:
        return [row["label"], row["precision"], *["-"] * (len(HEAD) - 2)]
    one, two = row["one"], row.get("two")
    wall = [f"{two['decode']:.1f}", f"{two['prefill']:.0f}", f"{two['load']:.1f}"] if two else ["-"] * 3
    agree = "-" if row["agree"] is None else f"{row['agree']}/{row['new']}"
    return [
        row["label"],
        row["precision"],
        f"{row['bytes'] / 1e6:.0f}",
        f"{one['decode']:.1f}",
        f"{one['prefill']:.0f}",
        f"{one['spread'] * 100:.0f}%",
        f"{row['rss'] / 1e6:.0f}",
        f"{row['open']['wall']:.2f}",
        *wall,
        agree,
    ]


def ordered(rows: list[dict]) -> list[dict]:
    """By class, then fastest decode first; failures last in their class."""
    return sorted(rows, key=lambda r: (CLASSES.index(r["precision"]), -(r["one"]["decode"] if "one" in r else 0)))


def failures(rows: list[dict]) -> list[str]:
    return [f"{row['label']} {row['precision']}: {row['reason']}" for row in rows if "reason" in row]


def ratios(rows: list[dict]) -> list[str]:
    """farthing over the best peer in each class and phase: CPU seconds at one thread, the gate.

    Given twice: of the medians, and of each side's best run, which a busy minute of the machine moves less.
    """
    lines = []
    good = [row for row in rows if "one" in row]
    for precision in ("fp32", "int8", "int4"):
        ours = [row for row in good if row["peer"] == "farthing" and row["precision"] == precision]
        peers = [row for row in good if row["peer"] != "farthing" and row["precision"] == precision]
        for phase in ("decode", "prefill"):
            if not peers:
                continue
            best = max(peers, key=lambda row: row["one"][phase])
            text = f"{precision} {phase}: best peer {best['label']} {best['one'][phase]:.1f} tok/CPU-s"
            if ours:
                value, top = ours[0]["one"][phase], max(row["one"][phase + "_best"] for row in peers)
                text += (
                    f", farthing {value:.1f}, ratio {value / best['one'][phase]:.2f} "
                    f"(best runs {ours[0]['one'][phase + '_best'] / top:.2f})"
                )
            else:
                text += ", farthing not measured"
            lines.append(text)
    return lines


def plain(table: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))) for line in table
    )


def show(result: dict) -> str:
    """The whole report for a terminal."""
    parts = []
    for name, rows in result["models"].items():
        table = [[cell.replace("*", "") for cell in line] for line in [HEAD, *map(cells, ordered(rows))]]
        parts += [
            f"\n== {name}: {result['prompt']} prompt ids, {result['new']} new, greedy, batch 1 ==",
            plain(table),
            *("failed: " + line.replace("*", "") for line in failures(rows)),
            *ratios(rows),
        ]
    return "\n".join(parts)


def markdown(result: dict, image: str | None) -> str:
    machine = result["machine"]
    where = f"{machine['cpu']} ({', '.join(machine['cpu_flags'])}), {machine['cores']} cores"
    lines = [
        BEGIN,
        f"Measured {result['date']} on {where}; {result['prompt']} prompt ids, {result['new']} new, greedy, "
        f"batch 1, median of {result['runs']}. Rates per CPU second use one thread and count every thread of the process; "
        "wall rates use two threads on a machine that was doing other work too (see load), so read them as information. "
        "`spread`: (max - min) / median of decode. `ids = HF`: leading ids equal to transformers fp32. Quantised rows use "
        "each peer's own defaults: some also quantise activations or compute in bf16.",
        "",
    ]
    if image:
        lines += [f"![decode and prefill rates of every peer]({image})", ""]
    for name, rows in result["models"].items():
        lines += [f"### {name}", "", "| " + " | ".join(HEAD) + " |", "|---|---|" + "---:|" * (len(HEAD) - 2)]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in ordered(rows)]
        lines += ["", *(f"- failed: {line}" for line in failures(rows)), *(f"- {line}" for line in ratios(rows)), ""]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    return "\n".join([*lines, f"Versions: {versions}.", END])


def write_docs(result: dict, page: Path) -> None:
    """Replace our block in `page` (or start the page) and write the plot beside it."""
    image = page.parent / "img" / "peers.png"
    image = image if plot(result, image) else None
    block = markdown(result, "img/peers.png" if image else None)
    text = page.read_text() if page.exists() else f"# Benchmarks\n\n## Against other runtimes\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text:
        text += f"\n## Against other runtimes\n\n{BEGIN}\n{END}\n"
    start, stop = text.index(BEGIN), text.index(END) + len(END)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text[:start] + block + text[stop:])


def plot(result: dict, path: Path) -> bool:
    """Horizontal bars, decode left and prefill right, a row of panels per model."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is missing, expected for the plot; pip install matplotlib")
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = {name: [row for row in ordered(rows) if "one" in row] for name, rows in result["models"].items()}
    height = sum(0.6 + 0.27 * len(rows) for rows in models.values())
    figure, grid = plt.subplots(
        len(models),
        2,
        figsize=(11, height + 0.6),
        squeeze=False,
        layout="constrained",
        height_ratios=[max(1, len(rows)) for rows in models.values()],
    )
    for line, (name, rows) in zip(grid, models.items()):
        labels = [f"{row['label'].replace('*', '')} {row['precision']}" for row in rows]
        colors = [COLORS["farthing" if row["peer"] == "farthing" else row["precision"]] for row in rows]
        for axis, phase in zip(line, ("decode", "prefill")):
            values = [row["one"][phase] for row in rows]
            bars = axis.barh(range(len(rows)), values, color=colors)
            axis.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
            axis.set_yticks(range(len(rows)), labels if phase == "decode" else [""] * len(rows), fontsize=8)
            axis.invert_yaxis()
            axis.margins(x=0.12)
            axis.set_title(f"{name}: {phase}, tokens per CPU second, 1 thread", fontsize=9)
            axis.tick_params(axis="x", labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
