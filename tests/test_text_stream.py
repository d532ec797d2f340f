"""Text as a stream: what comes out in pieces is what decoding at once gives, unfinished characters and stop strings held back."""

from __future__ import annotations

import json
from pathlib import Path

import engines
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models

import tiny
from farthing.errors import BundleError, RequestError
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.text import TextStream, Tokenizer, tokenizer_of


def byte_level() -> Tokenizer:
    found = tokenizer_of(open_bundle(engines.bundle()))
    assert found is not None
    return found


def byte_fallback() -> Tokenizer:
    """As Llama 2's: SentencePiece words, a byte token for every byte, the leading space dropped."""
    tokens, _, _ = tiny.sentence_piece_tokens()
    hf = HfTokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    hf.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    hf.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder = engines.folder() / "fallback"
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").write_text(hf.to_str(), encoding="utf-8")
    manifest = json.loads(json.dumps(open_bundle(engines.bundle()).manifest))
    manifest["tokenizer"]["chat_template"] = None
    return Tokenizer(Bundle(folder, manifest))


TOKENIZERS = {"byte-level": byte_level(), "byte-fallback": byte_fallback()}


def streamed(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = tokenizer.stream(stop)
    pieces = []
    for i in ids:
        pieces.append(stream.push(i))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.finish()], stream


texts = st.text(
    alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("the �é€😀\n")), max_size=30
)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=texts)
def test_pieces_add_up(kind, text) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert "".join(streamed(tokenizer, ids)[0]) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_pieces_add_up_for_any_ids(kind, data) -> None:
    """Malformed UTF-8, special tokens and unused rows of the embedding included."""
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tiny.VOCAB - 1), max_size=40))
    assert "".join(streamed(tokenizer, ids)[0]) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_unfinished_character_is_held_back(kind) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("a😀b")
    pieces, _ = streamed(tokenizer, ids)
    assert all("�" not in piece for piece in pieces) and "".join(pieces) == "a😀b"
    cut, _ = streamed(tokenizer, ids[:-2])  # without the last byte of the smiley
    assert "".join(cut[:-1]) == "a" and set(cut[-1]) == {"�"}


def test_text_appears_at_once() -> None:
    """Nothing is held back without a reason."""
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("the other end")
    pieces, _ = streamed(tokenizer, ids)
    assert all(pieces[: len(ids)]) and pieces[-1] == ""


@given(text=st.text("abc", max_size=30), stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings(text, stop) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    pieces, stream = streamed(tokenizer, tokenizer.encode(text), tuple(stop))
    # The stream stops with the token that completes a match, so the first completed match decides.
    ends = [text.find(s) + len(s) for s in stop if s in text]
    if not ends:
        assert not stream.stopped and "".join(pieces) == text
        return
    head = text[: min(ends)]
    assert stream.stopped and "".join(pieces) == head[: min(head.find(s) for s in stop if s in head)]
    assert stream.push(5) == "" and stream.finish() == ""


def test_stop_string_over_several_tokens() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    pieces, stream = streamed(tokenizer, tokenizer.encode("one END two"), ("END",))
    assert stream.stopped and "".join(pieces) == "one "
    pieces, stream = streamed(tokenizer, tokenizer.encode("one EN"), ("END",))
    assert not stream.stopped and "".join(pieces[:-1]) == "one " and pieces[-1] == "EN"


@pytest.mark.parametrize("stop", ["", 7, None])
def test_bad_stop_string(stop) -> None:
    with pytest.raises(RequestError, match="stop string"):
        TOKENIZERS["byte-level"].stream([stop])


def test_encode_and_chat() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    assert tokenizer.encode("<s>the</s>") == [1, *tokenizer.encode("the"), 2]
    assert tokenizer.encode("the", bos=True) == ([1] if tokenizer.add_bos else []) + tokenizer.encode("the")
    asked = [{"role": "user", "content": "the"}]
    assert tokenizer.encode_messages(asked) == tokenizer.encode("<s>user: the</s>")
    with pytest.raises(RequestError, match="not valid Unicode"):
        tokenizer.encode("\ud800")


@pytest.mark.parametrize(
    "messages", [[], "hello", {"role": "user"}, [{}], ["x"], [{"role": 3, "content": ""}], [{"role": "user"}]]
)
def test_bad_messages(messages) -> None:
    with pytest.raises(RequestError, match="messages"):
        TOKENIZERS["byte-level"].encode_messages(messages)


def test_base_model_has_no_chat() -> None:
    assert not TOKENIZERS["byte-fallback"].has_chat_template
    with pytest.raises(RequestError, match="chat template"):
        TOKENIZERS["byte-fallback"].encode_messages([{"role": "user", "content": "x"}])


def with_template(source: str, folder: Path) -> Tokenizer:
    base = open_bundle(engines.bundle())
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name, text in (("tokenizer.json", base.text("tokenizer/tokenizer.json")), ("chat_template.jinja", source)):
        (folder / "tokenizer" / name).write_text(text, encoding="utf-8")
    return Tokenizer(Bundle(folder, base.manifest))


@pytest.mark.parametrize(
    "source, text",
    [
        ("{{ bos_token }}|{{ eos_token }}", "<s>|</s>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),
        ("{% for m in messages %}\n{{ m.role }}\n{% endfor %}", "user\n"),
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}", "<é>"),
        ("{{ add_generation_prompt }}{{ tools is defined }}", "TrueFalse"),
    ],
)
def test_templates_as_transformers_renders_them(source, text, tmp_path) -> None:
    tokenizer = with_template(source, tmp_path)
    assert tokenizer.chat_template.render([{"role": "user", "content": "<é>"}]) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_template_that_refuses_or_reaches_out(source, tmp_path) -> None:
    with pytest.raises(RequestError, match=r"chat_template\.jinja"):
        with_template(source, tmp_path).encode_messages([{"role": "user", "content": "x"}])


def test_template_that_is_no_jinja(tmp_path) -> None:
    with pytest.raises(BundleError, match="no Jinja template"):
        _ = with_template("{% for %}", tmp_path).chat_template


def test_tokenizer_that_is_none(tmp_path) -> None:
    base = open_bundle(engines.bundle())
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(Bundle(tmp_path, base.manifest))


def test_tokenizer_larger_than_the_embedding() -> None:
    base = open_bundle(engines.bundle())
    small = json.loads(json.dumps(base.manifest))
    small["model"]["vocab_size"] = 100
    with pytest.raises(BundleError, match="largest id"):
        Tokenizer(Bundle(base.path, small))
