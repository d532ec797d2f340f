"""onnxruntime-genai: its model builder and its token loop."""

import subprocess
import sys

import wire


def convert(model, out, precision):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            model,
            "-o",
            out,
            "-p",
            precision,
            "-e",
            "cpu",
            "-c",
            out.with_suffix(".cache"),
        ],
        check=True,
    )


class Engine:
    streams = True

    def __init__(self, bundle, precision, threads, context):
        import numpy as np
        import onnxruntime_genai as og

        config = og.Config(str(bundle))
        config.overlay('{"model":{"decoder":{"session_options":{"intra_op_num_threads":%d}}}}' % threads)
        self.og, self.np, self.model = og, np, og.Model(config)

    def generate(self, prompt, new, first):
        params = self.og.GeneratorParams(self.model)
        length = len(prompt) + new
        # min_length forbids EOS, which is this peer's way to ignore it.
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self.og.Generator(self.model, params)
        generator.append_tokens(self.np.array([prompt], dtype=self.np.int32))
        for i in range(new):
            generator.generate_next_token()
            if i == 0:
                first()
        return list(generator.get_sequence(0)[len(prompt) :])


if __name__ == "__main__":
    wire.main(convert, Engine, ["onnxruntime-genai", "onnxruntime"])
