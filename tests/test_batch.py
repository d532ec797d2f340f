"""Several texts in one pass: each is exactly the text that it would be alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gam_models
import pytest
from click.testing import CliRunner
from engines import bundle, opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mtp_models import random_adapter

import farthing
from farthing.cli.main import cli
from farthing.errors import RequestError
from farthing.export import export
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.mtp_adapter import save_adapter
from farthing.runtime.engines import native_parts
from tiny import write_hf

pytestmark = pytest.mark.skipif(native_parts().missing is not None, reason="needs the native build")

CONTEXT = 96


@pytest.fixture(scope="module", params=["chains", "trees"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A graph that takes rows in a line, and one that takes trees."""
    folder = tmp_path_factory.mktemp("batch")
    checkpoint = write_hf(folder / "checkpoint", "qwen3")
    export("decoder", checkpoint, folder / "bundle", trees=request.param == "trees", check=False)
    with farthing.load(folder / "bundle", threads=1, context=CONTEXT, draft="none") as runtime:
        yield runtime


# Few different ids, so that lookup and aded have something to find.
TEXTS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=40), min_size=1, max_size=7)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=TEXTS,
    batch=st.integers(1, 5),
    count=st.integers(1, 60),
    draft=st.sampled_from(["none", "lookup", "aded", "auto"]),
    temperature=st.sampled_from([None, 0.3, 1.5]),
    penalty=st.sampled_from([1.0, 1.3]),
    stops=st.lists(st.integers(0, 255), max_size=40),
)
def test_each_text_is_what_it_is_alone(
    model: farthing.Runtime,
    prompts: list[list[int]],
    batch: int,
    count: int,
    draft: str,
    temperature: float | None,
    penalty: float,
    stops: list[int],
) -> None:
    how: dict[str, Any] = {"max_new_tokens": count, "stop_ids": stops, "repetition_penalty": penalty}
    how |= {"greedy": True} if temperature is None else {"temperature": temperature}
    model.speculate("none")
    seeds = list(range(len(prompts)))
    alone = [model.generate(prompt_ids=p, seed=s, **how) for p, s in zip(prompts, seeds, strict=True)]
    # `always`: every draft runs, so that texts of one pass have different numbers of rows.
    model.speculate(draft, always=True)
    together = model.generate_all(prompts, batch=batch, seeds=seeds, **how)
    for one, other in zip(alone, together, strict=True):
        assert other.ids == one.ids
        assert other.text == one.text
        assert other.stop_reason == one.stop_reason
        assert other.stats["new_tokens"] == len(one.ids)
        assert other.stats["rows"] >= len(one.prompt_ids)
    model.speculate("none")
    assert model.generate(prompt_ids=prompts[0], seed=0, **how).ids == alone[0].ids


def test_weights_are_read_once_for_all(model: farthing.Runtime) -> None:
    """Eight texts of equal length take as many passes as one, besides their prompts."""
    model.speculate("none")
    made = model.generate_all([[3, 1, i] for i in range(8)], batch=8, greedy=True, max_new_tokens=20, ignore_eos=True)
    assert {m.stats["passes"] for m in made} == {20}


def test_texts_that_end_make_room(model: farthing.Runtime) -> None:
    """Callbacks get the number of their prompt; False ends that text and no other."""
    model.speculate("none")
    heard: dict[int, list[int]] = {}
    prompts = [[i, 7, i] for i in range(6)]

    def each(prompt: int, token: int) -> bool:
        heard.setdefault(prompt, []).append(token)
        return len(heard[prompt]) < 3 + prompt

    made = model.generate_all(
        prompts, batch=2, greedy=True, max_new_tokens=12, ignore_eos=True, on_token=each, seeds=[0] * 6
    )
    assert [len(m.ids) for m in made] == [3, 4, 5, 6, 7, 8]
    assert [m.stop_reason for m in made] == ["callback"] * 6
    assert [heard[i] for i in range(6)] == [m.ids for m in made]


def test_a_full_context_ends_one_text_only(model: farthing.Runtime) -> None:
    model.speculate("lookup", always=True)
    made = model.generate_all([[1] * (CONTEXT - 2), [2, 3]], greedy=True, max_new_tokens=10, ignore_eos=True)
    assert [m.stop_reason for m in made] == ["context", "length"]
    assert [len(m.ids) for m in made] == [3, 10]


