"""`farthing compile` without TensorRT: profiles, plans, keys, and every refusal."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import engines
import onnx
import pytest

import farthing
from farthing.errors import BundleError, MissingDependencyError, RequestError
from farthing.export.compile import Ranges, build_engine, compile_bundle, parse_dims
from farthing.export.compile.profiles import default_tree, profiles
from farthing.runtime.bundle import open_bundle
from farthing.runtime.bundle.compiled import identity, key_folder, open_compiled


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


without_gpu = pytest.mark.skipif(
    _has_driver(), reason="this machine has an NVIDIA driver; what it tests is its absence"
)


@pytest.fixture
def bundle() -> Path:
    return engines.bundle("llama")


@without_gpu
def test_without_a_device_it_stops_before_tensorrt_and_says_what_to_do(bundle):
    with pytest.raises(MissingDependencyError, match=r"number of CUDA devices is 0 .*expected at least 1; .*--plan"):
        compile_bundle(bundle, "tensorrt")
    assert "tensorrt" not in sys.modules
    assert not (bundle / "compiled").exists()
    done = subprocess.run(
        [sys.executable, "-m", "farthing.cli", "compile", str(bundle), "--target", "tensorrt"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6 and "number of CUDA devices is 0" in done.stderr and "Traceback" not in done.stderr


def test_a_plan_has_all_that_the_device_needs(bundle, tmp_path):
    result = compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "plan", context=64, chunk=16, tree=[8])
    folder = result.path
    assert {p.name for p in folder.iterdir()} == {
        "plan.json", "build_engine.py", "README.md", "decoder.onnx", "decoder.onnx.data"
    }  # fmt: skip
    plan = json.loads((folder / "plan.json").read_text())
    assert [p["name"] for p in plan["graphs"][0]["profiles"]] == ["decode", "prefill", "tree8"]
    assert plan["graphs"][0]["profiles"][1]["shapes"] == {
        "input_ids": [[1, 1], [1, 16], [1, 16]],
        "positions": [[1, 1], [1, 16], [1, 16]],
        "logit_rows": [[1, 1], [1, 1], [1, 1]],
    }
    assert plan["key"]["bundle"] == identity(open_bundle(bundle)) and plan["needs_device"]
    onnx.checker.check_model(str(folder / "decoder.onnx"))  # its weights are beside it, in files of its own
    model = onnx.load(str(folder / "decoder.onnx"), load_external_data=False)
    cache = next(i for i in model.graph.input if i.name == "past_k.0")
    assert [d.dim_value for d in cache.type.tensor_type.shape.dim] == [1, 2, 64, 12]
    own, tool = result.commands
    assert own.startswith("python3 build_engine.py . ") and own in (folder / "README.md").read_text()
    assert "--stronglyTyped" in tool and "--maxShapes=input_ids:1x16" in tool
    again = compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "again", context=64, chunk=16, tree=[8])
    assert (again.path / "plan.json").read_bytes() == (folder / "plan.json").read_bytes()


@without_gpu
def test_the_carried_builder_runs_alone_and_stops_without_a_device(bundle, tmp_path):
    folder = compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "plan", context=64).path
    done = subprocess.run(
        # -I: no site of ours, no PYTHONPATH: nothing of farthing.
        [sys.executable, "-I", "-S", "build_engine.py", ".", "out/x"], cwd=folder, capture_output=True, text=True
    )  # fmt: skip
    answer = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 6 and not answer["ok"] and "number of CUDA devices is 0" in answer["error"]
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"target": "tpu"}, "target is 'tpu'"),
        ({"target": "tensorrt", "plan": "here"}, "--trt is not given"),
        ({"target": "tensorrt", "plan": "here", "trt": "8.6"}, "TensorRT version is '8.6'"),
        ({"target": "tensorrt", "sm": [87]}, r"--sm is \[87\]"),
        ({"target": "tensorrt-rtx", "sm": [87]}, "--sm is 87.*no Jetson"),
        ({"target": "tensorrt-rtx", "plan": "here"}, "--plan is here"),
        ({"target": "tensorrt-rtx", "plugins": "x.so"}, "takes no plugins"),
        ({"target": "cpu", "trt": "10.3"}, "--trt is 10.3"),
        ({"target": "tensorrt", "context": 1 << 20}, "context is 1048576, expected at most 512"),
        ({"target": "tensorrt", "context": 0}, "context is 0"),
        ({"target": "tensorrt", "chunk": 0}, "chunk is 0"),
        ({"target": "tensorrt", "tree": [8, 4]}, r"tree is \[8, 4\]"),
        ({"target": "tensorrt", "tree": [1]}, r"tree is \[1\]"),
    ),
)
def test_requests_that_cannot_be_are_refused(bundle, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=words):
        compile_bundle(bundle, **options)
    assert not list(tmp_path.iterdir())


def test_a_plan_goes_into_an_empty_folder_only(bundle, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(RequestError, match="not empty"):
        compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_carried_folder_that_was_changed_is_refused(bundle, tmp_path, monkeypatch):
    folder = compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "plan", context=64).path
    with (folder / "decoder.onnx.data").open("r+b") as stream:
        stream.write(b"x")
    monkeypatch.setattr(build_engine, "device_sm", lambda: 87)
    with pytest.raises(build_engine.Refused, match=r"sha256 of .*decoder\.onnx\.data is .*carry the folder again"):
        build_engine.run(folder, tmp_path / "out")
    (folder / "plan.json").write_text(json.dumps({"format": "farthing-plan", "format_version": 99}))
    with pytest.raises(build_engine.Refused, match="another kind or version"):
        build_engine.run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plan_for_another_generation_of_tensorrt_is_refused(bundle, tmp_path, monkeypatch):
    folder = compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "plan", context=64).path
    monkeypatch.setattr(build_engine, "device_sm", lambda: 110)
    monkeypatch.setattr(build_engine, "load_tensorrt", lambda name: SimpleNamespace(__version__="10.16.1"))
    with pytest.raises(build_engine.Refused, match=r"TensorRT here is 10\.16\.1, expected 10\.3 .*--trt 10\.16\.1"):
        build_engine.run(folder, tmp_path / "out")


def test_the_builder_and_the_lowering_agree_on_generations():
    from farthing.export.lower import generation

    versions = ("10.0", "10.3", "10.9", "10.10", "10.14.1", "10.15", "10.16", "11.0", "11.4.1")
    for a in versions:
        for b in versions:
            assert build_engine._same_generation(a, b) == (generation(a) == generation(b)), (a, b)


def test_unused_inputs_are_refused_in_any_spelling():
    build_engine.check_warnings("g", ["Make sure input x has Int64 binding."])
    for line in ("ModelImporter.cpp:9: Unused Input: lengths", "unused input: lengths"):
        with pytest.raises(build_engine.Refused, match="expected every input to be used"):
            build_engine.check_warnings("g", [line])


@pytest.fixture(scope="module")
def plugin_libraries(tmp_path_factory):
    """Shared libraries that say their ABI as our plugin library does: what is tested is the question, not a plugin."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("plugins")

    def made(name: str, text: str) -> Path:
        (folder / f"{name}.c").write_text(text)
        path = folder / f"{name}.so"
        subprocess.run([compiler, "-shared", "-fPIC", str(folder / f"{name}.c"), "-o", str(path)], check=True)
        return path

    def about(text: str) -> str:
        return f'const char* farthing_tensorrt_about(void) {{ return "{text}"; }}'

    return {
        "right": made("right", about("abi 1; headers 10.14; operators SwiGLU Linear Unheard")),
        "future": made("future", about("abi 999; headers 12.0; operators SwiGLU")),
        "other": made("other", "int something(void) { return 1; }"),
    }


