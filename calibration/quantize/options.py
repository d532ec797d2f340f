"""What can be chosen, and the check that it makes sense."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import RequestError, found_wanted

BITS = {"int4": 4, "int8": 8}
"""Integer weight types of a Linear with their width."""

SMALL_FLOATS = ("fp8", "nvfp4")
"""Weight types for TensorRT on devices that compute with them (`farthing.calibration.quantize.small_floats`)."""

EMBEDDINGS = ("float32", "float16", "int8", "same")
HEADS = ("int4", "int8", "float16", "float32", "same")
CACHES = ("float32", "int8")
SAME = "same"

ROUNDINGS = ("nearest", "gptq", "awq", "awq+gptq")

SMALLEST_BLOCK = 16
"""ONNX Runtime fuses blocks of powers of two from here on."""

LARGEST_BLOCK = 256


@dataclass(frozen=True)
class Options:
    """How a bundle is quantised.

    ``weights`` int4, int8, fp8 or nvfp4 for all matrices of the layers; ``head`` for the output matrix; ``embedding`` for the table of token
    vectors (``same``: as in the source); ``block`` inputs share a scale. ``symmetric`` False gives every block a zero point, True
    gives none; None, the default, gives one to 4-bit blocks only: that is where it pays (docs/quantize.md has the figures). ``rounding``: ``nearest``, or ``gptq`` for
    matrices of the layers, by what their inputs are like on a text (`farthing.calibration.quantize.gptq`), or ``awq``, ``awq+gptq`` (`farthing.calibration.quantize.awq`). ``budget``: bytes of graphs and
    weights at most; every matrix then gets its own width (`farthing.calibration.quantize.budget`), and ``weights`` and ``head`` are left aside.
    ``kv`` int8 stores keys and values as codes, with static scales found on a text (`farthing.calibration.quantize.cache`).
    ``weights`` and ``head`` may be ``same``, too.
    """

    weights: str = "int4"
    block: int = 32
    embedding: str = "float16"
    head: str = "int8"
    symmetric: bool | None = None
    rounding: str = "nearest"
    budget: int | None = None
    kv: str = "float32"

    def checked(self, source_embedding: str, source_weights: str = "float32", source_head: str = "float32") -> Options:
        """These options with every field known and ``same`` resolved. Raises RequestError."""
        _one_of("--weights", self.weights, (*BITS, *SMALL_FLOATS, SAME))
        _one_of("--kv", self.kv, CACHES)
        _one_of("--embedding", self.embedding, EMBEDDINGS)
        _one_of("--head", self.head, HEADS)
        _one_of("--rounding", self.rounding, ROUNDINGS)
        if self.weights in SMALL_FLOATS and self.rounding != "nearest":
            raise RequestError(
                found_wanted("--rounding", repr(self.rounding), f"nearest for {self.weights}", "leave it out")
            )
        if self.weights in SMALL_FLOATS and self.budget is not None:
            raise RequestError(found_wanted("--budget", self.budget, f"absent for {self.weights}", "leave it out"))
        block = self.block
        if block & (block - 1) or not SMALLEST_BLOCK <= block <= LARGEST_BLOCK:
            raise RequestError(
                found_wanted(
                    "--block",
                    block,
                    f"a power of two from {SMALLEST_BLOCK} to {LARGEST_BLOCK}",
                    "32 is the usual choice",
                )
            )
        if self.weights == SAME and (self.rounding != "nearest" or self.budget is not None):
            what = "--budget" if self.budget is not None else "--rounding"
            raise RequestError(found_wanted(what, "given", "absent with --weights same", "leave it out"))
        wanted = (
            ("embedding", self.embedding, source_embedding),
            ("weights", self.weights, source_weights),
            ("head", self.head, source_head),
        )
        resolved = {name: has if asked == SAME else asked for name, asked, has in wanted}
        if self.kv == "float32" and all(resolved[name] == has for name, _, has in wanted):
            raise RequestError(
                found_wanted("what is to change", "nothing", "weights, head, embedding or cache", "name one of them")
            )
        return replace(self, embedding=resolved["embedding"], weights=resolved["weights"], head=resolved["head"])

    def is_symmetric(self, bits: int) -> bool:
        """Whether blocks of ``bits`` do without a zero point."""
        return bits == 8 if self.symmetric is None else self.symmetric


def _one_of(what: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise RequestError(found_wanted(what, repr(found), f"one of {', '.join(known)}", f"correct {what}"))
