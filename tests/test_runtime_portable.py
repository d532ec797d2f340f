"""The Python runtime over every engine there is: the same ids as the PyTorch reference, and the same behaviour."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import engines
import numpy as np
import pytest
from engines import ENGINES, PROMPT, opened

import farthing
from farthing.errors import BundleError, FarthingError, MissingDependencyError, RequestError
from farthing.runtime import api
from farthing.runtime import engines as engine_choice
from farthing.runtime.sampling import Sampling, choose

pytestmark = pytest.mark.parametrize("native", ENGINES)
SAMPLED = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 11}


def test_greedy_ids_are_the_reference(native) -> None:
    with opened(native) as model:
        assert model.native is native
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=48, greedy=True, ignore_eos=True)
        assert made.ids == engines.greedy(48)
        assert made.prompt_ids == PROMPT and made.stop_reason == "length"
        assert model.tokens == PROMPT + made.ids[:-1] and model.length == len(PROMPT) + 47
        assert made.text == model.tokenizer.decode(made.ids)


def test_long_prompt_is_prefilled_in_pieces(native) -> None:
    """300 rows are two passes of at most 256, and give the ids of one."""
    prompt = tuple((i * 37 + 5) % 292 for i in range(300))
    with opened(native) as model:
        made = model.generate(prompt_ids=prompt, max_new_tokens=12, greedy=True, ignore_eos=True)
        assert made.ids == engines.greedy(12, prompt)
        assert made.stats["passes"] == 2 + 11 and made.stats["rows"] == 300 + 11


def test_stats(native) -> None:
    with opened(native) as model:
        s = model.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True).stats
    assert (s["prompt_tokens"], s["new_tokens"], s["passes"], s["rows"]) == (11, 8, 8, 18)
    assert s["kernels"] is native
    assert 0 < s["model_seconds"] <= s["prefill_seconds"] + s["decode_seconds"]
    assert s["prefill_seconds"] <= s["first_token_seconds"]
    assert s["prefill_cpu_seconds"] > 0 and s["decode_cpu_seconds"] > 0


def test_same_seed_same_tokens(native) -> None:
    with opened(native) as model:
        runs = [model.generate(prompt_ids=PROMPT, max_new_tokens=24, ignore_eos=True, **SAMPLED).ids for _ in range(2)]
        other = model.generate(prompt_ids=PROMPT, max_new_tokens=24, ignore_eos=True, **{**SAMPLED, "seed": 12}).ids
    assert runs[0] == runs[1] != other


def test_sampling_is_the_python_definition(native) -> None:
    """Token by token from the engine's own logits: the C++ sampler and the one in Python draw the same."""
    with opened(native) as model:
        for extra in ({}, {"top_p": 1.0, "min_p": 0.05}, {"top_k": 0, "top_p": 1.0}, {"top_k": 0, "temperature": 3.0}):
            compare_draws(model, {**SAMPLED, **extra})


def test_top_p_looks_at_what_min_p_will_drop(native) -> None:
    with opened(native) as model:
        for extra in ({"min_p": 0.05}, {"temperature": 3.0, "min_p": 0.3, "top_k": 0, "top_p": 0.5}):
            compare_draws(model, {**SAMPLED, **extra})


def compare_draws(model, how) -> None:
    ids = model.generate(prompt_ids=PROMPT, max_new_tokens=24, ignore_eos=True, **how).ids
    seen = list(PROMPT)
    model.reset()
    model.prefill(PROMPT)
    for step, wanted in enumerate(ids):
        assert choose(model.logits(), Sampling(**how), step, seen) == wanted
        seen.append(wanted)
        model.prefill([wanted])


def test_stop_ids_and_eos(native) -> None:
    ids = engines.greedy(48)
    first = ids.index(ids[5])
    with opened(native) as model:
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=48, greedy=True, ignore_eos=True, stop_ids=[ids[5]])
        assert made.ids == ids[:first] and made.stop_reason == "eos"
        model._tokenizer.eos_ids = (ids[5],)
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=48, greedy=True)
        assert made.ids == ids[:first] and made.stop_reason == "eos"


