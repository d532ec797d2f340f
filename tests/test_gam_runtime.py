"""Decoding with a constant state, on both engines: equality, going back, the last position, saved states, bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import engines
import gam_models
import numpy as np
import pytest
import torch
from gam_models import CONFIG, PROMPT, bundle, greedy

from farthing.errors import BundleError, RequestError
from farthing.runtime import portable
from farthing.runtime.api import Runtime, load
from farthing.runtime.bundle import open_bundle
from farthing.runtime.engines import native_parts, onnxruntime_library

both = pytest.mark.parametrize("native", engines.ENGINES)
REACH = CONFIG.layers * (CONFIG.kernel_size - 1)


def opened(native: bool, **options: Any) -> Runtime:
    return load(bundle(), native=native, **{"threads": 1, **options})


def fresh_logits(native: bool, ids: list[int]) -> np.ndarray:
    with opened(native) as model:
        model.prefill(ids)
        return model.logits()


@both
def test_greedy_equals_full_recomputation(native: bool) -> None:
    with opened(native) as model:
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=40, greedy=True)
    assert made.ids == greedy(40, PROMPT) and made.stop_reason == "length"
    assert made.stats["passes"] == 40 and made.stats["rows"] == len(PROMPT) + 39


@both
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 256])
def test_any_chunking_of_the_prompt(native: bool, chunk: int) -> None:
    if native:
        parts = native_parts()
        engine = parts.core.Engine(
            str(bundle()), 1, 96, str(onnxruntime_library() or ""), str(parts.ops_library), True, chunk
        )
    else:
        engine = portable.PortableEngine(open_bundle(bundle()), 1, 96, chunk)
    made = engine.generate(PROMPT, {"max_new_tokens": 20, "temperature": 0.0}, None)
    assert made["ids"] == greedy(20, PROMPT)


@both
def test_extend_and_go_back(native: bool) -> None:
    """A verifier's step: rows of a draft in one pass, then any number of them kept without another one."""
    draft = greedy(6, PROMPT)
    with torch.no_grad():
        wanted = gam_models.model()(torch.tensor([PROMPT + draft]))[0][0, len(PROMPT) :].numpy()
    for kept in range(7):
        with opened(native) as model:
            model.prefill(PROMPT)
            rows = model.extend(draft)
            np.testing.assert_allclose(rows, wanted, atol=1e-4)
            assert np.array_equal(model.logits(), rows[-1])
            model.rewind(len(PROMPT) + kept)
            assert model.tokens == PROMPT + draft[:kept]
            model.prefill([9])
            np.testing.assert_allclose(model.logits(), fresh_logits(native, [*PROMPT, *draft[:kept], 9]), atol=2e-5)


@both
@pytest.mark.parametrize("length", [0, 1, REACH - 1, REACH, REACH + 1, 30, 49])
def test_going_back_beyond_the_last_pass(native: bool, length: int) -> None:
    """The state is made again from the last L(k-1) tokens, which is all it depends on."""
    ids = np.random.default_rng(4).integers(0, 256, 50).tolist()
    with opened(native) as model:
        model.prefill(ids[:25])
        for token in ids[25:]:
            model.prefill([token])
        model.rewind(length)
        assert model.length == length
        with pytest.raises(RequestError, match="logits"):
            model.logits()
        model.prefill([77])
        np.testing.assert_allclose(model.logits(), fresh_logits(native, [*ids[:length], 77]), atol=2e-5)


def test_going_back_is_exact_with_kernels() -> None:
    """Kernels give a row the same bits whatever its company, so a state made again is the same state."""
    if native_parts().missing:
        pytest.skip(str(native_parts().missing))
    ids = np.random.default_rng(6).integers(0, 256, 60).tolist()
    with opened(True) as model:
        model.prefill(ids)
        model.prefill([1, 2, 3])
        model.rewind(40)
        model.prefill([77])
        assert np.array_equal(model.logits(), fresh_logits(True, [*ids[:40], 77]))


@both
def test_reuse_prefix(native: bool) -> None:
    with opened(native) as model:
        model.generate(prompt_ids=[*PROMPT, 1, 2, 3], max_new_tokens=5, greedy=True)
        made = model.generate(prompt_ids=[*PROMPT, 4], max_new_tokens=9, greedy=True, reuse_prefix=True)
    assert made.ids == greedy(9, [*PROMPT, 4]) and made.stats["prompt_tokens"] == 1


