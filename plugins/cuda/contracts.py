"""Write the contracts of all operators with a launch.cu as C++, for the CUDA and TensorRT faces: python contracts.py ROOT OUTPUT

There is one contract, in operator.py; what C++ knows of ports, attributes and symbolic shapes is generated from it when the
library is built. ROOT is the repository (importable as a package under a name of our own, so nothing has to be installed).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_plugins(root: Path) -> ModuleType:
    """The package ``plugins`` of this source tree, without importing the package around it."""
    spec = importlib.util.spec_from_file_location(
        "farthing_contracts", root / "plugins" / "__init__.py", submodule_search_locations=[str(root / "plugins")]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["farthing_contracts"] = module
    spec.loader.exec_module(module)
    return module


def quoted(text: str) -> str:
    """A C++ string literal."""
    return json.dumps(text)


def _strings(values: Any) -> str:
    return "{" + ", ".join(quoted(v) for v in values) + "}"


def _port(port: Any, inputs: list[str]) -> str:
    like = inputs.index(port.like) if port.like else -1
    alias = inputs.index(port.alias) if port.alias else -1
    types = "{" + ", ".join(f"Type::{_TYPES[d]}" for d in port.dtypes) + "}"
    return f"{{{quoted(port.name)}, {_strings(port.shape)}, {types}, {str(port.optional).lower()}, {like}, {alias}}}"


_TYPES = {"float32": "f32", "float16": "f16", "int8": "i8", "int32": "i32", "int64": "i64", "bool": "b8"}


def _attribute(attribute: Any) -> str:
    empty = {"int": "std::int64_t{0}", "float": "0.0f", "string": 'std::string("")'}[attribute.kind]
    value = empty
    if attribute.default is not None:
        value = {
            "int": lambda v: f"std::int64_t{{{int(v)}}}",
            "float": lambda v: f"static_cast<float>({float(v)!r})",
            "string": lambda v: f"std::string({quoted(v)})",
        }[attribute.kind](attribute.default)
    required = str(attribute.default is None).lower()
    return f"{{{quoted(attribute.name)}, {value}, {required}, {_strings(attribute.choices)}}}"


def source(operators: dict[str, Any]) -> str:
    """The body of ``contracts()``."""
    lines = ["// Written by plugins/cuda/contracts.py from plugins/*/operator.py."]
    for contract in operators.values():
        names = [p.name for p in contract.inputs]
        symbols = ", ".join(f"{{{quoted(s)}, {quoted(a)}}}" for s, a in contract.symbols.items())
        lines.append(f"{{{quoted(contract.name)},")
        lines.append(" {" + ",\n  ".join(_port(p, names) for p in contract.inputs) + "},")
        lines.append(" {" + ",\n  ".join(_port(p, names) for p in contract.outputs) + "},")
        lines.append(" {" + ",\n  ".join(_attribute(a) for a in contract.attributes) + "},")
        lines.append(f" {{{symbols}}}}},")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    plugins = load_plugins(Path(sys.argv[1]))
    launched = {n: c for n, c in plugins.operators().items() if (plugins.folders()[n] / "launch.cu").is_file()}
    written = source(launched)
    target = Path(sys.argv[2])
    # An unchanged file keeps its date, so that nothing is compiled again.
    if not target.is_file() or target.read_text(encoding="utf-8") != written:
        target.write_text(written, encoding="utf-8")
