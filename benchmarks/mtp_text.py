"""Text that a model writes itself, to train its masks on: what drafts are compared with is its own words.

    python benchmarks/mtp_text.py build/smollm2 --out own.jsonl --texts 960

Prompts are questions, small programming tasks, requests for JSON and tables, beginnings of functions of Python's standard library, and
openings of prose. Batches of 16, 200 new ids each, every other batch greedy and the rest at temperature 0.8 over the best 40. Lines are
{"ids": [...], "prompt": n, "t": temperature}. Every tenth subject and every tenth module are left out, for tests.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from farthing.plugins import library_path
from farthing.runtime import tensors as names
from farthing.runtime.bundle import Bundle, open_bundle
from farthing.runtime.plain_feeds import plain_feeds

BATCH, NEW, PROMPT, TEMPERATURE, BEST = 16, 200, 110, 0.8, 40


def listed(text: str) -> list[str]:
    return [" ".join(item.split()) for item in text.split(";")]


SUBJECTS = listed(
    """gravity; photosynthesis; the French Revolution; machine learning; black holes; the water cycle; inflation; vaccines;
the Roman Empire; DNA; electric cars; climate change; Shakespeare; the immune system; volcanoes; budgeting; time
management; healthy breakfasts; learning to swim; job interviews; public speaking; Python programming; recursion;
binary search; hash tables; databases; the internet; cryptography; solar panels; wind power; recycling; ocean
currents; dinosaurs; the moon landing; Mars; telescopes; bees; elephants; penguins; sleep; stress; running; yoga;
chess; guitar; painting; photography; bread baking; coffee; tea; gardening; houseplants; knitting; Japan; Brazil;
Egypt; Canada; the Great Wall of China; Napoleon; Marie Curie; Isaac Newton; Albert Einstein; Ada Lovelace; Mozart;
jazz; democracy; taxes; insurance; supply and demand; startups; teamwork; leadership; negotiation; writing an essay;
poetry; grammar; fractions; algebra; probability; geometry; prime numbers; atoms; acids and bases; magnetism; sound;
light; the human heart; bones; digestion; vitamins; allergies; dogs; cats; horses; earthquakes; rainforests; deserts;
glaciers; maps; compasses; clocks; bridges; trains; airplanes"""
)
QUESTIONS = listed(
    """What is {}?; Explain {} to a child.; Give me five facts about {}.; Write a short paragraph about {}.; Why is {}
important?; List the pros and cons of {}.; Summarize what you know about {} in three sentences.; Write a story that
involves {}.; How can I get started with {}?; What are common misconceptions about {}?"""
)
TASKS = listed(
    """reverses a string; checks if a number is prime; computes the factorial of n; sorts a list with bubble sort; merges two
sorted lists; counts the words in a text; finds the maximum in a list; removes duplicates from a list; reads a CSV
file and returns rows; computes the greatest common divisor; checks if a string is a palindrome; flattens a nested
list; computes the Fibonacci sequence; converts Celsius to Fahrenheit; implements a stack class; implements a queue
with two stacks; parses a date string; validates an email address; transposes a matrix; searches a sorted list with
binary search"""
)
FORMS = (
    "Return a JSON object that describes {} with the keys name, category, year and notes.",
    "Give me a JSON list of three items about {}, each with id, title and score.",
    "Make a Markdown table about {} with three columns.",
)
OPENINGS = listed(
    """Once upon a time; In the beginning of the; The history of; Scientists have discovered that; The most important thing