def test_plugin_library_of_another_abi_is_refused(bundle, tmp_path, plugin_libraries):
    for name, words in (("future", r"ABI of plugin library .* is 999, expected 1"), ("other", "not usable")):
        with pytest.raises(BundleError, match=words):
            compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "p", plugins=plugin_libraries[name])
    with pytest.raises(BundleError, match="not usable"):
        compile_bundle(bundle, "tensorrt", trt="10.3", plan=tmp_path / "p", plugins=tmp_path / "absent.so")
    assert not (tmp_path / "p").exists()


def test_a_plan_with_plugins_keeps_their_nodes(bundle, tmp_path, plugin_libraries):
    folder = compile_bundle(
        bundle, "tensorrt", trt="10.3", plan=tmp_path / "p", plugins=plugin_libraries["right"], context=64
    ).path
    model = onnx.load(str(folder / "decoder.onnx"), load_external_data=False)
    assert {n.op_type for n in model.graph.node if n.domain} == {"SwiGLU", "Linear"} and not model.functions
    plan = json.loads((folder / "plan.json").read_text())
    assert not plan["graphs"][0]["in_place"]  # no plugin for the cache: ScatterND, which needs two
    assert plan["plugins"] == {"abi": 1, "library": "right.so"} and "right.so" in plan["files"]


