"""What every operator declares: its contract, its reference and its body.

The contract is data (names, shapes, dtypes, cost), the reference is a PyTorch function that computes the real thing, and
the body is an ONNX function of standard opset-24 operators. A graph that uses the operator carries the body as a
model-local function, so it runs anywhere; where our library is registered, the kernel runs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

OPSET = 24
"""Opset of the default domain in every graph and body we write."""

IR_VERSION = 11
"""ONNX IR version of every graph we write: the first that knows opset 24's operators in ONNX Runtime 1.24 and later."""


DTYPES = ("float32", "float16", "int8", "uint8", "int32", "int64", "bool")
"""The dtypes a port may have, by their numpy names."""

KINDS = ("int", "float", "string")
"""The kinds of attributes."""


@dataclass(frozen=True)
class Port:
    """One input or output.

    ``shape`` is symbolic: a name is one size throughout the node, ``...`` any number of leading sizes (the same wherever it
    stands), ``1`` a size, ``2*F`` or ``(H+2*Hkv)*dh`` a formula in sizes and attributes. ``dtypes``: those it may have.
    An output with several has the dtype of input ``like``. ``alias`` names the input whose buffer an output may share:
    state that is updated in place. The body copies; kernels must give the same result with and without sharing.
    """

    name: str
    shape: tuple[str, ...]
    dtypes: tuple[str, ...]
    doc: str
    optional: bool = False
    like: str | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise ValueError(
                    f"dtype of {self.name} is {dtype!r}, expected one of {', '.join(DTYPES)}; correct the contract"
                )


@dataclass(frozen=True)
class Attribute:
    """One attribute: ``kind`` is ``int``, ``float`` or ``string``; a ``default`` of None means required.

    ``choices`` are all values a string may have.
    """

    name: str
    kind: str
    doc: str
    default: int | float | str | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"kind of {self.name} is {self.kind!r}, expected one of {', '.join(KINDS)}; correct the contract"
            )


BodyBuilder = Callable[[Mapping[str, Any], Sequence[bool]], "onnx.FunctionProto"]
"""(attributes of the node, which inputs are present) -> the function that computes the node with standard operators."""


@dataclass(frozen=True)
class Operator:
    """An operator with the faces that live in Python.

    ``cost`` is a formula in the symbols of the shapes, for documents. ``symbols`` maps a symbol of the shapes to the
    attribute that gives it, e.g. ``{"H": "num_heads"}``. ``rules`` raises ValueError for attributes that do not fit each other.
    ``errors`` says what is refused.
    """

    name: str
    doc: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: tuple[Attribute, ...]
    cost: str
    errors: tuple[str, ...]
    body: BodyBuilder
    reference: Callable[..., Any]
    symbols: Mapping[str, str] = field(default_factory=dict)
    rules: Callable[[Mapping[str, Any]], None] | None = None

    @property
    def summary(self) -> str:
        """The first paragraph of ``doc``, for tables."""
        return self.doc.split("\n\n")[0]

    def with_defaults(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """``attributes`` completed by defaults. Raises ValueError for a missing, unknown or wrongly typed one."""
        known = {a.name: a for a in self.attributes}
        for name in attributes:
            if name not in known:
                raise ValueError(
                    f"{self.name}: attribute is {name!r}, expected one of {', '.join(known) or 'none'}; remove it"
                )
        complete = {a.name: _value(self.name, a, attributes.get(a.name, a.default)) for a in self.attributes}
        if self.rules:
            self.rules(complete)
        return complete


def _value(operator: str, attribute: Attribute, value: Any) -> Any:
    found = f"{operator}: attribute {attribute.name} is"
    if value is None:
        raise ValueError(f"{found} missing, expected a {attribute.kind}; set it, it has no default")
    wanted = {"int": int, "float": (int, float), "string": str}[attribute.kind]
    if isinstance(value, bool) or not isinstance(value, wanted):  # type: ignore[arg-type]
        raise ValueError(f"{found} {value!r}, expected a {attribute.kind}; correct the node")
    if attribute.choices and value not in attribute.choices:
        raise ValueError(f"{found} {value!r}, expected one of {', '.join(attribute.choices)}; correct the node")
    return value