about; In this chapter we; Dear Sir or Madam,; The city of; Abstract. We present; Ingredients:; The following table
shows"""
)
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def chat(text: str) -> str:
    return f"{SYSTEM}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def prompts(seed: int) -> Iterator[str]:
    """Without end: 40 % questions, 10 % tasks, 10 % forms, 20 % code, 20 % prose."""
    draw = random.Random(seed)
    subjects = [s for i, s in enumerate(SUBJECTS) if i % 10]
    modules = [m for i, m in enumerate(sorted(Path(random.__file__).parent.glob("*.py"))) if i % 10]
    while True:
        kind, subject = draw.random(), draw.choice(subjects)
        if kind < 0.4:
            yield chat(draw.choice(QUESTIONS).format(subject))
        elif kind < 0.5:
            yield chat(f"Write a Python function that {draw.choice(TASKS)}.")
        elif kind < 0.6:
            yield chat(draw.choice(FORMS).format(subject))
        elif kind < 0.8:
            text = draw.choice(modules).read_text(encoding="utf-8", errors="ignore")
            start = text.find("\ndef ", draw.randrange(max(1, len(text) - 500)))
            if start >= 0:
                yield text[start + 1 : start + 1 + draw.randrange(150, 400)]
        else:
            yield f"{draw.choice(OPENINGS)} {subject}"


class Writer:
    """A batch of sequences over the step graph, caches bound in place."""

    def __init__(self, bundle: Bundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        if library := library_path():
            options.register_custom_ops_library(str(library))
        self.session = onnxruntime.InferenceSession(str(bundle.graph(bundle.step_graph)), options)
        self.kv = bundle.manifest["kv"]
        self.stops = bundle.manifest["tokenizer"]["eos_ids"]
        self.noise = np.random.default_rng(0)

    def write(self, given: list[list[int]], temperature: float) -> list[list[int]]:
        """``given`` continued by NEW ids, or up to and with a stop id."""
        lengths = np.array([len(p) for p in given])
        ids = np.zeros((len(given), lengths.max()), np.int64)
        for row, prompt in zip(ids, given):
            row[: len(prompt)] = prompt
        shape = (len(given), self.kv["kv_heads"], int(lengths.max()) + NEW, self.kv["head_dim"])
        layers = range(self.kv["layers"])
        caches = [(n, m, i, np.zeros(shape, np.float32)) for i in layers for n, m in ((names.PAST_K, names.PRESENT_K), (names.PAST_V, names.PRESENT_V))]  # fmt: skip
        past, rows, texts = np.zeros(len(given), np.int64), lengths[:, None] - 1, [list(p) for p in given]
        done = np.zeros(len(given), bool)
        for step in range(NEW):
            logits = self._run(ids, past, rows, caches)
            chosen = self._choose(logits, temperature)
            for b in np.flatnonzero(~done):
                texts[b].append(int(chosen[b]))
                done[b] = chosen[b] in self.stops
            if done.all():
                break
            past, ids, rows = lengths + step, chosen[:, None], np.zeros((len(given), 1), np.int64)
        return texts

    def _choose(self, logits: np.ndarray, temperature: float) -> np.ndarray:
        if temperature == 0:
            return logits.argmax(-1)
        least = np.partition(logits, -BEST, axis=-1)[:, -BEST:][:, :1]
        scores = np.where(logits < least, -np.inf, logits / temperature)
        return (scores + self.noise.gumbel(size=scores.shape)).argmax(-1)

    def _run(self, ids: np.ndarray, past: np.ndarray, rows: np.ndarray, caches: list[Any]) -> np.ndarray:
        io = self.session.io_binding()
        feeds = {
            names.INPUT_IDS: ids,
            names.POSITIONS: past[:, None] + np.arange(ids.shape[1]),
            names.PAST_LEN: past,
            names.LOGIT_ROWS: rows,
            **plain_feeds([i.name for i in self.session.get_inputs()], *ids.shape),
        }
        for name, array in feeds.items():
            io.bind_cpu_input(name, np.ascontiguousarray(array, np.int64))
        for before, after, layer, cache in caches:
            io.bind_cpu_input(before.format(layer), cache)
            io.bind_output(after.format(layer), "cpu", 0, np.float32, cache.shape, cache.ctypes.data)
        io.bind_output(names.LOGITS, "cpu")
        self.session.run_with_iobinding(io)
        return io.get_outputs()[-1].numpy()[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=960)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    tokenizer = Tokenizer.from_str(bundle.text("tokenizer/tokenizer.json"))
    writer, source, began = Writer(bundle), prompts(args.seed), time.process_time()
    with args.out.open("w", encoding="utf-8") as stream:
        for number in range(-(-args.texts // BATCH)):
            given = [tokenizer.encode(next(source), add_special_tokens=False).ids[:PROMPT] for _ in range(BATCH)]
            temperature = TEMPERATURE if number % 2 else 0.0
            for prompt, ids in zip(given, writer.write(given, temperature)):
                stream.write(json.dumps({"ids": ids, "prompt": len(prompt), "t": temperature}) + "\n")
            stream.flush()
            print(f"{(number + 1) * BATCH} texts, {time.process_time() - began:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