def test_profiles_refuse_symbols_they_do_not_know():
    graph = {"inputs": [{"name": "scores", "dtype": "float32", "shape": ["B", "N"]}]}
    with pytest.raises(RequestError, match=r"range of dimension N of scores in graph g is unknown.*--dim N="):
        profiles("g", graph, Ranges(64, 16))
    made = profiles("g", graph, Ranges(64, 16, extra=parse_dims(["N=1:10:20"])))
    assert made == [
        {"name": "decode", "shapes": {"scores": [[1, 1], [1, 10], [1, 20]]}}
    ]  # all steps alike: one profile
    for wrong in ("N", "N=1:2", "N=a:b:c"):
        with pytest.raises(RequestError, match="--dim is"):
            parse_dims([wrong])
    with pytest.raises(RequestError, match="range of N is 3:2:1"):
        Ranges(extra={"N": (3, 2, 1)}).checked()


def test_trees_get_profiles_where_drafts_are_verified():
    assert default_tree("autoregressive", 2048) == ()
    assert default_tree("speculative", 2048) == (8, 16, 32, 64) and default_tree("speculative", 20) == (8, 16)


def test_keys_differ_by_everything_an_engine_depends_on(bundle, tmp_path):
    def key(**changes) -> str:
        options = {"trt": "10.3", "context": 64, "chunk": 16, **changes}
        source = options.pop("source", bundle)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return key_folder(compile_bundle(source, "tensorrt", plan=folder, **options).notes)

    keys = [key(), key(context=65), key(chunk=17), key(trt="10.16"), key(tree=[8]), key(source=engines.bundle("qwen3"))]
    assert len(set(keys)) == len(keys) and key() == keys[0]


@pytest.mark.parametrize(
    ("change", "words"),
    (
        (lambda i: i.update(format="x"), "format of"),
        (lambda i: i.update(format_version=2), "format of"),
        (lambda i: i.pop("files"), "unreadable"),
        (lambda i: i["files"]["decoder.engine"].update(bytes=4), "size of"),
        (lambda i: i["files"]["decoder.engine"].update(sha256="0" * 64), "sha256 of"),
        (lambda i: i["graphs"]["decoder"].update(file="other.engine"), "not listed"),
        (lambda i: i["files"].update({"../../x": {"bytes": 1, "sha256": ""}}), "no plain file"),
    ),
)
def test_a_damaged_index_is_refused(tmp_path, change, words):
    (tmp_path / "decoder.engine").write_bytes(b"abc")
    index = {
        "format": "farthing-compiled",
        "format_version": 1,
        "target": "tensorrt",
        "key": {},
        "capacity": 1,
        "graphs": {"decoder": {"file": "decoder.engine", "profiles": [], "seconds": 0}},
        "files": {
            "decoder.engine": {
                "bytes": 3,
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            }
        },
        "warnings": [],
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    open_compiled(tmp_path)
    change(index)
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match=words):
        open_compiled(tmp_path)