def test_cancel_keeps_what_there_is(model: farthing.Runtime) -> None:
    model.speculate("none")

    def each(prompt: int, _: int) -> bool:
        if prompt == 1:
            model.cancel()
        return True

    made = model.generate_all([[1, 2], [3, 4], [5, 6]], batch=2, greedy=True, max_new_tokens=9, on_token=each)
    assert [m.stop_reason for m in made] == ["cancelled"] * 3
    assert [len(m.ids) for m in made] == [1, 1, 0]


def test_text_streams(model: farthing.Runtime) -> None:
    model.speculate("none")
    said: dict[int, str] = {0: "", 1: ""}
    made = model.generate_all(
        ["ab", [3, 4]],
        greedy=True,
        max_new_tokens=15,
        on_text=lambda i, piece: said.__setitem__(i, said[i] + piece),
    )
    assert [said[0], said[1]] == [m.text for m in made]


def test_no_prompts_are_no_texts(model: farthing.Runtime) -> None:
    assert model.generate_all([]) == []


@pytest.mark.parametrize(
    ("prompts", "how", "text"),
    [
        ([[1]], {"batch": 0}, "batch is 0"),
        ([[1]], {"batch": 257}, "batch is 257"),
        ([[1], []], {}, "prompt_ids is empty"),
        ([[1], [999]], {}, "999"),
        ([[1] * (CONTEXT + 1)], {}, "prompt is 97 tokens"),
        ("text", {}, "prompts is one text"),
        ([[1], [2]], {"seeds": [1]}, "seeds is 1 of them"),
        ([[1]], {"reuse_prefix": True}, "reuse_prefix"),
        ([[1]], {"restart_window": 5}, "restart_window"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_bad_requests(model: farthing.Runtime, prompts: Any, how: dict[str, Any], text: str) -> None:
    model.speculate("none")
    with pytest.raises(RequestError, match=text):
        model.generate_all(prompts, **how)
    assert model.generate(prompt_ids=[1, 2], greedy=True, max_new_tokens=3).ids


def test_what_follows_one_text_is_refused(tmp_path: Path) -> None:
    """Recurrent states, the portable engine, and drafters that cannot be two."""
    with farthing.load(gam_models.bundle(), threads=1) as gam, pytest.raises(RequestError, match="batch is 2"):
        gam.generate_all([[1], [2]], batch=2)
    with opened(False) as portable, pytest.raises(RequestError, match="engine is portable"):
        portable.generate_all([[1]])
    checkpoint = write_hf(tmp_path / "checkpoint", "llama")
    base = open_checkpoint(checkpoint)
    save_adapter(tmp_path / "adapter.safetensors", random_adapter(base, masks=3), base)
    export("mtp", checkpoint, tmp_path / "bundle", adapter=tmp_path / "adapter.safetensors", check=False)
    with farthing.load(tmp_path / "bundle", threads=1, draft="mtp") as mtp:
        with pytest.raises(RequestError, match="draft is 'mtp' for several texts"):
            mtp.generate_all([[1], [2]])
        mtp.speculate("auto", always=True)  # in a batch: what needs the text alone
        how: dict[str, Any] = {"greedy": True, "max_new_tokens": 12}
        together = mtp.generate_all([[1, 2], [3]], **how)
        mtp.speculate("none")
        assert [m.ids for m in together] == [mtp.generate(prompt_ids=p, **how).ids for p in ([1, 2], [3])]


def test_command(tmp_path: Path) -> None:
    """Lines of text and of JSON; the answers come in their order."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('ab\n\n{"prompt_ids": [5, 6]}\n{"messages": [{"role": "user", "content": "c"}], "seed": 4}\n')
    arguments = ["batch", str(bundle()), str(file), "--batch", "2", "--max-new-tokens", "6", "--threads", "1"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(made) == 3
    assert made[1]["prompt_ids"] == [5, 6]
    with opened(True) as runtime:
        assert made[0]["ids"] == runtime.generate("ab", max_new_tokens=6).ids
    for text, wanted in (
        ("", "without a prompt"),
        ("{", "line 1 is not JSON"),
        ('x\n{"prompt": "a", "prompt_ids": [1]}', "line 2"),
        ('{"prompt": "a", "temperature": 1}', "line 1"),
    ):
        file.write_text(text)
        failed = CliRunner().invoke(cli, arguments)
        assert isinstance(failed.exception, RequestError)
        assert wanted in str(failed.exception)
