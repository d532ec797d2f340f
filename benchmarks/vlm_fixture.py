"""The small vision-language model of examples/vlm: configuration, tokenizer, and its folders in Hugging Face layout.

    python benchmarks/vlm_fixture.py --random build/vlm-random      # llava/ and llava_next/ with random weights
    python benchmarks/vlm_fixture.py --publish build/vlm/nested-next   # what the trainer saved becomes examples/vlm/model and next
    python benchmarks/vlm_fixture.py --next build/vlm-next          # the trained weights as a LLaVA-NeXT checkpoint
    python benchmarks/vlm_fixture.py --publish build/vlm-deep/words-next --shape deep    # becomes examples/vlm/deep, LLaVA-NeXT whole

LLaVA-1.5's layout: a CLIP tower (96x96 pixels in patches of 8; features of the layer before the last, without CLS), a projector of two
linear layers with GELU, and a Llama decoder. LLaVA-NeXT's adds `image_newline` and the sizes of pictures cut into crops.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from vlm_scenes import PATCH, SIDE, corpus

HERE = Path(__file__).resolve().parent.parent / "examples" / "vlm"
BOS, EOS, IMAGE, PAD = range(4)
SPECIALS = ["<s>", "</s>", "<image>", "<pad>"]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PINPOINTS = [[96, 192], [192, 96], [192, 192]]
SHAPES: dict[str, dict[str, int]] = {
    "small": {"intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "deep": {"intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8},
}
"""Decoders. Choosing rows costs with their width, so `deep` has the width of `small` and more behind it: seven times the weights."""
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tokenizer() -> Any:
    """Byte-level BPE in which every word of the questions and answers is one token; adds <s> in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    built.train_from_iterator(corpus(), trainer)
    built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return built


def config(vocab: int, *, following: bool = False, shape: str = "small") -> Any:
    """LlavaConfig, or LlavaNextConfig if ``following``; the decoder is ``SHAPES[shape]``."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig

    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=96,
    )
    text = LlamaConfig(
        vocab_size=vocab,
        hidden_size=128,
        head_dim=32,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        initializer_range=0.05,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
        **SHAPES[shape],
    )
    shared: dict[str, Any] = {
        "image_token_index": IMAGE,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": (SIDE // PATCH) ** 2,
        "tie_word_embeddings": False,
    }
    if following:
        return LlavaNextConfig(vision_config=vision, text_config=text, image_grid_pinpoints=PINPOINTS, **shared)
    return LlavaConfig(vision_config=vision, text_config=text, **shared)


def write_processor(folder: Path, *, following: bool = False) -> None:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja and preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "image_token": "<image>",
        "extra_special_tokens": {"image_token": "<image>"},
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "processor_class": "LlavaNextProcessor" if following else "LlavaProcessor",
        "chat_template": TEMPLATE,
    }
    _write(folder / "tokenizer_config.json", words)
    picture: dict[str, Any] = {
        "image_processor_type": "LlavaNextImageProcessor" if following else "CLIPImageProcessor",
        "processor_class": words["processor_class"],
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    if following:
        picture |= {"image_grid_pinpoints": PINPOINTS, "do_pad": True}
    _write(folder / "preprocessor_config.json", picture)
    together = {
        "processor_class": words["processor_class"],
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    _write(folder / "processor_config.json", together)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save(model: Any, folder: Path) -> None:
    """A `LlavaForConditionalGeneration` or its LLaVA-NeXT form, float16, with tokenizer and processor."""
    import copy

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(folder)
    write_processor(folder, following=model.config.model_type == "llava_next")


def next_checkpoint(folder: Path, source: Path = HERE / "model", extra: Path = HERE / "next") -> Path:
    """The weights of ``source`` (LLaVA) and what differs in ``extra`` as a whole LLaVA-NeXT checkpoint in ``folder``, which is returned."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    for path in (*source.iterdir(), *extra.iterdir()):
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    tensors = load_file(source / "model.safetensors") | load_file(extra / "newline.safetensors")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def split(whole: Path, source: Path, extra: Path) -> None:
    """The reverse: ``extra`` gets the files of the LLaVA-NeXT checkpoint ``whole`` that differ from the LLaVA checkpoint ``source``."""
    from safetensors.numpy import load_file, save_file

    extra.mkdir(parents=True, exist_ok=True)
    for path in whole.iterdir():
        twin = source / path.name
        if path.suffix != ".safetensors" and not (twin.exists() and twin.read_bytes() == path.read_bytes()):
            shutil.copy(path, extra / path.name)
    known = load_file(source / "model.safetensors")
    own = {n: t for n, t in load_file(whole / "model.safetensors").items() if n not in known}
    save_file(own, extra / "newline.safetensors", {"format": "pt"})


def publish(whole: Path, folder: Path = HERE) -> None:
    """The LLaVA-NeXT checkpoint ``whole`` as ``folder``/model (LLaVA) and ``folder``/next (what differs)."""
    from safetensors.numpy import load_file, save_file

    model = folder / "model"
    write_processor(model)
    _write(model / "generation_config.json", json.loads((whole / "generation_config.json").read_text()))
    tensors = load_file(whole / "model.safetensors")
    llava = config(len(tensors["language_model.lm_head.weight"]))
    llava.architectures, llava.dtype = ["LlavaForConditionalGeneration"], "float16"
    llava.save_pretrained(model)
    del tensors["image_newline"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    split(whole, model, folder / "next")


def main() -> None:
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=Path)
    parser.add_argument("--publish", type=Path)
    parser.add_argument("--next", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--examples", type=Path, default=HERE)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.random:
        vocab = tokenizer().get_vocab_size()
        save(LlavaForConditionalGeneration(config(vocab, shape=args.shape)), args.random / "llava")
        whole = config(vocab, following=True, shape=args.shape)
        save(LlavaNextForConditionalGeneration(whole), args.random / "llava_next")
    if args.publish and args.shape == "small":
        publish(args.publish, args.examples)
    elif args.publish:
        shutil.copytree(args.publish, args.examples / args.shape, dirs_exist_ok=True)
    if args.next:
        next_checkpoint(args.next, args.examples / "model", args.examples / "next")


if __name__ == "__main__":
    main()
