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

    def __init__(self, bundle, precision, threads, context, draft="none"):
        import numpy as np
        import onnxruntime_genai as og

        config = og.Config(str(bundle))
        config.overlay('{"model":{"decoder":{"session_options":{"intra_op_num_threads":%d}}}}' % threads)
        if draft == "ngram":
            # As its documentation recommends: chained lookup, width and pauses adapted to what is accepted.
            config.overlay(
                '{"speculative":{"ngram_size":3,"max_draft_tokens":8,"ngram_chained_lookup":true,"min_adaptive_k":2,"cooldown":true}}'
            )
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
        if hasattr(generator, "get_speculative_stats"):
            self.guesses = dict(generator.get_speculative_stats() or {})
        return list(generator.get_sequence(0)[len(prompt) :])


if __name__ == "__main__":
    wire.main(convert, Engine, ["onnxruntime-genai", "onnxruntime"])