def test_missing_rtx_names_the_extra(bundle, monkeypatch):
    monkeypatch.setenv("FARTHING_RTX_PYTHON", "/no/such/python")
    with pytest.raises(MissingDependencyError, match="FARTHING_RTX_PYTHON is '/no/such/python'"):
        compile_bundle(bundle, "tensorrt-rtx")
    monkeypatch.delenv("FARTHING_RTX_PYTHON")
    import importlib.util

    if importlib.util.find_spec("tensorrt_rtx") is None:
        with pytest.raises(MissingDependencyError, match=r"package tensorrt_rtx is not installed.*farthing\[rtx\]"):
            compile_bundle(bundle, "tensorrt-rtx")
    assert not (bundle / "compiled" / "tensorrt-rtx").exists() or os.listdir(bundle / "compiled" / "tensorrt-rtx") == []


def test_it_is_called_from_the_package():
    assert farthing.compile is compile_bundle


def test_cpu_keeps_what_opens_faster_and_finds_it_again(bundle, tmp_path, monkeypatch):
    from farthing.export.compile import cpu

    seconds = {False: 1.0, True: 0.5}
    monkeypatch.setattr(cpu, "open_seconds", lambda graph, library, *, optimised: seconds[optimised])
    first = compile_bundle(bundle, "cpu", out=tmp_path)
    assert first.notes["kept"] and not first.cached and (first.path / "decoder.onnx").is_file()
    assert compile_bundle(bundle, "cpu", out=tmp_path).cached
    shutil.rmtree(first.path)
    seconds[True] = 0.95
    assert compile_bundle(bundle, "cpu", out=tmp_path).notes["kept"] is False
    assert not list(tmp_path.iterdir())


def test_cpu_measures_real_sessions(bundle):
    from farthing.export.compile.cpu import open_seconds

    assert 0 < open_seconds(bundle / "graphs" / "decoder.onnx", None, optimised=False, rounds=1) < 60
    with pytest.raises(BundleError, match=r"opening .*manifest\.json is failed"):
        open_seconds(bundle / "manifest.json", None, optimised=False, rounds=1)


def test_compiling_needs_no_torch(bundle, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import farthing; farthing.compile(sys.argv[1], 'tensorrt', trt='10.3', plan=sys.argv[2], context=64)"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle, tmp_path / "plan"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("trt", "in_place"), (("10.3", False), ("10.13", False), ("10.16", True), ("11.4", True)))
def test_the_cache_is_one_buffer_only_where_the_engine_allows_it(bundle, tmp_path, trt, in_place):
    folder = compile_bundle(bundle, "tensorrt", trt=trt, plan=tmp_path / "p", context=64).path
    assert json.loads((folder / "plan.json").read_text())["graphs"][0]["in_place"] is in_place
    makers = {o: n.op_type for n in onnx.load(str(folder / "decoder.onnx")).graph.node for o in n.output}
    assert makers["present_k.0"] == ("TensorScatter" if in_place else "ScatterND")


def test_commands_of_graphs_with_fixed_sizes_have_no_empty_options():
    from farthing.export.compile.plan import trtexec

    shapes = {"x": [[1, 1], [1, 4], [1, 8]]}
    graphs = [
        {"name": "fixed", "file": "fixed.onnx", "profiles": [{"name": "decode", "shapes": {}}]},
        {"name": "free", "file": "free.onnx", "profiles": [{"name": "decode", "shapes": shapes}]},
    ]
    fixed, free = trtexec({"plugins": None, "graphs": graphs})
    assert fixed == "trtexec --onnx=fixed.onnx --saveEngine=fixed.engine --stronglyTyped"
    assert free.endswith("--profile=0 --minShapes=x:1x1 --optShapes=x:1x4 --maxShapes=x:1x8")
