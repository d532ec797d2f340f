"""The documentation of the operators, written from their contracts: ``farthing ops list --markdown`` > docs/operators.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from . import DOMAIN, DOMAIN_VERSION, folders, operators
from .contract import Attribute, Operator, Port

FACES = (
    # name, file that must be in the folder, where it is proved
    ("reference", "operator.py", "float32 against float64, on the CPU"),
    ("body", "operator.py", "run by ONNX Runtime; built by TensorRT-RTX for SM 86, 89 and 120"),
    ("CPU kernel", "kernel.cc", "run in ONNX Runtime, every instruction set"),
    (
        "CUDA kernel",
        "kernel.cuh",
        "run on the CPU, thread by thread; compiled for SM 87, 89, 110, 120; untested on GPU",
    ),
    (
        "TensorRT plugin",
        "launch.cu",
        "compiled, registered and interrogated without a device; enqueue is untested on GPU",
    ),
)
"""The faces of an operator, and what a machine without a GPU proves of each."""


def present_faces(name: str) -> list[tuple[str, str]]:
    """(face, where it is proved) of operator ``name``, by the files in its folder."""
    return [(face, proof) for face, file, proof in FACES if (folders()[name] / file).is_file()]


def as_data(contract: Operator) -> dict[str, Any]:
    """The contract as plain data."""
    return {
        "name": contract.name,
        "domain": DOMAIN,
        "version": DOMAIN_VERSION,
        "doc": contract.doc,
        "inputs": [asdict(p) for p in contract.inputs],
        "outputs": [asdict(p) for p in contract.outputs],
        "attributes": [asdict(a) for a in contract.attributes],
        "cost": contract.cost,
        "errors": list(contract.errors),
        "faces": [face for face, _ in present_faces(contract.name)],
    }


def page() -> str:
    """The Markdown page of all operators."""
    lines = [
        "# Operators",
        "",
        "<!-- Written by `farthing ops list --markdown`; edit the contracts in plugins/*/operator.py instead. -->",
        "",
        f"Domain `{DOMAIN}`, version {DOMAIN_VERSION}. Every graph carries the body of each operator it uses, so it runs without",
        "any library of ours; kernels and plugins make it faster. `farthing ops check` runs the parity table on your machine.",
        "",
        "| operator | what | faces |",
        "|---|---|---|",
    ]
    for name, contract in operators().items():
        faces = ", ".join(face for face, _ in present_faces(name))
        lines.append(f"| [{name}](#{name.lower()}) | {contract.summary} | {faces} |")
    lines += ["", "What a machine without a GPU proves of each face:", "", "| face | proof |", "|---|---|"]
    lines += [f"| {face} | {proof} |" for face, _, proof in FACES]
    lines.append("")
    for name, contract in operators().items():
        lines += _section(name, contract)
    return "\n".join(lines)


def _section(name: str, contract: Operator) -> list[str]:
    lines = [f"## {name}", "", contract.doc, "", "| tensor | shape | dtypes | what |", "|---|---|---|---|"]
    lines += [_port(p, "input") for p in contract.inputs] + [_port(p, "output") for p in contract.outputs]
    if contract.attributes:
        lines += ["", "| attribute | kind | default | what |", "|---|---|---|---|"]
        lines += [_attribute(a) for a in contract.attributes]
    if contract.symbols:
        lines += ["", "Sizes: " + ", ".join(f"{s} = `{a}`" for s, a in contract.symbols.items()) + "."]
    lines += ["", f"Cost: {contract.cost}.", "", "Refused: " + "; ".join(contract.errors) + ".", ""]
    return lines


def _port(port: Port, kind: str) -> str:
    notes = port.doc
    if port.optional:
        notes += " (optional)"
    if port.alias:
        notes += f" (may share the buffer of `{port.alias}`)"
    dtypes = f"that of `{port.like}`" if port.like else ", ".join(port.dtypes)
    return f"| {kind} `{port.name}` | [{', '.join(port.shape)}] | {dtypes} | {notes} |".replace("*", "\\*")


def _attribute(attribute: Attribute) -> str:
    default = "required" if attribute.default is None else f"{attribute.default}"
    notes = attribute.doc + (f": {', '.join(attribute.choices)}" if attribute.choices else "")
    return f"| `{attribute.name}` | {attribute.kind} | {default} | {notes} |"
