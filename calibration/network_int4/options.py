"""What can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError, found_wanted
from ..quantize.options import BITS, LARGEST_BLOCK, SMALLEST_BLOCK

ROUNDINGS = ("nearest", "gptq", "awq", "awq+gptq")
TABLES = ("float32", "int8")


@dataclass(frozen=True)
class WeightOptions:
    """``weights`` int4 or int8, in blocks of ``block`` inputs; ``rounding`` as in `farthing.calibration.quantize`; ``symmetric`` False gives
    every block a zero point, None 4-bit ones only, True makes a graph for TensorRT, which has none; ``embedding`` int8 (a scale a row) or float32, for tables that ids are looked up in;
    ``budget``: bytes of graph and weights at most, with which each weight gets its own width, and ``weights`` is left aside."""

    weights: str = "int4"
    block: int = 32
    rounding: str = "gptq"
    symmetric: bool | None = None
    embedding: str = "int8"
    budget: int | None = None

    def checked(self) -> WeightOptions:
        """Itself. Raises RequestError."""
        for what, found, known in (
            ("--weights", self.weights, tuple(BITS)),
            ("--rounding", self.rounding, ROUNDINGS),
            ("--embedding", self.embedding, TABLES),
        ):
            if found not in known:
                raise RequestError(
                    found_wanted(f"{what} for a network", repr(found), f"one of {', '.join(known)}", f"correct {what}")
                )
        block = self.block
        if block & (block - 1) or not SMALLEST_BLOCK <= block <= LARGEST_BLOCK:
            raise RequestError(
                found_wanted(
                    "--block", block, f"a power of two from {SMALLEST_BLOCK} to {LARGEST_BLOCK}", "32 is usual"
                )
            )
        return self

    def block_of(self, inputs: int) -> int | None:
        """Inputs of a matrix with ``inputs`` that share a scale. With ``symmetric`` True the graph is for TensorRT, which takes whole blocks only:
        a smaller power of two where ``block`` does not divide the inputs, None where not even the smallest does."""
        if not self.symmetric:
            return self.block
        block = self.block
        while inputs % block and block > SMALLEST_BLOCK:
            block //= 2
        return None if inputs % block else block

    def is_symmetric(self, bits: int) -> bool:
        """Whether blocks of ``bits`` do without a zero point."""
        return bits == 8 if self.symmetric is None else self.symmetric
