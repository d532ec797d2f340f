"""CachedAttention with named rows: what a path of a tree or a block of masks computes is bit for bit plain decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.plugins import library_path
from farthing.plugins.cached_attention.visible import (
    block_positions,
    block_sees,
    pack_rows,
    tree_sees,
    unpack_rows,
)
from farthing.plugins.case import Case, floats
from farthing.plugins.check.onnxruntime_faces import execute

needs_kernels = pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")

HEADS, KV_HEADS, DIM, CAPACITY = 6, 2, 20, 192


class Pass:
    """Random rows with positions over a random past; `run` any selection of them by the kernel."""

    def __init__(self, rows: int, past: int, window: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.qkv = floats(rng, rows, (HEADS + 2 * KV_HEADS) * DIM)
        self.past, self.window = past, window
        self.cache = [floats(rng, 1, KV_HEADS, CAPACITY, DIM) for _ in range(2)]

    def run(self, rows: list[int], positions: np.ndarray, visible: np.ndarray | None = None) -> dict[str, np.ndarray]:
        angles = (self.past + positions)[None, :, None] * np.linspace(0.01, 1, DIM // 2)
        inputs = [
            self.qkv[rows][None],
            np.cos(angles).astype(np.float32),
            np.sin(angles).astype(np.float32),
            *self.cache,
            np.array([self.past], np.int64),
        ]
        if visible is not None:
            inputs += [None, None, visible[None]]
        attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "scale": DIM**-0.5, "window": self.window}
        return execute(Case("CachedAttention", "property", inputs, attributes), kernels=True, function=False)


@needs_kernels
@settings(max_examples=30, deadline=None)
@given(
    choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=70),
    past=st.one_of(st.integers(0, 120), st.sampled_from([62, 63, 64, 65])),
    window=st.sampled_from([0, 3, 66, 100]),
)
def test_a_path_of_a_tree_is_plain_decoding(choices, past, window) -> None:
    parents = [-1, *(c % (i + 1) for i, c in enumerate(choices[1:]))]
    sees = tree_sees(parents)
    depth = sees.sum(1) - 1
    cut = bool(window) and depth.max() >= window
    if cut:  # rows of the pass that the window has passed are for the caller to leave out
        for row in range(len(parents)):
            path = np.flatnonzero(sees[row])
            sees[row, path[: max(0, len(path) - window)]] = False
    whole = Pass(len(parents), past, window, seed=past * 7 + len(parents))
    tree = whole.run(list(range(len(parents))), depth, pack_rows(sees))
    leaf = len(parents) - 1
    path = np.flatnonzero(tree_sees(parents)[leaf]).tolist()
    plain = whole.run(path, np.arange(len(path)))
    if cut:  # its rows then begin at another place of a tile, and sums are made in another order
        np.testing.assert_allclose(tree["y"][0, path], plain["y"][0], atol=2e-5)
        return
    assert tree["y"][0, path].tobytes() == plain["y"][0].tobytes()
    # KvCompact then leaves the cache of plain decoding.
    moved = execute(
        Case(
            "KvCompact",
            "property",
            [
                tree["present_k"],
                tree["present_v"],
                *(np.array(a, np.int64) for a in ([past], [path], [len(path)])),
            ],
        ),
        kernels=True,
        function=False,
    )
    end = past + len(path)
    for name in ("present_k", "present_v"):
        assert moved[name][:, :, :end].tobytes() == plain[name][:, :, :end].tobytes()


@needs_kernels
@settings(max_examples=20, deadline=None)
@given(real=st.integers(1, 9), masks=st.integers(1, 8), past=st.integers(0, 70), poison=st.booleans())
def test_real_rows_are_what_they_are_without_masks(real, masks, past, poison) -> None:
    """Also when mask rows are NaN, and with 81 rows in two words. Masks see what a chain of the same tokens sees."""
    sees, positions = block_sees(real, masks), block_positions(real, masks)
    block = Pass(len(sees), past, 0, seed=real * 10 + masks)
    if poison:
        block.qkv[real:] = np.nan
    together = block.run(list(range(len(sees))), positions, pack_rows(sees))
    alone = block.run(list(range(real)), np.arange(real))
    assert together["y"][0, :real].tobytes() == alone["y"][0].tobytes()
    assert together["present_k"][:, :, : past + real].tobytes() == alone["present_k"][:, :, : past + real].tobytes()
    if not poison:
        last = [*range(real), *range(len(sees) - masks, len(sees))]
        chain = block.run(last, positions[last])
        assert together["y"][0, last].tobytes() == chain["y"][0].tobytes()


@pytest.mark.parametrize(("real", "masks"), [(1, 4), (5, 4), (9, 8)])
def test_block_rule_is_the_papers(real: int, masks: int) -> None:
    """allow(u, v) of interleaved rows u = g * (k + 1) + r (Samragh et al. 2025), put into our order."""
    u = np.arange(real * (masks + 1))
    g, r = u // (masks + 1), u % (masks + 1)
    allow = ((r[None] == 0) & (u[None] <= u[:, None])) | (
        (g[:, None] == g[None]) & (r[None] > 0) & (r[None] <= r[:, None])
    )
    order = [*u[r == 0], *u[r > 0]]
    assert np.array_equal(block_sees(real, masks), allow[np.ix_(order, order)])
    assert np.array_equal(block_positions(real, masks), (g + r)[order])


@given(rows=st.integers(1, 130), seed=st.integers(0, 99))
def test_bits_round_trip(rows: int, seed: int) -> None:
    sees = np.random.default_rng(seed).integers(0, 2, (2, rows, rows)).astype(bool)
    packed = pack_rows(sees)
    assert packed.shape == (2, rows, (rows + 63) // 64) and packed.dtype == np.int64
    assert np.array_equal(unpack_rows(packed), sees)
    assert (packed[0, 0, 0] >> 3 & 1 == 1) == (rows > 3 and sees[0, 0, 3])


def test_nodes_before_their_parents_are_refused() -> None:
    with pytest.raises(ValueError, match="parent of row 1 is 2, expected -1 to 0"):
        tree_sees([-1, 2, 0])
