"""What every operator declares: its contract, its reference and its body.

The contract is data (names, shapes, dtypes, cost), the reference is a PyTorch function that computes the real thing, and
the body is an ONNX function of standard opset-24 operators. A graph that uses the operator carries the body as a
model-local function, so it runs anywhere; where our library is registered, the kernel runs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

OPSET = 24
"""Opset of the default domain in every graph and body we write."""

IR_VERSION = 11
"""ONNX IR version of every graph we write: the first that knows opset 24's operators in ONNX Runtime 1.24 and later."""


@dataclass(frozen=True)
class Port:
    """One input or output: symbolic shape and the dtypes it may have (ONNX names, e.g. ``float32``)."""

    name: str
    shape: tuple[str, ...]
    dtypes: tuple[str, ...]
    doc: str
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """One attribute: ``kind`` is ``int`` or ``float``; a ``default`` of None means required."""

    name: str
    kind: str
    doc: str
    default: int | float | None = None


BodyBuilder = Callable[[Mapping[str, Any], Sequence[bool]], "onnx.FunctionProto"]
"""(attributes of the node, which inputs are present) -> the function that computes the node with standard operators."""


@dataclass(frozen=True)
class Operator:
    """An operator with the faces that live in Python. ``cost`` is a formula in the symbols of the shapes, for documents."""

    name: str
    doc: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: tuple[Attribute, ...]
    cost: str
    errors: tuple[str, ...]
    body: BodyBuilder
    reference: Callable[..., Any]
