"""farthing itself: exported and quantised by its command line, run through its Python interface."""

import subprocess
import sys
import tempfile
from pathlib import Path

import wire


def convert(model, out, precision):
    tool = Path(sys.executable).parent / "farthing"
    if not tool.exists():
        raise SystemExit(
            f"farthing command is missing beside {Path(sys.executable).name}, expected an installed farthing; "
            "run `pip install .` or point --farthing-python to the interpreter that has it"
        )
    export = [tool, "export", "decoder", "--checkpoint", model, "--out"]
    if precision in ("fp32", "fp16"):
        subprocess.run([*export, out, "--dtype", {"fp32": "float32", "fp16": "float16"}[precision]], check=True)
        return
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        full = Path(folder) / "fp32"
        subprocess.run([*export, full], check=True)
        subprocess.run([tool, "quantize", full, "--weights", precision, "--out", out], check=True)


class Engine:
    streams = False  # a request of one token is subtracted, so no callback sits in the measured loop

    def __init__(self, bundle, precision, threads, context, draft="none"):
        import farthing

        self.runtime = farthing.load(str(bundle), threads=threads, context=context, draft="none")
        if draft != "none":
            self.runtime.tune()
            self.runtime.speculate(draft)

    def generate(self, prompt, new, first):
        made = self.runtime.generate(prompt_ids=prompt, max_new_tokens=new, greedy=True, ignore_eos=True)
        self.passes = made.stats["passes"] - -(-len(prompt) // 256)  # without the prefill's
        self.guesses = made.stats["speculation"]
        return made.ids


if __name__ == "__main__":
    wire.main(convert, Engine, ["farthing", "onnxruntime"])
