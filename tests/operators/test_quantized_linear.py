"""What the parity table cannot say of QuantizedLinear's kernel: rows are independent, exact sums, and constants only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.plugins import library_path
from farthing.plugins.case import Case
from farthing.plugins.check.onnxruntime_faces import execute
from farthing.plugins.quantized_linear.cases import WEIGHT

pytestmark = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")

KINDS = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}


def case(seed: int, kind: str, rows: int, k: int, n: int, block: int, zeros: bool) -> Case:
    """Random codes and scales, inputs of very different sizes from group to group."""
    rng = np.random.default_rng(seed)
    low, high = KINDS[kind]
    dtype = np.int8 if low < 0 else np.uint8
    blocks = -(-k // block)
    codes = rng.integers(low, high, (k, n)).astype(dtype)
    scales = np.exp(rng.normal(0, 1, (blocks, n))).astype(np.float32)
    middle = rng.integers(low, high, (blocks, n)).astype(dtype) if zeros else None
    x = (rng.standard_normal((rows, k)) * np.exp(rng.normal(0, 2, (rows, 1)))).astype(np.float32)
    nibbles = (("codes", kind), ("zeros", kind)) if kind.endswith("4") else ()
    inputs = [x, codes, scales, middle]
    return Case("QuantizedLinear", "made", inputs, {"block_size": block}, constants=WEIGHT, nibbles=nibbles)


SHAPES = {
    "seed": st.integers(0, 2**16),
    "kind": st.sampled_from(sorted(KINDS)),
    "rows": st.integers(1, 20),
    "k": st.integers(1, 150),
    "n": st.integers(1, 40),
    "block": st.sampled_from([16, 32, 64, 256]),
    "zeros": st.booleans(),
}


@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_a_row_does_not_depend_on_the_others(
    seed: int, kind: str, rows: int, k: int, n: int, block: int, zeros: bool
) -> None:
    made = case(seed, kind, rows, k, n, block, zeros)
    together = execute(made, kernels=True, function=False)["y"]
    for row in {0, rows // 2, rows - 1}:
        alone = replace(made, inputs=[made.inputs[0][row : row + 1], *made.inputs[1:]])  # type: ignore[index]
        assert np.array_equal(execute(alone, kernels=True, function=False)["y"][0], together[row])


@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_it_is_the_product_of_rounded_inputs(
    seed: int, kind: str, rows: int, k: int, n: int, block: int, zeros: bool
) -> None:
    """The definition in numpy: inputs rounded to 8 bits in groups of min(block, 32), all else in float64."""
    made = case(seed, kind, rows, k, n, block, zeros)
    x, codes, scales, middle = made.inputs
    assert x is not None and codes is not None and scales is not None
    wide = codes.astype(np.float64)
    if middle is not None:
        wide -= np.repeat(middle.astype(np.float64), block, 0)[:k]
    wide *= np.repeat(scales.astype(np.float64), block, 0)[:k]
    group = min(block, 32)
    padded = np.zeros((rows, -(-k // group) * group), np.float32)
    padded[:, :k] = x
    parts = padded.reshape(rows, -1, group)
    largest = np.abs(parts).max(-1, keepdims=True)
    steps = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    rounded = (np.rint(parts * steps).astype(np.float64) * (largest / np.float32(127))).reshape(rows, -1)[:, :k]
    size = np.abs(rounded) @ np.abs(wide) + 1e-30
    # A product next to the middle of two steps may fall to either side, by one step of that input.
    edge = np.abs(np.abs(parts * steps - np.rint(parts * steps)) - 0.5).reshape(rows, -1)[:, :k] < 1e-4
    slack = (edge * np.repeat(largest[..., 0] / 127, group, 1)[:, :k]) @ np.abs(wide)
    apart = np.abs(execute(made, kernels=True, function=False)["y"] - rounded @ wide)
    shifts = (
        np.abs(rounded) @ np.repeat(scales.astype(np.float64), block, 0)[:k] * 256
    )  # what zero points add and take away
    assert (apart <= 4e-6 * (size + shifts) + slack * 1.01).all()


def test_a_weight_made_in_the_graph_is_refused() -> None:
    made = replace(case(0, "int8", 2, 32, 4, 32, True), constants=())
    with pytest.raises(Exception, match="weight is computed in the graph, expected codes, scales and zeros"):
        execute(made, kernels=True, function=False)
    with pytest.raises(Exception, match="weight is computed in the graph"):
        execute(replace(made, constants=("codes", "scales")), kernels=True, function=False)