def test_stop_string(native) -> None:
    with opened(native) as model:
        whole = model.generate(prompt_ids=PROMPT, max_new_tokens=48, greedy=True, ignore_eos=True).text
        stop = whole[6:9]
        pieces = []
        made = model.generate(
            prompt_ids=PROMPT, max_new_tokens=48, greedy=True, ignore_eos=True, stop=stop, on_text=pieces.append
        )
        assert made.stop_reason == "stop_string" and made.text == whole[: whole.find(stop)] == "".join(pieces)
        assert made.ids == engines.greedy(48)[: len(made.ids)] and len(made.ids) < 48


def test_callbacks(native) -> None:
    ids = engines.greedy(48)
    with opened(native) as model:
        got, pieces = [], []
        made = model.generate(
            prompt_ids=PROMPT,
            max_new_tokens=20,
            greedy=True,
            ignore_eos=True,
            on_token=got.append,
            on_text=pieces.append,
        )
        assert got == made.ids == ids[:20] and "".join(pieces) == made.text
        made = model.generate(prompt_ids=PROMPT, greedy=True, ignore_eos=True, on_token=lambda i: i != ids[3])
        assert made.stop_reason == "callback" and made.ids == ids[: ids.index(ids[3]) + 1]
        made = model.generate(prompt_ids=PROMPT, greedy=True, ignore_eos=True, on_text=lambda text: False)
        assert made.stop_reason == "callback"


def test_error_in_a_callback_comes_out_and_leaves_the_runtime_usable(native) -> None:
    def fail(_: int) -> bool:
        raise KeyError("mine")

    with opened(native) as model:
        with pytest.raises(KeyError, match="mine"):
            model.generate(prompt_ids=PROMPT, greedy=True, on_token=fail)
        assert model.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True).ids == engines.greedy(
            8
        )


def test_context_full(native) -> None:
    with opened(native, context=16) as model:
        assert model.context == 16
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=100, greedy=True, ignore_eos=True)
        # The last token needs no slot, since it is never run.
        assert made.stop_reason == "context" and made.ids == engines.greedy(6)
        with pytest.raises(RequestError, match="17 tokens, expected at most 16"):
            model.generate(prompt_ids=[5] * 17)
        assert len(model.generate(prompt_ids=[5] * 16, greedy=True, ignore_eos=True).ids) == 1


def test_reuse_prefix(native) -> None:
    ids = engines.greedy(48)
    with opened(native) as model:
        model.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True)
        longer = [*PROMPT, *ids[:12]]
        made = model.generate(prompt_ids=longer, max_new_tokens=8, greedy=True, ignore_eos=True, reuse_prefix=True)
        assert made.ids == ids[12:20]
        assert made.stats["prompt_tokens"] == 12 - 7  # of 8 ids the last was never run
        again = model.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True, reuse_prefix=True)
        assert again.ids == ids[:8] and again.stats["prompt_tokens"] == 1
        other = model.generate(prompt_ids=[7, 8, 9], max_new_tokens=4, greedy=True, ignore_eos=True, reuse_prefix=True)
        assert other.stats["prompt_tokens"] == 3


def test_prefill_logits_rewind(native) -> None:
    ids = engines.greedy(4)
    with opened(native) as model:
        with pytest.raises(RequestError, match="logits"):
            model.logits()
        model.prefill(PROMPT[:4])
        model.prefill(np.array(PROMPT[4:]))
        logits = model.logits()
        assert logits.shape == (model.vocab_size,) and logits.dtype == np.float32 and int(logits.argmax()) == ids[0]
        copy = logits.copy()
        model.prefill([ids[0]])
        assert (logits == copy).all() and int(model.logits().argmax()) == ids[1]
        model.rewind(len(PROMPT))
        with pytest.raises(RequestError, match="logits"):
            model.logits()
        model.rewind(len(PROMPT) - 1)
        model.prefill(PROMPT[-1:])
        np.testing.assert_allclose(model.logits(), copy, atol=1e-4)
        for bad in (-1, 99, 2**40):
            with pytest.raises(RequestError, match="length to rewind to"):
                model.rewind(bad)
        model.reset()
        assert model.length == 0 and model.tokens == []
        with pytest.raises(RequestError, match="at most"):
            model.prefill([5] * (model.context + 1))


