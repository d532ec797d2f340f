"""GGUF files: metadata, tensor order and types, tokenizers, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import tiny
from farthing.errors import CheckpointError
from farthing.export.checkpoint import open_checkpoint
from farthing.export.checkpoint.gguf_file import GgufFile

gguf = pytest.importorskip("gguf")
TEXTS = [
    "the end",
    " The theory of it all, in 1984 or 12345?",
    "  two spaces\n\n\tand tabs   ",
    "<s>special</s> inside",
    "naïve 東京 🙂 \u0301 don't I'll",
    "",
    "x" * 40 + "aaa the the",
]


@pytest.mark.parametrize("family", ["llama", "llama-tied", "llama-bias", "mistral", "qwen2", "qwen3"])
def test_equals_the_folder(family: str, tmp_path: Path) -> None:
    """The same model as a Hugging Face folder and as GGUF: equal configuration and bit-equal tensors."""
    window = {"sliding_window": None} if family == "mistral" else {}  # llama.cpp has none for its llama architecture
    folder = open_checkpoint(tiny.write_hf(tmp_path / "hf", family, **window))
    file = open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf", family, **window))
    assert file.kind == "gguf" and file.name == f"tiny {family}"
    expected = (
        folder.config
        if family != "mistral"
        else folder.config.__class__(**{**folder.config.__dict__, "family": "llama"})
    )
    assert file.config == expected
    assert sorted(file.names()) == sorted(folder.names())
    for name in folder.names():
        assert np.array_equal(file.tensor(name), folder.tensor(name)), name


@pytest.mark.parametrize(
    ("quant", "tolerance"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 0.03), ("Q5_1", 0.1), ("Q4_1", 0.3), ("Q4_0", 0.4)]
)
def test_quantised_types(quant: str, tolerance: float, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96}
    folder = open_checkpoint(tiny.write_hf(tmp_path / "hf", **sizes))
    file = open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf", quant=quant, **sizes))
    for name in ("embed.weight", "layers.0.q.weight", "layers.2.down.weight"):
        found, wanted = file.tensor(name), folder.tensor(name)
        assert found.dtype == (np.float16 if quant == "F16" else np.float32)
        assert 0 < np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max() / 2, name
    assert np.array_equal(file.tensor("norm.weight"), folder.tensor("norm.weight"))


@pytest.mark.parametrize("quant", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q8_0", "Q4_0"])
def test_reads_what_the_library_reads(quant: str, tmp_path: Path) -> None:
    """Random blocks: our container parser and chunked dequantisation against gguf.GGUFReader and one call."""
    kind = getattr(gguf.GGMLQuantizationType, quant)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (6, 512 // block * size), dtype=np.uint8)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("a", np.arange(5, dtype=np.float32))
    writer.add_tensor("b", raw, raw_dtype=kind)
    for stage in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        stage()
    ours, theirs = GgufFile(path), {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert ours.fields["some.numbers"] == [1, 2, 3]
    assert ours.shape("b") == (6, 512)
    with np.errstate(all="ignore"):  # random scales overflow
        wanted = gguf.dequantize(theirs["b"].data, kind)
    assert np.array_equal(ours.read("b"), wanted, equal_nan=True)
    assert np.array_equal(ours.read("a"), np.arange(5, dtype=np.float32))


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", quant="Q8_0", hidden_size=64)
    whole = GgufFile(path).read("token_embd.weight")
    monkeypatch.setattr("farthing.export.checkpoint.gguf_file._CHUNK", 160)
    assert np.array_equal(GgufFile(path).read("token_embd.weight"), whole)


def test_llama3_divisors(tmp_path: Path) -> None:
    """llama3 scaling arrives as rope_freqs.weight: the frequencies equal those of the folder's rope_scaling."""
    folder = open_checkpoint(tiny.write_hf(tmp_path / "hf", "llama3"))
    plain = folder.config.rope.__class__(500000.0).inv_freq(12)
    divisors = plain / folder.config.rope.inv_freq(12)
    assert divisors.max() > 7 and divisors.min() == 1
    path = tmp_path / "m.gguf"
    original = gguf.GGUFWriter.add_tensor

    def add(writer, name, data, **rest):  # the converter writes it before the first tensor
        if name == "token_embd.weight":
            original(writer, "rope_freqs.weight", divisors.astype(np.float32))
        original(writer, name, data, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", add)
        tiny.write_gguf(path, "llama3")
    rope = open_checkpoint(path).config.rope
    assert rope.kind == "factors"
    np.testing.assert_allclose(rope.inv_freq(12), folder.config.rope.inv_freq(12), rtol=1e-6)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "default", "tekken"])
def test_byte_level_ids_equal_transformers(pre: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = tiny.write_gguf(tmp_path / "m.gguf", "qwen2" if pre == "qwen2" else "llama", pre=pre)
    files = open_checkpoint(path).tokenizer()
    ours = Tokenizer.from_str(files.json)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in TEXTS:
        wanted = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False).ids == wanted, text
    # Llama 3's vocabulary wants a BOS although older files do not say so; transformers leaves it out there.
    assert files.add_bos == (pre == "llama-bpe")
    assert files.chat_template and files.eos_ids == (2,)


