"""OpenVINO GenAI: optimum-intel export, LLMPipeline with the SDPA backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import wire


def convert(model, out, precision):
    tool = Path(sys.executable).parent / "optimum-cli"
    config = json.loads((model / "config.json").read_text())
    extra = []
    if precision == "int4" and any(config[size] % 128 for size in ("hidden_size", "intermediate_size")):
        extra = ["--group-size", "64"]  # the default, 128, is refused when it does not divide the rows
    subprocess.run(
        [
            tool,
            "export",
            "openvino",
            "-m",
            model,
            "--task",
            "text-generation-with-past",
            "--weight-format",
            precision,
            *extra,
            out,
        ],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


class Engine:
    streams = True

    def __init__(self, bundle, precision, threads, context, draft="none"):
        import numpy as np
        import openvino
        import openvino_genai as genai

        self.np, self.tensor, self.genai = np, openvino.Tensor, genai
        options = {"INFERENCE_NUM_THREADS": threads, "ATTENTION_BACKEND": "SDPA"}
        if precision == "fp32":
            # Without the hints this peer may compute in bf16 and keep an 8-bit KV cache: not the fp32 class any more.
            options |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        self.lookup = draft == "lookup"
        if self.lookup:
            options["prompt_lookup"] = True
            options["ATTENTION_BACKEND"] = "PA"  # the one that has it
        self.pipe = genai.LLMPipeline(str(bundle), "CPU", **options)

    def generate(self, prompt, new, first):
        class Mark(self.genai.StreamerBase):
            seen = False

            def write(self, token):
                if not self.seen:
                    self.seen = True
                    first()
                return self.status.RUNNING

            def end(self):
                pass

        Mark.status = self.genai.StreamingStatus
        inputs = self.genai.TokenizedInputs(
            self.tensor(self.np.array([prompt], dtype=self.np.int64)),
            self.tensor(self.np.ones((1, len(prompt)), dtype=self.np.int64)),
        )
        config = self.genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        if self.lookup:
            config.max_ngram_size, config.num_assistant_tokens = 3, 5  # as in its samples
        return self.pipe.generate(inputs, config, Mark()).tokens[0]


if __name__ == "__main__":
    wire.main(convert, Engine, ["openvino-genai", "openvino"])
