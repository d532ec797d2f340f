"""The C++ core by itself: its C interface, its memory, and that a pass costs what its length costs, not its capacity."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_programs import build_programs

from farthing.export import export
from farthing.plugins import library_path
from tiny import write_hf

pytestmark = pytest.mark.skipif(
    library_path() is None or shutil.which("cmake") is None, reason="needs the native build and CMake"
)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def programs() -> Path:
    """Folder with the test programs, built once."""
    folder = build_programs(["core_allocations", "capi_check", "images_check", "farthing_ops"])
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    write_hf(folder / "checkpoint")
    export("decoder", folder / "checkpoint", folder / "bundle", check=False)
    return folder / "bundle"


def _onnxruntime() -> Path:
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))


def _run(program: Path, *arguments: object) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_c_interface(programs: Path, bundle: Path, tmp_path: Path) -> None:
    _run(programs / "capi_check", bundle, _onnxruntime(), library_path(), tmp_path / "state")


def test_no_allocation_per_token(programs: Path, bundle: Path) -> None:
    words = _run(programs / "core_allocations", bundle, _onnxruntime(), library_path()).split()
    assert words[0] == "ours" and int(words[1]) == 0
    assert int(words[3]) > 0, "the counter saw nothing at all, not even ONNX Runtime"


@pytest.fixture(scope="session")
def vlm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model with images, half of whose rows can be dropped."""
    import vlm_models

    folder = tmp_path_factory.mktemp("vlm")
    vlm_models.write_llava(folder / "checkpoint", "llava_next")
    export("idpruner", folder / "checkpoint", folder / "bundle", ratios=[0.5], check=False)
    return folder / "bundle"


def test_images_in_cpp(programs: Path, vlm_bundle: Path) -> None:
    """Ids as the Python interface gives them; and refusals."""
    import vlm_models

    import farthing
    from farthing.runtime.visual.images import sample_image

    image = sample_image(5, 40, 30)
    with farthing.load(vlm_bundle, native=True, threads=1) as model:
        for level in ("full", "r50"):
            arguments = (vlm_bundle, _onnxruntime(), library_path(), vlm_models.IMAGE_ID, 40, 30, level)
            done = subprocess.run(
                [programs / "images_check", *map(str, arguments)],
                input=image.tobytes(),
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr.decode()
            made = model.generate(
                prompt_ids=[1, vlm_models.IMAGE_ID, 30, 31],
                images=[image],
                level=level,
                greedy=True,
                max_new_tokens=8,
                ignore_eos=True,
            )
            assert [int(i) for i in done.stdout.split()] == list(made.ids)


def test_no_allocation_per_token_behind_an_image(programs: Path, vlm_bundle: Path) -> None:
    import vlm_models

    words = _run(programs / "core_allocations", vlm_bundle, _onnxruntime(), library_path(), vlm_models.IMAGE_ID).split()
    assert words[0] == "ours" and int(words[1]) == 0
    assert int(words[3]) > 0


@pytest.fixture(scope="session")
def example(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/cpp as a user would build it, against the installed library."""
    folder = tmp_path_factory.mktemp("cpp")
    built, sdk, example = programs.parent, folder / "sdk", folder / "example"
    for command in (
        ["cmake", "--build", built, "--parallel", "2", "--target", "farthing", "farthing_ops"],
        ["cmake", "--install", built, "--component", "sdk", "--prefix", sdk],
        ["cmake", "-S", ROOT / "examples" / "cpp", "-B", example, f"-DCMAKE_PREFIX_PATH={sdk}"],
        ["cmake", "--build", example],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return example


@pytest.mark.parametrize("method", ["decoder", "gam"])
def test_installed_library_gives_the_ids_of_python(example: Path, bundle: Path, method: str) -> None:
    """Greedy and sampled ids equal those of the Python interface, with a cache and with a constant state."""
    import farthing

    if method == "gam":
        import gam_models

        bundle = gam_models.bundle()
    runtime = farthing.load(bundle, native=True, threads=1)
    for prompt, temperature, seed in (
        ("the farthing", 0.0, 0),
        ("Grüße, 世界 🌍", 0.0, 0),
        ("a b c", 0.9, 11),
        ("a b c", 0.9, 12),
    ):
        done = subprocess.run(
            [example / "generate", bundle, prompt, "24", str(temperature), str(seed)],
            env={**os.environ, "FARTHING_ORT": str(_onnxruntime())},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        ids = [int(word) for word in done.stdout.decode().rsplit("ids:", 1)[1].split()]
        made = runtime.generate(prompt, raw=True, max_new_tokens=24, temperature=temperature, seed=seed)
        assert ids == list(made.ids)
