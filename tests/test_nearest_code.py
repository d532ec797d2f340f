"""NearestCode beyond its table: the codes that the image tokenizer's reference gives, and properties on random tables."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.models.vq import Vq, VqConfig
from farthing.plugins import library_path, operator
from farthing.plugins.case import Case
from farthing.plugins.check.graph import model
from farthing.plugins.nearest_code.cases import scores

NEAR = 1e-5
"""How near the scores of two codes may be, over the latent's length, for rounding to decide between them."""
FACES = ["reference", "body"] + (["kernel"] if library_path() else [])


@cache
def session(face: str, normalize: int) -> onnxruntime.InferenceSession:
    ones = [np.ones((1, 1), np.float32)] * 2
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if face == "kernel":
        options.register_custom_ops_library(str(library_path()))
    made = model(Case("NearestCode", "any", ones, {"normalize": normalize}), dynamic=("N", "V", "E"))
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(face: str, latents: np.ndarray, table: np.ndarray, normalize: int) -> np.ndarray:
    if face == "reference":
        tensors = (torch.from_numpy(a) for a in (latents, table))
        codes: np.ndarray = operator("NearestCode").reference(*tensors, normalize=normalize).numpy()
        return codes
    made: np.ndarray = session(face, normalize).run(["codes"], {"latents": latents, "table": table})[0]
    return made


@pytest.mark.parametrize("face", FACES)
def test_the_codes_of_the_image_tokenizer(face: str) -> None:
    torch.manual_seed(0)
    vq = Vq(VqConfig(codes=300, code_dim=8, channels=32, multipliers=(1, 2), latent=16, blocks=1)).eval()
    with torch.no_grad():
        pixels = torch.rand(2, 3, 32, 32) * 2 - 1
        wanted = vq.encode(pixels).numpy()
        latents = vq.quant_conv(vq.encoder(pixels)).flatten(2).transpose(1, 2).reshape(-1, 8).contiguous().numpy()
        table = vq.quantize.embedding.weight.numpy()
    codes = run(face, latents, table, 1).reshape(wanted.shape)
    assert len(set(wanted.ravel().tolist())) > 20
    best = np.sort(scores(latents, table, 1), axis=1)
    length = np.linalg.norm(latents, axis=1)
    clear = ((best[:, -1] - best[:, -2]) > NEAR * length).reshape(wanted.shape)
    assert clear.mean() > 0.98
    assert (codes == wanted)[clear].all()


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Latents, a table with copies of rows, normalize."""
    rows, codes, width = draw(st.integers(1, 40)), draw(st.integers(1, 200)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = rng.standard_normal((codes, width)).astype(np.float32)
    if draw(st.booleans()):
        table = table[rng.integers(0, codes, codes)]
    latents = rng.standard_normal((rows, width)).astype(np.float32)
    if draw(st.booleans()):
        latents[rng.integers(0, rows)] = table[rng.integers(0, codes)]
    return latents, table * np.float32(draw(st.sampled_from([0.01, 1, 50]))), draw(st.integers(0, 1))


@pytest.mark.parametrize("face", FACES)
@settings(max_examples=100, deadline=None)
@given(problems())
def test_no_code_is_nearer(face: str, problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    latents, table, normalize = problem
    codes = run(face, latents, table, normalize)
    if normalize:
        lengths = [np.maximum(np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True), 1e-12) for a in problem[:2]]
        latents, table = latents / lengths[0], table / lengths[1]
    x, e = latents.astype(np.float64), table.astype(np.float64)
    apart = np.sqrt(((x[:, None] - e[None]) ** 2).sum(-1))
    chosen = np.take_along_axis(apart, codes[:, None], 1)[:, 0]
    # A float32 square is good to some 1e-6 of the lengths' squares.
    slack = 1e-6 * ((x * x).sum(1) + (e * e).sum(1).max() + 1) * 4
    assert (chosen**2 <= apart.min(1) ** 2 + slack).all()


@pytest.mark.skipif(library_path() is None, reason="libfarthing_ops.so is not built")
@settings(max_examples=100, deadline=None)
@given(problems())
def test_of_equal_codes_the_kernel_takes_the_first(problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    latents, table, normalize = problem
    for code in run("kernel", latents, table, normalize):
        assert code == np.flatnonzero((table == table[code]).all(1))[0]


@pytest.mark.skipif(library_path() is None, reason="libfarthing_ops.so is not built")
def test_a_latent_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(2)
    latents, table = (rng.standard_normal((n, 8)).astype(np.float32) for n in (37, 1000))
    together: Any = run("kernel", latents, table, 1)
    assert [run("kernel", one[None], table, 1)[0] for one in latents] == together.tolist()
