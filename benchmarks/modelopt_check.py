"""Our rounding of an encoder beside that of NVIDIA's ModelOpt, on the same checkpoint and the same texts: a Markdown table.

    python benchmarks/modelopt_check.py --checkpoint MINILM_DIR [--text F]

ModelOpt quantises the PyTorch model (`modelopt.torch.quantization`) in an environment of its own, which the first call makes; ours is
`farthing quantize` on the exported graph. Every second text calibrates, the others measure. Blocks of 32 without zero points for 4 bits on both sides, per-channel
weights and one scale per activation for 8 bits; word tables and what enters LayerNorm stay in float32. The two float models are compared first.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PINS = ("nvidia-modelopt==0.47.0", "transformers==5.5.4", "requests", "huggingface_hub", "safetensors")
BLOCK = 32
THEIRS = {
    "int4, nearest": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "int4, awq": "INT4_AWQ_CFG",
    "int8 W8A8, max": "INT8_DEFAULT_CFG",
    "int8 W8A8, smoothing": "INT8_SMOOTHQUANT_CFG",
}


def worker(job: Path) -> None:
    """In ModelOpt's environment: embeddings of the measured texts by the float model and by each of its configurations."""
    import modelopt.torch.quantization as mtq
    import torch
    from transformers import AutoModel

    torch.set_num_threads(1)
    told = json.loads((job / "job.json").read_text())
    texts = {half: [torch.tensor([ids]) for ids in told[half]] for half in ("calibration", "measured")}

    def embed(model: Any, half: str) -> np.ndarray:
        with torch.no_grad():
            return np.stack([model(ids).last_hidden_state[0].mean(0).numpy() for ids in texts[half]])

    def open_model() -> Any:
        return AutoModel.from_pretrained(told["checkpoint"], dtype=torch.float32).eval()

    results = {"float": embed(open_model(), "measured")}
    for name in THEIRS.values():
        config = _in_blocks(copy.deepcopy(getattr(mtq, name)))
        made = mtq.quantize(open_model(), config, lambda model: embed(model, "calibration"))
        # Its int8 rounds what enters LayerNorm as well, whose outliers bring the rank correlation to 0.69. We leave that in float.
        mtq.disable_quantizer(made, "*LayerNorm*")
        results[name] = embed(made, "measured")
    np.savez(job / "results.npz", **results)


def _in_blocks(config: Any) -> Any:
    """The configuration with blocks of BLOCK inputs where it has blocks."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "block_sizes" and isinstance(value, dict):
                config[key] = {k: BLOCK if isinstance(v, int) and v > 1 else v for k, v in value.items()}
            else:
                _in_blocks(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _in_blocks(value)
    return config


def theirs(checkpoint: Path, halves: dict[str, list[list[int]]], work: Path) -> dict[str, np.ndarray]:
    from _peers.prepare import Workspace

    python = Workspace(work, []).environment("modelopt", PINS, torch=True)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder)
        (job / "job.json").write_text(json.dumps({"checkpoint": str(checkpoint.resolve()), **halves}))
        subprocess.run([python, __file__, "--worker", folder], check=True, stdout=subprocess.DEVNULL)
        with np.load(job / "results.npz") as found:
            return dict(found)


def main() -> None:
    from farthing.calibration.evaluate_network import outcomes, spearman
    from farthing.calibration.network_data import samples_of
    from farthing.calibration.network_int4 import WeightOptions, quantize_weights
    from farthing.calibration.network_kl import divergence
    from farthing.calibration.static import StaticOptions, quantize_network
    from farthing.export import export
    from farthing.runtime.network import open_network

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a BERT in safetensors with its tokenizer.json")
    parser.add_argument("--text", help="default: Python's own library")
    parser.add_argument("--items", type=int, default=128, help="texts of each half")
    parser.add_argument("--work", type=Path, default=Path("build/peers"), help="where environments are made")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        export("encoder", arguments.checkpoint, place / "float")
        source = open_network(place / "float")
        samples = samples_of(source.bundle, text=arguments.text, limit=2 * arguments.items)
        halves = {
            name: [feeds["input_ids"][0].tolist() for _, feeds in samples.half(which)]
            for which, name in enumerate(("calibration", "measured"))
        }
        embeddings = theirs(arguments.checkpoint, halves, arguments.work)
        plain = np.stack(outcomes(source, samples.half(1)))
        unit = embeddings["float"] / np.linalg.norm(embeddings["float"], axis=1, keepdims=True)
        far = float(np.abs(unit - plain / np.linalg.norm(plain, axis=1, keepdims=True)).max())
        print(f"largest difference of the float models' unit vectors: {far:.1e}\n")
        print("| | choice | KL of similarities, nats | rank correlation |\n|---|---|---|---|")

        def row(who: str, choice: str, wanted: np.ndarray, found: np.ndarray) -> None:
            kl = divergence("similarities", list(wanted), list(found)).kl.value
            print(f"| {who} | {choice} | {kl:.4g} | {spearman(_upper(wanted), _upper(found)):.4f} |", flush=True)

        for choice, name in THEIRS.items():
            row("ModelOpt", choice, embeddings["float"], embeddings[name])
        common = {"text": arguments.text, "limit": arguments.items}
        for rounding in ("nearest", "awq", "gptq"):
            options = WeightOptions(rounding=rounding, symmetric=True, embedding="float32", block=BLOCK)
            made = quantize_weights(place / "float", place / rounding, options, **common)
            row("farthing", f"int4, {rounding}", plain, np.stack(outcomes(open_network(made.path), samples.half(1))))
        for choice, static in (("max", StaticOptions(ranges="max", smooth=False)), ("default", StaticOptions())):
            out = quantize_network(place / "float", place / f"static-{choice}", static, **common)
            found = np.stack(outcomes(open_network(out.path), samples.half(1)))
            row("farthing", f"int8 W8A8, {choice}", plain, found)


def _upper(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