def test_state_round_trip(native, tmp_path) -> None:
    ids = engines.greedy(8)
    with opened(native) as model:
        model.prefill([*PROMPT, *ids[:4]])
        model.save_state(tmp_path / "state")
    with opened(native, context=32) as model:  # another capacity is fine
        model.load_state(tmp_path / "state")
        assert model.tokens == [*PROMPT, *ids[:4]]
        made = model.generate(
            prompt_ids=[*PROMPT, *ids[:5]], max_new_tokens=3, greedy=True, ignore_eos=True, reuse_prefix=True
        )
        assert made.ids == ids[5:8] and made.stats["prompt_tokens"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_empty_state(native, tmp_path) -> None:
    with opened(native) as model:
        model.save_state(tmp_path / "state")
        model.prefill(PROMPT)
        model.load_state(tmp_path / "state")
        assert model.length == 0


def test_bad_states(native, tmp_path) -> None:
    path = tmp_path / "state"
    with opened(native) as model:
        model.prefill(PROMPT)
        model.save_state(path)
        good = path.read_bytes()
        edits = {
            "truncated": good[:-70],
            "header only": good[:50],
            "longer": good + b"x",
            "edited": good[:300] + bytes([good[300] ^ 1]) + good[301:],
            "of another kind": b"hello" * 100,
            "future": good[:8] + (9).to_bytes(8, "little") + good[16:],
            "of another model": good[:16] + b"0" * 64 + good[80:],
            "negative length": good[:104] + (-1).to_bytes(8, "little", signed=True) + good[112:],
            "huge length": good[:104] + (2**62).to_bytes(8, "little") + good[112:],
        }
        for name, data in edits.items():
            path.write_bytes(data)
            with pytest.raises((BundleError, RequestError)):
                model.load_state(path)
            assert model.tokens == PROMPT, name
        with pytest.raises(RequestError):
            model.load_state(tmp_path / "nothing")
        with pytest.raises(RequestError):
            model.save_state(tmp_path / "no" / "folder")
    path.write_bytes(good)
    with opened(native, context=8) as model, pytest.raises(RequestError, match="longer context"):
        model.load_state(path)


def test_cancel_from_another_thread(native) -> None:
    with opened(native) as model:
        started = threading.Event()

        def on_token(_: int) -> None:
            started.set()
            time.sleep(0.001)  # a model this small is over before the other thread wakes

        canceller = threading.Thread(target=lambda: (started.wait(10), model.cancel()))
        canceller.start()
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=400, greedy=True, ignore_eos=True, on_token=on_token)
        canceller.join()
        assert made.stop_reason == "cancelled" and 1 <= len(made.ids) < 400
        again = model.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True)
        assert again.stop_reason == "length"  # a cancel ends one generation only


def test_one_call_at_a_time(native) -> None:
    with opened(native) as model:
        with pytest.raises(RequestError, match="busy"):
            model.generate(prompt_ids=PROMPT, on_token=lambda _: model.reset())
        assert model.generate(prompt_ids=PROMPT, max_new_tokens=2, greedy=True, ignore_eos=True).ids == engines.greedy(
            2
        )


def test_two_runtimes_on_one_bundle(native) -> None:
    with opened(native) as a, opened(native) as b:
        a.prefill(PROMPT)
        b.prefill([7, 8, 9])
        made = [
            m.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True, reuse_prefix=True).ids
            for m in (a, b)
        ]
        assert made == [engines.greedy(8)] * 2


def test_stream(native) -> None:
    with opened(native) as model:
        how = {"prompt_ids": PROMPT, "max_new_tokens": 16, "greedy": True, "ignore_eos": True}
        whole = model.generate(**how).text
        assert "".join(model.stream(**how)) == whole
        for _ in model.stream(**{**how, "max_new_tokens": 400}):
            break  # ends the generation: the next call is not refused as busy
        assert model.generate(**how).text == whole
        with pytest.raises(RequestError, match="prompt_ids"):
            list(model.stream(prompt_ids=[10**6]))
        with pytest.raises(RequestError, match="on_text"):
            list(model.stream("x", on_text=print))


