"""The ARM build: C interface, kernels and ONNX Runtime's ARM library in an emulator; `make aarch64` prepares it.

Every processor must give the ids that this machine gives. An emulator proves results, not speed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from test_native_core import _onnxruntime, _run, programs  # noqa: F401 (a fixture)

from farthing.calibration.quantize import Options, quantize
from farthing.export import export
from farthing.plugins import library_path
from tiny import write_hf

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "aarch64"
SYSTEM = Path("/usr/aarch64-linux-gnu")
pytestmark = pytest.mark.skipif(
    not (BUILD / ".stamp").is_file() or shutil.which("qemu-aarch64") is None,
    reason="the ARM build is not there (make aarch64; needs g++-aarch64-linux-gnu and qemu-user)",
)
PROCESSORS = {
    "cortex-a57": "fp asimd evtstrm aes pmull sha1 sha2 crc32",
    "cortex-a76": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
}
"""Without and with dot products of bytes (that of Jetson Orin is a later A78AE), and what Linux says they can do."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in three kinds of weights."""
    folder = tmp_path_factory.mktemp("aarch64")
    export("decoder", write_hf(folder / "checkpoint", "qwen3"), folder / "float32", check=False)
    for weights, block in (("int4", 16), ("int8", 32)):
        quantize(folder / "float32", folder / weights, Options(weights, block, "float16", "int8"), measure=False)
    return {weights: folder / weights for weights in ("float32", "int4", "int8")}


def emulated(processor: str, tmp_path: Path) -> list[str]:
    """The emulator with a root of its own: ONNX Runtime reads /proc/cpuinfo, which is this machine's otherwise, and crashes."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "lib").symlink_to(SYSTEM / "lib")
    core = f"BogoMIPS\t: 50.00\nFeatures\t: {PROCESSORS[processor]}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    core += "CPU variant\t: 0x1\nCPU part\t: 0xd0b\nCPU revision\t: 0\n\n"
    (root / "proc" / "cpuinfo").write_text("".join(f"processor\t: {i}\n{core}" for i in range(2)), encoding="utf-8")
    return ["qemu-aarch64", "-cpu", processor, "-L", str(root)]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("weights", ["float32", "int4", "int8"])
def test_arm_gives_the_same_ids(
    programs: Path,  # noqa: F811
    bundles: dict[str, Path],
    processor: str,
    weights: str,
    tmp_path: Path,
) -> None:
    here = _run(programs / "capi_check", bundles[weights], _onnxruntime(), library_path(), tmp_path / "state")
    library = next(BUILD.glob("wheel/onnxruntime/capi/libonnxruntime.so.*"))
    arguments = [BUILD / "tests" / "capi_check", bundles[weights], library, BUILD / "plugins" / "libfarthing_ops.so"]
    done = subprocess.run(
        [*emulated(processor, tmp_path), *map(str, arguments), str(tmp_path / "arm-state")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == here and "all checks passed" in here and len(here.splitlines()[-1].split()) == 21