def test_sentence_piece_ids_equal_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = tiny.write_gguf(tmp_path / "m.gguf", tokenizer="llama", vocab_size=283)
    files = open_checkpoint(path).tokenizer()
    ours = Tokenizer.from_str(files.json)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text).input_ids, text
        plain = ours.encode(text, add_special_tokens=False).ids
        assert ours.decode(plain, skip_special_tokens=False) == theirs.decode(plain, skip_special_tokens=False), text
    assert files.add_bos and files.bos_id == 1


def test_smollm_splits_digits(tmp_path: Path) -> None:
    """The original tokenizer takes digits one by one before anything else: two spaces before one stay together."""
    files = open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf", pre="smollm")).tokenizer()
    splitter = Tokenizer.from_str(files.json).pre_tokenizer
    assert [piece for piece, _ in splitter.pre_tokenize_str("a  42")] == ["a", "ĠĠ", "4", "2"]


def test_smollm2_ids_equal_transformers() -> None:
    from test_decoder_reference import smollm2

    transformers = pytest.importorskip("transformers")
    path = smollm2()
    ours = Tokenizer.from_str(open_checkpoint(path).tokenizer().json)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    chat = "<|im_start|>user\nWhat is 17 x 3?<|im_end|>\n<|im_start|>assistant\n"
    for text in [*(t for t in TEXTS if "<s>" not in t), chat, "def f(x):\n    return x\n", "price: 1234.50 €"]:
        assert ours.encode(text).ids == theirs(text).input_ids, text
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as info:
        open_checkpoint(path).tokenizer()
    text = str(info.value)
    assert str(path) in text and ", expected " in text and "; " in text, text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"meta": {"general.architecture": "gemma"}},
            ["general.architecture", "'gemma'", "llama, qwen2, qwen3", "nearest"],
        ),
        ({"meta": {"llama.expert_count": 8}}, ["llama.expert_count", "mixtures of experts"]),
        ({"meta": {"split.count": 3}}, ["split.count", "llama-gguf-split"]),
        ({"drop": ("llama.block_count",)}, ["llama.block_count", "missing"]),
        ({"meta": {"llama.block_count": 4}}, ["missing", "layers.3."]),
        ({"meta": {"llama.block_count": 2}}, ["unexpected", "layers.2."]),
        ({"meta": {"llama.feed_forward_length": 81}}, ["ffn_gate", "[80, 48]", "[81, 48]"]),
        ({"meta": {"llama.vocab_size": 301}}, ["token_embd", "[300, 48]", "[301, 48]"]),
        ({"meta": {"llama.rope.dimension_count": 6}}, ["rope.dimension_count", "is 6"]),
        ({"meta": {"llama.rope.scaling.type": "yarn"}}, ["rope.scaling.type", "'yarn'"]),
        ({"meta": {"llama.attention.head_count_kv": 3}}, ["head_count_kv", "divisor"]),
        ({"meta": {"llama.embedding_length": "48"}}, ["embedding_length", "whole number"]),
        ({"meta": {"tokenizer.ggml.add_eos_token": True}}, ["add_eos_token", "EOS"]),
        ({"meta": {"tokenizer.ggml.bos_token_id": 300}}, ["bos_token_id", "300", "below 300"]),
        ({"pre": None}, ["tokenizer.ggml.pre", "missing"]),
        ({"pre": "llama-bpee"}, ["tokenizer.ggml.pre", "nearest is 'llama-bpe'"]),
        ({"tokenizer": "bert"}, ["tokenizer.ggml.model", "'bert'"]),
    ],
)
def test_metadata_is_refused_by_name(options: dict, words: list[str], tmp_path: Path) -> None:
    refused(tiny.write_gguf(tmp_path / "m.gguf", **options), *words)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf")
    whole = path.read_bytes()
    for size in [0, 3, 4, 8, 16, 23, 24, 30, *range(100, len(whole) - 1, len(whole) // 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(path)
    path.write_bytes(whole)
    open_checkpoint(path)


def test_damage_never_crashes(tmp_path: Path) -> None:
    """Flipped bytes in the header: accepted, or a CheckpointError; never another exception, never a hang."""
    path = tiny.write_gguf(tmp_path / "m.gguf", hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(400):
        data = bytearray(whole)
        at = int(rng.integers(0, 12000 if len(whole) > 12000 else len(whole)))
        data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            checkpoint = open_checkpoint(path)
            checkpoint.tokenizer()
            for name in checkpoint.names():
                checkpoint.tensor(name)
        except CheckpointError:
            refusals += 1
    assert refusals > 40


def test_wrong_magic_and_version(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf")
    whole = path.read_bytes()
    path.write_bytes(b"GGML" + whole[4:])
    refused(path, "first bytes", "no GGUF file")
    path.write_bytes(whole[:4] + b"\x01\0\0\0" + whole[8:])
    refused(path, "GGUF version", "is 1")


def test_nan_is_named_by_the_name_in_the_file(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf")
    entry = GgufFile(path)._entries["blk.1.ffn_up.weight"]
    data = bytearray(path.read_bytes())
    data[entry.start : entry.start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"m\.gguf: blk\.1\.ffn_up\.weight is not finite in 1 of"):
        open_checkpoint(path).tensor("layers.1.up.weight")


def test_no_tokenizer_is_allowed(tmp_path: Path) -> None:
    assert open_checkpoint(tiny.write_gguf(tmp_path / "m.gguf", tokenizer=None)).tokenizer() is None