def test_prompt_messages_raw(native) -> None:
    with opened(native) as model:
        how = {"max_new_tokens": 1, "greedy": True}
        chat = model.generate("the", **how).prompt_ids
        assert chat == model.generate(messages=[{"role": "user", "content": "the"}], **how).prompt_ids
        assert chat == model.tokenizer.encode("<s>user: the</s>")
        assert model.generate("the</s>", raw=True, **how).prompt_ids == model.tokenizer.encode("the</s>", bos=True)


def test_bundle_without_tokenizer(native) -> None:
    with farthing.load(engines.bundle(tokenizer=False), native=native, threads=1) as model:
        assert model.tokenizer is None
        made = model.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True)
        assert made.ids == engines.greedy(8) and made.text == ""
        for bad in (
            {"prompt": "x"},
            {"messages": [{"role": "user", "content": "x"}]},
            {"prompt_ids": PROMPT, "stop": "x"},
        ):
            with pytest.raises(FarthingError, match="tokenizer"):
                model.generate(**bad)


BAD = [
    ({}, "the prompt is missing"),
    ({"prompt": "x", "prompt_ids": [5]}, "prompt and prompt_ids"),
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": "", "raw": True}, "prompt is empty"),
    ({"prompt": b"x"}, "prompt is a bytes"),
    ({"prompt": "\ud800"}, "not valid Unicode"),
    ({"prompt_ids": []}, "prompt_ids is empty"),
    ({"prompt_ids": np.zeros((1, 3), np.int64)}, "shape"),
    ({"prompt_ids": "123"}, "prompt_ids is '123'"),
    ({"prompt_ids": 7}, "prompt_ids is 7"),
    ({"prompt_ids": [5, -1]}, r"prompt_ids\[1\] is -1, expected 0 to 299"),
    ({"prompt_ids": [300]}, r"prompt_ids\[0\] is 300"),
    ({"prompt_ids": [2**31 + 5]}, r"prompt_ids\[0\] is 2147483653"),
    ({"prompt_ids": [2**64 + 5]}, r"prompt_ids\[0\]"),
    ({"prompt_ids": [1.5]}, "whole number"),
    ({"prompt_ids": [True]}, "whole number"),
    ({"prompt_ids": [None]}, "whole number"),
    ({"prompt_ids": [5] * 3000}, "3000 tokens, expected at most 512"),
    ({"messages": []}, "messages is empty"),
    *(({"prompt_ids": [5], "max_new_tokens": n}, "max_new_tokens is") for n in (0, -1, 2**31, 2**63, 1.5, "8", None)),
    *(
        ({"prompt_ids": [5], "temperature": t}, "temperature is")
        for t in (-0.1, float("nan"), float("inf"), "hot", None, 1e7)
    ),
    *(({"prompt_ids": [5], "top_k": k}, "top_k is") for k in (-1, 2**31, 1.5)),
    *(({"prompt_ids": [5], "top_p": p}, "top_p is") for p in (0, -1, 1.01, float("nan"))),
    *(({"prompt_ids": [5], "min_p": p}, "min_p is") for p in (-0.1, 1.1)),
    *(({"prompt_ids": [5], "repetition_penalty": p}, "repetition_penalty is") for p in (0, -1, 1e9)),
    *(({"prompt_ids": [5], "seed": s}, "seed is") for s in (-1, 2**64, 0.5)),
    ({"prompt_ids": [5], "stop": [""]}, "stop string is empty"),
    ({"prompt_ids": [5], "stop": [3]}, "stop string"),
    ({"prompt_ids": [5], "stop_ids": [-2]}, r"stop_ids\[0\]"),
    ({"prompt_ids": [5], "stop_ids": [300]}, r"stop_ids\[0\]"),
]


