"""Write a random decoder as a Hugging Face folder: nothing to download, same bytes on every machine.

    python benchmarks/make_m100.py OUT [--variant llama|qwen2|qwen3] [--layers N] [--vocab N] [--seed N]

`llama` is the 100M parameter model of the peer benchmark. `qwen2` (biases on q, k, v; tied embedding) and `qwen3`
(q/k norm; heads wider than hidden / heads) have about 20M parameters and exist for the tests of the exporter.
Needs torch, transformers and tokenizers.
"""

import argparse
import json
import math
import random
import sys
from pathlib import Path

SHAPES = {  # hidden, layers, heads, KV heads, head size, FFN, vocabulary, tied embedding
    "llama": (768, 12, 12, 4, 64, 2048, 16000, False),
    "qwen2": (512, 6, 8, 2, 64, 1408, 4096, True),
    "qwen3": (512, 6, 8, 2, 128, 1408, 4096, True),
}
SPECIAL = ["<pad>", "<s>", "</s>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def make_config(variant: str, layers: int | None = None, vocab: int | None = None):
    """Configuration of one variant; `layers` and `vocab` make it smaller for tests."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    hidden, depth, heads, kv_heads, head, ffn, words, tied = SHAPES[variant]
    cls = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[variant]
    return cls(
        vocab_size=vocab or words,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def make_model(config, seed: int = 0):
    """Random model whose greedy choices are not coin tosses.

    The library's own start (0.02 everywhere) gives logits of standard deviation 0.5, so that rounding decides
    the argmax. Here a projection has deviation 1/sqrt(inputs), branches into the residual stream are scaled so that
    activations stay near 1 at every depth, and the head gives logits of deviation 3. Norm weights and biases
    are not left at 1 and 0: an exporter that mixes them up must fail.
    """
    import torch
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tied = config.tie_word_embeddings
    # With a tied head the embedding in the stream votes for the token it came from, |e|^2 / rms(stream) in the logits:
    # at rms 1 that is 9, near the maximum of the other 4000, and the model repeats its last token for ever. Larger
    # branches drown it.
    residual = 3.0 if tied else 1 / math.sqrt(2 * config.num_hidden_layers)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.1 * noise)
            elif name.endswith("bias"):
                weight.copy_(0.1 * noise)
            elif "embed_tokens" in name:
                # A tied embedding is also the head: the final norm makes rows of length sqrt(hidden), so this is
                # 3 in the logits again; an untied one enters the residual stream at deviation 1.
                weight.copy_(noise * (3 / math.sqrt(config.hidden_size) if tied else 1))
            elif "lm_head" in name:
                weight.copy_(noise * 3 / math.sqrt(config.hidden_size))
            else:
                scale = 1 / math.sqrt(weight.shape[1])
                weight.copy_(noise * scale * (residual if "o_proj" in name or "down_proj" in name else 1))
    return model.eval()


def make_tokenizer(vocab: int, seed: int = 0):
    """Byte-level BPE with exactly `vocab` entries, trained on random words of Zipf-like frequency."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(4 * vocab)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator((" ".join(words[i : i + 50]) for i in range(0, len(words), 50)), trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(
            f"vocabulary is {tokenizer.get_vocab_size()} entries, expected {vocab}; choose a smaller --vocab"
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=2048
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def fix_config(folder: Path) -> None:
    """Say RoPE, precision and tokenizer class under the old names too.

    transformers 5 writes `rope_parameters` and `dtype`; readers built for version 4 look for `rope_theta` and
    `torch_dtype`, and without them silently take theta = 10000, which changes every output. The tokenizer class
    `TokenizersBackend` does not exist in version 4 either.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(tokenizer, indent=2, sort_keys=True) + "\n")


def write(
    out: Path, variant: str = "llama", layers: int | None = None, vocab: int | None = None, seed: int = 0
) -> Path:
    """Write model, tokenizer and a 64-id prompt (`prompt.json`) to `out`; returns `out`."""
    config = make_config(variant, layers, vocab)
    model = make_model(config, seed)
    model.save_pretrained(out)
    make_tokenizer(config.vocab_size, seed).save_pretrained(out)
    fix_config(out)
    rng = random.Random(seed)
    (out / "prompt.json").write_text(json.dumps([rng.randrange(len(SPECIAL), config.vocab_size) for _ in range(64)]))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", choices=sorted(SHAPES), default="llama")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.out, args.variant, args.layers, args.vocab, args.seed)
    print(f"wrote {args.variant} model to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
