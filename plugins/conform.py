"""Does a node's input fit the contract? Ranks, dtypes and sizes, by unification of the symbols in ``Port.shape``.

This is what the reference checks before it computes, and it gives the words that every other face must use:
``<operator>: <port> is <found>, expected <wanted>; <how to fix>``.
"""

from __future__ import annotations

import ast
import operator as arithmetic
from collections.abc import Mapping, Sequence
from typing import Any

from .contract import Operator, Port

_OPERATIONS = {
    ast.Add: arithmetic.add,
    ast.Sub: arithmetic.sub,
    ast.Mult: arithmetic.mul,
    ast.FloorDiv: arithmetic.floordiv,
    ast.Div: arithmetic.floordiv,
}

Sizes = dict[str, Any]
"""Symbol -> size; ``...`` -> the tuple of leading sizes; names of attributes -> their values."""


def conform(contract: Operator, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Sizes:
    """The sizes of the symbols, given arrays (anything with ``shape`` and ``dtype``) or None for what is absent.

    Raises ValueError naming the first port that does not fit.
    """
    known: Sizes = contract.with_defaults(attributes)
    known |= {symbol: known[name] for symbol, name in contract.symbols.items()}
    given = dict(zip(contract.inputs, [*inputs, *[None] * (len(contract.inputs) - len(inputs))], strict=True))
    later: list[tuple[Port, str, int, str]] = []
    for port, array in given.items():
        where = f"{contract.name}: {port.name}"
        if array is None:
            if not port.optional:
                raise ValueError(f"{where} is absent, expected a tensor [{','.join(port.shape)}]; connect it")
            continue
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype not in port.dtypes:
            raise ValueError(f"dtype of {where} is {dtype}, expected {' or '.join(port.dtypes)}; cast it")
        later += _bind(port, where, tuple(int(n) for n in array.shape), known)
    for port, formula, size, found in later:
        wanted: int | str | None = _evaluate(formula, known)
        if wanted is None:
            wanted = _solve(formula, size, known)
        if wanted != size:
            raise ValueError(
                f"{contract.name}: {port.name} is {found}, expected {formula} = {wanted} in [{','.join(port.shape)}]; "
                "check what is connected"
            )
    return known


def _bind(port: Port, where: str, shape: tuple[int, ...], known: Sizes) -> list[tuple[Port, str, int, str]]:
    """Give symbols their sizes; what is a formula is returned, to be checked when all symbols are known."""
    found = f"[{','.join(map(str, shape))}]"
    refusal = f"{where} is {found}, expected [{','.join(port.shape)}]"
    symbols = list(port.shape)
    if "..." in symbols:
        at = symbols.index("...")
        spare = len(shape) - (len(symbols) - 1)
        if spare < 0:
            raise ValueError(f"{refusal}; give it more dimensions")
        leading = shape[at : at + spare]
        if known.setdefault("...", leading) != leading:
            wanted = ",".join(map(str, known["..."]))
            raise ValueError(f"{refusal} with leading dimensions [{wanted}]; check what is connected")
        shape = shape[:at] + shape[at + spare :]
        symbols.remove("...")
    if len(symbols) != len(shape):
        raise ValueError(f"{refusal}; check its rank")
    later = []
    for symbol, size in zip(symbols, shape, strict=True):
        if symbol.isidentifier():
            if known.setdefault(symbol, size) != size:
                raise ValueError(f"{refusal} with {symbol} = {known[symbol]}; check what is connected")
        else:
            later.append((port, symbol, size, found))
    return later


def _evaluate(formula: str, known: Sizes) -> int | None:
    """The value of a formula, or None when it has an unknown symbol."""

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return int(known[node.id])
        if isinstance(node, ast.BinOp):
            return int(_OPERATIONS[type(node.op)](value(node.left), value(node.right)))
        raise ValueError(f"formula is {formula!r}, expected sums and products of sizes; correct the contract")

    try:
        return value(ast.parse(formula, mode="eval").body)
    except KeyError:
        return None


def _solve(formula: str, size: int, known: Sizes) -> int | str:
    """``2*F`` with F unknown binds F = size / 2. Returns the size that fits, or what was expected of it."""
    factor, _, symbol = formula.partition("*")
    if not (factor.isdigit() and symbol.isidentifier()):
        return size  # a formula with an unknown that no rule solves: the operator itself has to check
    if size % int(factor):
        return f"a multiple of {factor}"
    known[symbol] = size // int(factor)
    return size
