"""optimum-onnx export, run by plain ONNX Runtime: what the standard exporter gives without a special runtime."""

import json
import subprocess
import sys
from pathlib import Path

import wire


def convert(model, out, precision):
    tool = Path(sys.executable).parent / "optimum-cli"
    subprocess.run([tool, "export", "onnx", "-m", model, "--task", "text-generation-with-past", out], check=True)


class Engine:
    streams = True

    def __init__(self, bundle, precision, threads, context):
        import numpy as np
        import onnxruntime as ort

        self.np, self.value = np, ort.OrtValue.ortvalue_from_numpy
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.inputs = {i.name for i in self.session.get_inputs()}
        config = json.loads((bundle / "config.json").read_text())
        self.empty = np.zeros((1, config["num_key_value_heads"], 0, config["head_dim"]), dtype=np.float32)

    def generate(self, prompt, new, first):
        np = self.np
        past = {name: self.value(self.empty) for name in self.inputs if name.startswith("past")}
        step, ids = np.array([prompt], dtype=np.int64), []
        for i in range(new):
            total = len(prompt) + i
            feeds = {"input_ids": self.value(step), "attention_mask": self.value(np.ones((1, total), dtype=np.int64))}
            if "position_ids" in self.inputs:
                feeds["position_ids"] = self.value(np.arange(total - step.shape[1], total, dtype=np.int64)[None])
            # OrtValues keep the cache inside ONNX Runtime: no copy through numpy.
            out = dict(zip(self.outputs, self.session.run_with_ort_values(self.outputs, feeds | past)))
            past = {name: out[name.replace("past_key_values", "present")] for name in past}
            ids.append(int(out["logits"].numpy()[0, -1].argmax()))
            step = np.array([ids[-1:]], dtype=np.int64)
            if i == 0:
                first()
        return ids


if __name__ == "__main__":
    wire.main(convert, Engine, ["optimum-onnx", "onnxruntime"])
