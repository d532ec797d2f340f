"""CTranslate2: its own converter and generator."""

import json
import subprocess
import sys
from pathlib import Path

import wire

KINDS = {"fp32": "float32", "int8": "int8"}


def convert(model, out, precision):
    tool = Path(sys.executable).parent / "ct2-transformers-converter"
    subprocess.run([tool, "--model", model, "--output_dir", out, "--quantization", KINDS[precision]], check=True)


class Engine:
    streams = True

    def __init__(self, bundle, precision, threads, context):
        import ctranslate2

        self.generator = ctranslate2.Generator(
            str(bundle), device="cpu", compute_type=KINDS[precision], inter_threads=1, intra_threads=threads
        )
        self.words = json.loads((bundle / "vocabulary.json").read_text())  # this peer's prompts are words, not ids

    def generate(self, prompt, new, first):
        ids = []
        # min_length forbids EOS, which is this peer's way to ignore it.
        for step in self.generator.generate_tokens(
            [self.words[i] for i in prompt], max_length=new, min_length=new, sampling_topk=1
        ):
            if not ids:
                first()
            ids.append(step.token_id)
        return ids


if __name__ == "__main__":
    wire.main(convert, Engine, ["ctranslate2"])
