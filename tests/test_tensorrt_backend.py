"""The TensorRT backend of the C++ core as far as it goes without a GPU: compiled, linked, and refusing in the right order."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import engines
import pytest
from native_programs import build_programs

from farthing.errors import BundleError, MissingDependencyError, RequestError
from farthing.export.compile import compile_bundle
from farthing.plugins import library_path
from farthing.runtime.api import load
from farthing.runtime.bundle import open_bundle
from farthing.runtime.bundle.compiled import identity
from farthing.runtime.engines import native_parts

ROOT = Path(__file__).parent.parent
LEAN = "build/rtx/lib/python3*/site-packages/tensorrt_lean_libs/libnvinfer_lean.so*"
needs_cmake = pytest.mark.skipif(
    library_path() is None or shutil.which("cmake") is None, reason="needs the native build and CMake"
)


def _build(target: str) -> Path | None:
    """The test program, built; None when this machine cannot have it."""
    needs = "farthing: TensorRT backend with headers" if target == "tensorrt_check" else None
    folder = build_programs([target], needs)
    return folder and folder / target


@pytest.fixture(scope="session")
def chooser() -> Path:
    program = _build("compiled_check")
    assert program is not None
    return program


@pytest.fixture(scope="session")
def tensorrt() -> Path:
    program = _build("tensorrt_check")
    if program is None:
        pytest.skip(
            "TensorRT's or CUDA's headers are not here: `make rtx` fetches the former, nvcc's package has the latter"
        )
    return program


def _run(program: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout.strip()


def _cudart() -> Path:
    found = [p for root in sorted(Path("/usr/local").glob("cuda*")) for p in sorted(root.glob("lib*/libcudart.so.*"))]
    found += [p for root in sorted(Path("/usr/local").glob("cuda*")) for p in root.glob("targets/*/lib/libcudart.so.*")]
    if not found:
        pytest.skip("no libcudart on this machine")
    return found[0]


def _no_gpu() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("this machine has an NVIDIA driver; what this tests is its absence")


@needs_cmake
def test_it_links_against_tensorrt(tensorrt):
    lean = sorted(ROOT.glob(LEAN))
    if not lean:
        pytest.skip("no TensorRT library to link against: `make rtx` fetches the lean one")
    code, text = _run(tensorrt, "symbols", LD_LIBRARY_PATH=str(lean[0].parent))
    assert code == 0 and text == "110400 1"


@needs_cmake
def test_a_tensorrt_of_another_major_version_is_refused(tensorrt):
    lean = sorted(ROOT.glob(LEAN))
    if not lean:
        pytest.skip("no TensorRT library here: `make rtx` fetches the lean one")
    code, text = _run(tensorrt, "version", lean[0])
    assert code == 1 and "is 11.4.0, expected 10.x" in text and "TENSORRT_ROOT" in text
    code, text = _run(tensorrt, "version", "/no/such/libnvinfer.so")
    assert code == 1 and text.startswith("6 TensorRT is not found") and "FARTHING_TENSORRT" in text
    code, text = _run(tensorrt, "version", _cudart())
    assert code == 1 and "function getInferLibVersion of" in text


@needs_cmake
def test_the_device_is_asked_for_before_tensorrt(tensorrt, tmp_path):
    _no_gpu()
    code, text = _run(tensorrt, "device", _cudart())
    assert code == 1 and text.startswith("6 number of CUDA devices is 0 (")
    # No TensorRT and no engine are there either; the device comes first.
    bundle = shutil.copytree(engines.bundle("llama"), tmp_path / "b", ignore=shutil.ignore_patterns("compiled"))
    code, text = _run(tensorrt, "open", bundle, FARTHING_CUDART=str(_cudart()), FARTHING_TENSORRT="/no/such")
    assert code == 1 and text.startswith("6 number of CUDA devices is 0 (") and "expected at least 1" in text
    code, text = _run(tensorrt, "open", bundle, FARTHING_CUDART="/no/such")
    assert code == 1 and text.startswith("6 CUDA's runtime is not found") and "FARTHING_CUDART" in text


def test_python_reaches_the_backend(monkeypatch):
    _no_gpu()
    if native_parts().core is None:
        pytest.skip("the native core is not built")
    with pytest.raises(
        MissingDependencyError, match=r"number of CUDA devices is 0|CUDA's runtime is|TensorRT backend is not"
    ):
        load(engines.bundle("llama"), backend="tensorrt")
    with pytest.raises(MissingDependencyError, match="the native core is left out, expected present"):
        load(engines.bundle("llama"), backend="tensorrt", native=False)
    with pytest.raises(RequestError, match="backend is 'cuda'"):
        load(engines.bundle("llama"), backend="cuda")
    with pytest.raises(RequestError, match="cuda_graphs is True"):
        load(engines.bundle("llama"), cuda_graphs=True)


@pytest.fixture
def compiled(tmp_path) -> tuple[Path, Path, dict]:
    """(bundle, index.json, its contents) of an engine for TensorRT 10.3.0 on 87 with plugins of ABI 1; the file is no engine."""
    bundle = shutil.copytree(engines.bundle("llama"), tmp_path / "b", ignore=shutil.ignore_patterns("compiled"))
    folder = bundle / "compiled" / "tensorrt" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "decoder.engine").write_bytes(b"abc")
    rows = {"input_ids": [[1, 1], [1, 32], [1, 32]], "logit_rows": [[1, 1], [1, 1], [1, 1]]}
    tree = {"input_ids": [[1, 2], [1, 8], [1, 8]], "logit_rows": [[1, 2], [1, 8], [1, 8]]}
    index = {
        "format": "farthing-compiled",
        "format_version": 1,
        "target": "tensorrt",
        "key": {"bundle": identity(open_bundle(bundle)), "tensorrt": "10.3.0.30", "sm": [87], "plugin_abi": 1},
        "capacity": 64,
        "graphs": {
            "decoder": {
                "file": "decoder.engine",
                "in_place": False,
                "profiles": [{"name": "prefill", "shapes": rows}, {"name": "tree8", "shapes": tree}],
            }
        },
        "files": {
            "decoder.engine": {
                "bytes": 3,
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            }
        },
        "warnings": [],
    }
    (folder / "index.json").write_text(json.dumps(index))
    return bundle, folder / "index.json", index


FITS = ("tensorrt", "10.3.0", 87, 1, 64)


@needs_cmake
def test_an_engine_that_fits_is_taken_with_its_profiles(chooser, compiled):
    code, text = _run(chooser, compiled[0], *FITS)
    assert (code, text) == (0, "0123456789abcdef 64 0 prefill:1-32:1-1 tree8:2-8:2-8")
    assert _run(chooser, compiled[0], "tensorrt", "10.3.0", "-", 1, 0)[0] == 0  # what is not known is not compared


@needs_cmake
@pytest.mark.parametrize(
    ("change", "machine", "words"),
    (
        (lambda i: i["key"].update(bundle="0" * 64), FITS, "graph of .* is 000000000000, expected .* as in the bundle"),
        (
            None,
            ("tensorrt", "10.3.1", 87, 1, 64),
            r"TensorRT version of .* is 10\.3\.0\.30, expected 10\.3\.1 as installed",
        ),
        (None, ("tensorrt", "11.4.0", 87, 1, 64), "TensorRT version of"),
        (None, ("tensorrt", "10.3.0", 110, 1, 64), "compute capability of .* is 87, expected 110 as this device"),
        (None, ("tensorrt", "10.3.0", 87, 2, 64), "plugin ABI of .* is 1, expected 2 as the plugin library here"),
        (None, ("tensorrt", "10.3.0", 87, "-", 64), "plugin library is not loaded, expected one of ABI 1"),
        (None, ("tensorrt", "10.3.0", 87, 1, 65), "context of .* is 64, expected 65 as asked for"),
    ),
)
def test_an_engine_of_something_else_is_refused(chooser, compiled, change, machine, words):
    import re

    bundle, path, index = compiled
    if change:
        change(index)
        path.write_text(json.dumps(index))
    code, text = _run(chooser, bundle, *machine)
    assert code == 1 and text.startswith("4 ") and re.search(words, text), text
    assert re.search("farthing compile|compile with|FARTHING_PLUGINS", text), text  # how to fix it


@needs_cmake
def test_the_nearest_engine_is_the_one_spoken_of(chooser, compiled):
    bundle, path, index = compiled
    other = path.parent.parent / "ffff000000000000"
    shutil.copytree(path.parent, other)
    index["key"]["tensorrt"] = "9.0.0"
    (other / "index.json").write_text(json.dumps(index))
    code, text = _run(chooser, bundle, "tensorrt", "10.3.0", 110, 1, 64)
    assert code == 1 and "compute capability" in text
    shutil.rmtree(bundle / "compiled")
    code, text = _run(chooser, bundle, *FITS)
    assert code == 1 and text.startswith("4 compiled engines of") and "is none" in text


@needs_cmake
@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("{", "not JSON"),
        ("[]", "not JSON"),
        ("{}", "malformed"),
        ('{"format": "farthing-compiled", "format_version": 2, "target": "tensorrt"}', "format of"),
        ("[" * 200000, "nested too deeply"),
    ),
)
def test_a_damaged_index_is_refused(chooser, compiled, text, words):
    compiled[1].write_text(text)
    code, said = _run(chooser, compiled[0], *FITS)
    assert code == 1 and said.startswith("4 ") and words in said, said


@needs_cmake
def test_a_changed_engine_is_refused(chooser, compiled):
    bundle, path, index = compiled
    (path.parent / "decoder.engine").write_bytes(b"abd")
    assert "sha256 of" in _run(chooser, bundle, *FITS)[1]
    (path.parent / "decoder.engine").write_bytes(b"abcd")
    assert "size of" in _run(chooser, bundle, *FITS)[1]
    index["graphs"]["decoder"]["file"] = "../../../manifest.json"
    path.write_text(json.dumps(index))
    assert "not listed" in _run(chooser, bundle, *FITS)[1]


@pytest.mark.skipif(native_parts().missing is not None, reason=str(native_parts().missing))
@pytest.mark.parametrize("storage", ("float32", "int4"))
def test_the_optimised_graph_gives_the_same_ids(tmp_path, monkeypatch, storage):
    from farthing.calibration.quantize import Options, quantize
    from farthing.export.compile import cpu

    bundle = tmp_path / "b"
    shutil.copytree(engines.bundle("llama"), bundle, ignore=shutil.ignore_patterns("compiled"))
    if storage == "int4":
        bundle = quantize(bundle, tmp_path / "q", Options("int4", 16), measure=False).path

    def ids() -> list[int]:
        with load(bundle, native=True, threads=1) as model:
            how = {"prompt_ids": engines.PROMPT, "greedy": True, "max_new_tokens": 40, "ignore_eos": True}
            return model.generate(**how).ids

    wanted = ids()
    monkeypatch.setattr(cpu, "open_seconds", lambda graph, library, *, optimised: 0.1 if optimised else 1.0)
    result = compile_bundle(bundle, "cpu")
    assert ids() == wanted
    # That it is really read: a changed one is refused, and one for another ONNX Runtime is passed by.
    index = json.loads((result.path / "index.json").read_text())
    graph = result.path / "decoder.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    with pytest.raises(BundleError, match=r"size of .*decoder\.onnx is .*compile again"):
        load(bundle, native=True, threads=1)
    index["key"]["onnxruntime"] = "0.0.1"
    (result.path / "index.json").write_text(json.dumps(index))
    assert ids() == wanted