def test_bad_requests_are_refused_before_anything_runs(native) -> None:
    with opened(native) as model:
        model.prefill(PROMPT)
        for request, message in BAD:
            with pytest.raises(RequestError, match=message) as caught:
                model.generate(**request)
            assert " is " in str(caught.value) and ", expected " in str(caught.value) and "; " in str(caught.value)
            assert model.tokens == PROMPT


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1},
        {"threads": 2000},
        {"threads": 1.5},
        {"context": 0},
        {"context": -5},
        {"context": 513},
        {"context": 2**31},
        {"context": 2**63},
    ],
    ids=str,
)
def test_bad_load_options(native, options) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        opened(native, **options)


def test_closed(native) -> None:
    model = opened(native)
    model.close()
    model.close()
    for use in (lambda: model.generate(prompt_ids=PROMPT), lambda: model.length, model.reset, model.cancel):
        with pytest.raises(RequestError, match="runtime is closed"):
            use()


def test_graph_that_onnxruntime_refuses(native, tmp_path) -> None:
    """A bundle whose hashes are right and whose graph is none."""
    import json
    import shutil

    from farthing.runtime.bundle.read import sha256_of

    path = shutil.copytree(engines.bundle(), tmp_path / "bundle")
    graph = path / "graphs" / "decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["graphs/decoder.onnx"] = {"bytes": graph.stat().st_size, "sha256": sha256_of(graph)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"decoder\.onnx"):
        farthing.load(path, native=native)


def test_hashes_are_checked_unless_told_otherwise(native, tmp_path) -> None:
    import shutil

    path = shutil.copytree(engines.bundle(), tmp_path / "bundle")
    template = path / "tokenizer" / "chat_template.jinja"
    template.write_text(template.read_text().replace("role", "ROLE"), encoding="utf-8")
    with pytest.raises(BundleError, match="sha256"):
        farthing.load(path, native=native)
    farthing.load(path, native=native, hashes=False).close()


def test_native_that_is_missing(native, monkeypatch) -> None:
    """Asked for: an error that says why. Not asked for: portable mode."""
    monkeypatch.setattr(
        engine_choice, "native_parts", lambda: engine_choice.NativeParts(None, None, "not built, says a test")
    )
    with pytest.raises(MissingDependencyError, match=r"not built, says a test.*doctor"):
        api.load(engines.bundle(), native=True)
    with api.load(engines.bundle(), threads=1) as model:
        assert not model.native
    with pytest.raises(RequestError, match="native is 'yes'"):
        api.load(engines.bundle(), native="yes")


def test_states_are_shared_between_engines(native, tmp_path) -> None:
    if engine_choice.native_parts().missing:
        pytest.skip(str(engine_choice.native_parts().missing))
    with opened(native) as a, opened(not native) as b:
        a.prefill(PROMPT)
        a.save_state(tmp_path / "state")
        b.load_state(tmp_path / "state")
        made = b.generate(prompt_ids=PROMPT, max_new_tokens=8, greedy=True, ignore_eos=True, reuse_prefix=True)
        assert made.ids == engines.greedy(8) and made.stats["prompt_tokens"] == 1


def test_running_imports_neither_torch_nor_onnx(native) -> None:
    """And importing farthing imports nothing at all."""
    code = (
        "import sys, farthing\n"
        "assert not {'numpy', 'tokenizers', 'onnxruntime', 'click', 'torch'} & set(sys.modules)\n"
        f"model = farthing.load({str(engines.bundle())!r}, native={native}, threads=1)\n"
        f"print(model.generate(prompt_ids={PROMPT}, max_new_tokens=4, greedy=True).ids)\n"
        "assert not {'torch', 'onnx'} & set(sys.modules), 'heavy import'\n"
        f"assert ('onnxruntime' in sys.modules) is {not native}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(engines.folder()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(engines.greedy(4))


def test_the_face_of_the_package(native) -> None:
    assert farthing.load is api.load and farthing.Runtime is api.Runtime
    assert callable(farthing.export) and farthing.export.methods() == farthing.export.methods()
    with pytest.raises(RequestError, match="method"):
        farthing.export("no-such-method", "x", "y")
    with pytest.raises(AttributeError):
        _ = farthing.nothing