@both
def test_last_position(native: bool) -> None:
    """Positions end at P: the text does too, unless it may begin again with its last tokens, which is counted."""
    with opened(native) as model:
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=200, greedy=True)
        assert made.stop_reason == "context" and len(made.ids) == CONFIG.max_positions - len(PROMPT) + 1
        again = model.generate(prompt_ids=PROMPT, max_new_tokens=200, greedy=True, restart_window=20)
        assert len(again.ids) == 200 and again.ids[: len(made.ids)] == made.ids
        # 96 positions hold 80 of the new tokens; each restart keeps 20 and makes room for 76.
        assert again.stats["restarts"] == 2 and made.stats["restarts"] == 0
        cut = (PROMPT + made.ids)[-20:]
        assert again.ids[len(made.ids) :][:30] == greedy(30, cut)
        with pytest.raises(RequestError, match="restart_window is 96, expected 0 to 95"):
            model.generate(prompt_ids=PROMPT, restart_window=96)
        with pytest.raises(RequestError, match="97 tokens"):
            model.generate(prompt_ids=[1] * 97)
    with pytest.raises(RequestError, match="context is 97"):
        opened(native, context=97)


@both
def test_restart_with_a_cache(native: bool) -> None:
    """The same option on a model with a key/value cache."""
    with engines.opened(native, context=16) as model:
        made = model.generate(
            prompt_ids=engines.PROMPT, max_new_tokens=30, greedy=True, restart_window=6, ignore_eos=True
        )
        first = 16 - len(engines.PROMPT) + 1
        rest = engines.greedy(4, tuple((engines.PROMPT + made.ids[:first])[-6:]))
    assert len(made.ids) == 30 and made.stats["restarts"] == 3 and made.ids[first : first + 4] == rest


@both
def test_saved_state(native: bool, tmp_path: Path) -> None:
    """Restored by either engine, it goes on with the same ids; its size does not depend on the text but for the ids."""
    sizes = []
    for length in (3, 60):
        with opened(native) as model:
            model.prefill((PROMPT * 4)[:length])
            model.save_state(tmp_path / f"s{length}")
            sizes.append((tmp_path / f"s{length}").stat().st_size)
            model.prefill([5])
            wanted = model.logits()
        for other in (False, True) if native_parts().missing is None else (False,):
            with opened(other) as model:
                model.load_state(tmp_path / f"s{length}")
                assert model.length == length
                model.prefill([5])
                np.testing.assert_allclose(model.logits(), wanted, atol=2e-5)
    assert sizes[1] - sizes[0] == 4 * 57


@both
def test_bad_states_are_refused(native: bool, tmp_path: Path) -> None:
    """A state of another model, a changed one, a cut one: refused, and the sequence stays as it was."""
    with load(bundle(seed=1), native=native, threads=1) as other:
        other.prefill(PROMPT)
        other.save_state(tmp_path / "other")
    with opened(native) as model:
        model.prefill(PROMPT)
        model.save_state(tmp_path / "good")
        data = (tmp_path / "good").read_bytes()
        changed = bytearray(data)
        changed[200] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        (tmp_path / "cut").write_bytes(data[:-9])
        before = model.logits()
        for name, words in (("other", "model of"), ("changed", "sha256"), ("cut", "size")):
            with pytest.raises(BundleError, match=words):
                model.load_state(tmp_path / name)
        assert model.tokens == PROMPT and np.array_equal(model.logits(), before)


@both
def test_bad_requests(native: bool) -> None:
    with opened(native) as model:
        for ids in ([256], [-1], []):
            with pytest.raises(RequestError, match="256|-1|empty"):
                model.extend(ids)
        model.prefill(PROMPT)
        with pytest.raises(RequestError, match=r"16 \+ 81 tokens, expected at most 96"):
            model.extend([1] * 81)
        with pytest.raises(RequestError, match="17"):
            model.rewind(17)


@pytest.mark.parametrize(
    "engine",
    [False, pytest.param(True, marks=pytest.mark.skipif(native_parts().missing is not None, reason="native part"))],
)
def test_state_of_another_shape_is_refused_by_the_graph(engine: bool) -> None:
    """Below the runtime: feeds that do not fit the graph end in an error with both shapes, not in numbers."""
    from farthing.runtime.verify import open_session, session_options

    opened_bundle = open_bundle(bundle())
    session = open_session(
        str(opened_bundle.graph(opened_bundle.step_graph)),
        session_options(opened_bundle, "kernels" if engine else "bodies"),
    )
    feeds = {
        i.name: np.zeros(
            [1 if isinstance(d, str) else d for d in i.shape], np.int64 if "int64" in i.type else np.float32
        )
        for i in session.get_inputs()
    }
    session.run(None, feeds)
    for value, words in ((np.zeros((1, 3, 40), np.float32), "3"), (np.zeros((1, 2, 40), np.float64), "float")):
        with pytest.raises(Exception, match=words):
            session.run(None, {**feeds, "conv_state.1": value})


def test_contexts_of_a_smaller_model() -> None:
    """The exporter takes what a tiny model has: two positions, one layer, two taps, one slot."""
    config = dataclasses.replace(CONFIG, layers=1, kernel_size=2, slots=1, max_positions=2)
    with load(bundle(config=config), threads=1) as model:
        assert model.generate(prompt_ids=[1], max_new_tokens=9, greedy=True).stop_reason == "context"
