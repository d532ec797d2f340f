"""``farthing inspect``: what is in a bundle, and what it will need."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ..errors import BundleError, RequestError, found_wanted

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle

MARGIN = 150 << 20
"""Bytes beside weights and cache: Python, onnxruntime, tokenizer and scratch. The bound our tests hold the runtime to."""

HELP = """Show what is in a bundle: model, files, quantisation, origin, the memory it needs, and its nodes.

\b
Nothing is run, and hashes are not recomputed (`farthing verify` does both).
Memory is weights + key/value cache at --context (or recurrent state) + a margin of 150 MiB for everything else.
Node counts need the package onnx (farthing[export]); without it the rest is shown.

\b
Examples:
  farthing inspect smollm2
  farthing inspect smollm2 --context 8192
  farthing inspect smollm2 --json

\b
Exit codes: 0 shown, 2 bad request, 4 bundle damaged or from the future.
"""


@click.command("inspect", help=HELP, short_help="Show what is in a bundle and the memory it needs.")
@click.argument("bundle", type=click.Path())
@click.option(
    "--context", type=int, help="Cache slots to reckon with. Default: what the model was trained for, at most 2048."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object, for scripts.")
def inspect_command(bundle: str, context: int | None, as_json: bool) -> None:
    from ..runtime.bundle import open_bundle

    opened = open_bundle(bundle, hashes=False, networks=True)
    if opened.is_network:
        from ._network import inspect_network, inspect_text

        report = inspect_network(opened, _graph(opened, "network"), MARGIN)
        lines = [inspect_text(report), *([] if as_json else _graph_lines("network", report["graphs"]["network"]))]
        click.echo(json.dumps(report) if as_json else "\n".join(lines))
        return
    report = inspect(opened, context)
    click.echo(json.dumps(report) if as_json else _text(report))


def inspect(bundle: Bundle, context: int | None = None) -> dict[str, Any]:
    """Everything the command shows, as plain data; sizes in bytes. Raises RequestError for a context below 1."""
    m = bundle.manifest
    trained = m["model"]["max_positions"]
    if context is None:
        context = min(trained, 2048)
    if not 1 <= context < 2**31:
        raise RequestError(found_wanted("context", context, f"1 to {2**31 - 1}", "correct --context"))
    kv = bundle.kv_bytes(context)
    return {
        "path": str(bundle.path),
        "name": m["name"],
        "format_version": m["format_version"],
        "method": m["method"],
        "model": m["model"],
        "state": m.get("state"),
        "vision": m.get("vision"),
        "tokenizer": m["tokenizer"],
        "quantization": m["quantization"],
        "provenance": m["provenance"],
        "files": {name: entry["bytes"] for name, entry in sorted(m["files"].items())},
        "memory": {
            "context": context,
            "beyond_training": context > trained,
            "weights": bundle.weight_bytes,
            "kv": kv,
            "kv_dtype": m["kv"]["dtype"] if "kv" in m else None,
            "margin": MARGIN,
            "total": bundle.weight_bytes + kv + MARGIN,
        },
        "graphs": {name: _graph(bundle, name) for name in sorted(m["graphs"])},
    }


def _graph(bundle: Bundle, name: str) -> dict[str, Any] | None:
    """Counts of one graph, or None where onnx is not installed."""
    try:
        import onnx
    except ImportError:
        return None
    path = bundle.graph(name)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own error classes differ between its implementations
        raise BundleError(
            found_wanted(f"graph {path}", f"not readable as ONNX ({error})", "an ONNX model", "export the bundle again")
        ) from error
    operators = Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph.node)
    # Nodes are named after their first output, and inner values after their layer.
    outputs = [n.output[0].split(".") for n in model.graph.node if n.output]
    per_layer = Counter(
        int(parts[1]) for parts in outputs if parts[0] == "layers" and parts[1:2] and parts[1].isdigit()
    )
    types: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        types[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += 1
    return {
        "nodes": len(model.graph.node),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        "nodes_per_layer": [per_layer[i] for i in range(bundle.manifest["model"].get("layers", 0))],
        "weights": dict(sorted(types.items())),
        "bodies": {f"{f.domain}::{f.name}": len(f.node) for f in sorted(model.functions, key=lambda f: f.name)},
    }


def _text(report: dict[str, Any]) -> str:
    model, memory, method = report["model"], report["memory"], report["method"]
    quantization, origin = report["quantization"], report["provenance"]
    lines = [
        f"{report['name']}  ({report['path']}, format {report['format_version']})",
        f"  method      {method['id']}: {method['procedure']}, {method['guarantee']}",
        f"  model       {model['family']}, {model['parameters'] / 1e6:.1f} M parameters, {model['layers']} layers of "
        f"{model['hidden_size']}, {_mixer(model)}, vocabulary {model['vocab_size']}, "
        f"trained for {model['max_positions']} positions",
        f"  weights     {_weights(quantization)}",
        f"  tokenizer   {_tokenizer(report['tokenizer'])}",
        f"  from        {origin['checkpoint']['kind']} {origin['checkpoint']['name']} "
        f"(sha256 {origin['checkpoint']['sha256'][:12]}...), "
        + ", ".join(f"{name} {version}" for name, version in sorted(origin["versions"].items())),
        "  files",
        *(f"    {size:>14,}  {name}" for name, size in report["files"].items()),
        f"  memory at a context of {memory['context']}"
        + (" (more than the model was trained for)" if memory["beyond_training"] else ""),
        *(
            f"    {memory[part] / 2**20:>10.1f} MiB  {what}"
            for part, what in (
                ("weights", "weights"),
                ("kv", _carried(report)),
                ("margin", "margin for onnxruntime, tokenizer and scratch"),
                ("total", "in all"),
            )
        ),
    ]
    if report["vision"]:
        lines[4:4] = _vision_lines(report["vision"])
    levelled = {n for level in (report["vision"] or {"levels": []})["levels"] for n in _graphs_of(level)}
    levelled -= {"project", "visual_step"}
    for name, graph in report["graphs"].items():
        if name not in levelled:
            lines += _graph_lines(name, graph)
    if levelled:
        lines.append(f"  and {len(levelled)} graphs of levels, which borrow the weights of these (--json lists them)")
    return "\n".join(lines)


def _graphs_of(level: dict[str, Any]) -> list[str]:
    return [where[kind] for where in level.get("buckets", [level]) for kind in ("project", "step")]


def _vision_lines(vision: dict[str, Any]) -> list[str]:
    """What images become: views, and the levels with their numbers of tokens."""
    cut, grid = vision["preprocess"], vision["grid"]
    kinds = {"clip": "one view", "anyres": "a thumbnail and tiles", "qwen2_vl": "its own size"}
    size = f"{grid} x {grid} tokens each"
    if cut["kind"] == "qwen2_vl":
        unit = (cut["patch"] * cut["merge"]) ** 2
        size = f"{max(1, cut['min_pixels'] // unit)} to {cut['max_pixels'] // unit} tokens"
    lines = [
        f"  images      {vision['family']}: {kinds[cut['kind']]}, {size}, positions {vision['positions']}"
        + (f", dropped before layer {vision['prune_layer']}" if "prune_layer" in vision else "")
    ]
    for level in vision["levels"]:
        sizes = [b["tokens"] for b in level.get("buckets", [])]
        if sizes:
            told = f"{sizes[0]} to {sizes[-1]} tokens" if len(sizes) > 1 else f"{sizes[0]} tokens"
        else:
            told = f"{(grid // level['pool']) ** 2} tokens a view" if "pool" in level else "all tokens"
        default = "  (unless a request says otherwise)" if level["id"] == vision["level"] else ""
        lines.append(f"    {level['id']:<9} {told}, {level['ratio']:.0%} dropped{default}")
    choice = vision.get("choice", {})
    if choice.get("level") == vision["level"]:
        data = choice.get("data")
        name = data.get("name") if isinstance(data, dict) else None
        lines.append(
            f"    chosen by tune-visual: {choice.get('by')} of {choice.get('measure')} at most {choice.get('most')} "
            f"on {choice.get('items')} questions of {name}"
        )
    return lines


def _mixer(model: dict[str, Any]) -> str:
    if "slots" in model:
        return f"{model['slots']} memory slots, convolutions of {model['kernel_size']}, {model['receptive_field']} tokens in sight"
    return f"{model['heads']} heads over {model['kv_heads']}"


def _carried(report: dict[str, Any]) -> str:
    if state := report["state"]:
        return f"state, {state['layers']} x {state['rows']} rows of {state['width']}, the same for every context"
    memory = report["memory"]
    return f"key/value cache, {memory['kv_dtype']}, {memory['kv'] // memory['context']:,} bytes a token"


def widths_text(quantization: dict[str, Any]) -> str:
    """How many matrices have which width, of a bundle made within a number of bytes."""
    counts = Counter(quantization["layers"].values())
    shown = ", ".join(f"{width} in {count}" for width, count in sorted(counts.items()))
    return f"{shown} matrices (within {quantization['budget']['limit'] / 1e6:.1f} MB)"


def _weights(quantization: dict[str, Any]) -> str:
    matrices = quantization["weights"]
    text = f"{matrices} matrices" if "layers" not in quantization else widths_text(quantization)
    if "block" in quantization:
        text += f" in blocks of {quantization['block']}"
    text += f", {quantization.get('embedding', matrices)} embedding, {quantization.get('head', matrices)} head"
    return text + (f", {quantization['memory']} memory banks" if "memory" in quantization else "")


def _tokenizer(tokenizer: dict[str, Any] | None) -> str:
    if tokenizer is None:
        return "none: token ids in, token ids out"
    template = "with a chat template" if tokenizer["chat_template"] else "no chat template"
    return f"{tokenizer['vocab_size']} ids, end of text {tokenizer['eos_ids']}, {template}"


def _graph_lines(name: str, graph: dict[str, Any] | None) -> list[str]:
    if graph is None:
        return [f"  graph {name}: its nodes are counted where onnx is installed (pip install 'farthing[export]')"]
    lines = [f"  graph {name}: {graph['nodes']} nodes"]
    if per_layer := graph["nodes_per_layer"]:
        low, high = min(per_layer), max(per_layer)
        lines[0] += f", {low if low == high else f'{low} to {high}'} per layer"
    lines += [
        f"    {count:>6}  {operator}"
        + (f"  (body of {graph['bodies'][operator]} nodes)" if operator in graph["bodies"] else "")
        for operator, count in graph["operators"].items()
    ]
    kinds = ", ".join(f"{count} {kind}" for kind, count in graph["weights"].items())
    return [*lines, f"    initializers: {kinds}"]
