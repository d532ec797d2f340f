"""Golden greedy ids of SmolLM2, made with transformers, and the comparison of our implementations with them.

    python benchmarks/golden_smollm2.py make MODEL.gguf             # writes tests/golden/smollm2.json (about 5 minutes)
    python benchmarks/golden_smollm2.py compare MODEL.gguf [BUNDLE] # reference, and the bundle's graph by its bodies

`make` needs torch, transformers, accelerate and gguf. A step where the two best logits differ by less than NEAR is recorded as
a near-tie: float32 sums in another order may rightly choose the other id there, and everything after it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from golden_prompts import PROMPTS

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "smollm2.json"
NEW_TOKENS = 128
NEAR = 1e-3


def encode_all(model: Path) -> dict[str, list[int]]:
    """Ids of all prompts by the tokenizer a bundle gets; refuses to go on where transformers' differ."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from farthing.export.checkpoint import open_checkpoint

    ours = Tokenizer.from_str(open_checkpoint(model).tokenizer().json)
    theirs = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    result = {}
    for name, text in PROMPTS.items():
        ids = ours.encode(text).ids
        if ids != theirs(text).input_ids:
            raise SystemExit(f"ids of prompt {name} differ from transformers'; choose another prompt")
        result[name] = ids
    return result


def make(model: Path) -> None:
    """Greedy ids of every prompt by transformers, float32, one thread; stop tokens do not stop."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    network = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32).eval()
    cases = []
    for name, prompt in encode_all(model).items():
        start = time.perf_counter()
        pending, cache, ids, near = prompt, None, [], []
        with torch.inference_mode():
            for step in range(NEW_TOKENS):
                out = network(torch.tensor([pending]), past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                best = out.logits[0, -1].topk(2)
                if float(best.values[0] - best.values[1]) < NEAR:
                    near.append(step)
                pending = [int(best.indices[0])]
                ids += pending
        cases.append({"name": name, "prompt": PROMPTS[name], "prompt_ids": prompt, "ids": ids, "near_ties": near})
        print(f"{name}: {len(prompt)} ids, {time.perf_counter() - start:.1f} s, near-ties at {near}", flush=True)
    GOLDEN.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)  # one case a line: readable diffs
    header = {"model": model.name, "new_tokens": NEW_TOKENS, "near": NEAR}
    GOLDEN.write_text(json.dumps(header)[:-1] + ', "cases": [\n' + lines + "\n]}\n", encoding="utf-8")


def compare_ids(case: dict[str, Any], found: list[int]) -> str | None:
    """None if ``found`` equals the golden ids up to the first near-tie at which it differs; else what differs."""
    for step, (wanted, got) in enumerate(zip(case["ids"], found, strict=True)):
        if wanted != got:
            return None if step in case["near_ties"] else f"{case['name']}: id {step} is {got}, expected {wanted}"
    return None


def reference_greedy(model: Path) -> Callable[[list[int], int], list[int]]:
    """Greedy decoding by our PyTorch reference."""
    import torch

    from farthing.export.checkpoint import open_checkpoint
    from farthing.models.decoder import Decoder

    torch.set_num_threads(1)
    return Decoder(open_checkpoint(model)).greedy


def bodies_greedy(bundle: Path) -> Callable[[list[int], int], list[int]]:
    """Greedy decoding by the bundle's graph in plain ONNX Runtime: every operator runs as its body."""
    import numpy as np
    import onnxruntime

    from farthing.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(opened.graph("decoder")), options, providers=["CPUExecutionProvider"])
    kv = opened.manifest["kv"]
    pasts = [i.name for i in session.get_inputs() if i.name.startswith("past_") and i.name != "past_len"]
    wanted = ["logits", *(n.replace("past", "present") for n in pasts)]

    def greedy(prompt: list[int], count: int) -> list[int]:
        shape = (1, kv["kv_heads"], len(prompt) + count, kv["head_dim"])
        cache = [np.zeros(shape, np.float32) for _ in pasts]
        pending, past, ids = prompt, 0, []
        for _ in range(count):
            feeds = {
                "input_ids": np.array([pending], np.int64),
                "positions": past + np.arange(len(pending), dtype=np.int64)[None],
                "past_len": np.array([past], np.int64),
                "logit_rows": np.array([[len(pending) - 1]], np.int64),
                **dict(zip(pasts, cache, strict=True)),
            }
            logits, *cache = session.run(wanted, feeds)
            past += len(pending)
            pending = [int(logits[0, 0].argmax())]
            ids += pending
        return ids

    return greedy


def compare(model: Path, bundle: Path | None) -> int:
    """Print one line per implementation and case; returns the number of cases that differ."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    implementations = {"reference": reference_greedy(model)}
    if bundle:
        implementations["graph by bodies"] = bodies_greedy(bundle)
    bad = 0
    for label, greedy in implementations.items():
        identical = 0
        for case in golden["cases"]:
            found = greedy(case["prompt_ids"], golden["new_tokens"])
            identical += found == case["ids"]
            if problem := compare_ids(case, found):
                bad += 1
                print(f"{label}: {problem}", flush=True)
        print(
            f"{label}: {identical} of {len(golden['cases'])} prompts give identical {golden['new_tokens']} ids",
            flush=True,
        )
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("model", type=Path)
    second = commands.add_parser("compare")
    second.add_argument("model", type=Path)
    second.add_argument("bundle", type=Path, nargs="?")
    args = parser.parse_args()
    if args.command == "make":
        make(args.model)
        return 0
    return min(compare(args.model, args.bundle), 1)


if __name__ == "__main__":
    sys.exit(main())
