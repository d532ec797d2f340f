"""The command line: its forms, its exit codes, and that no traceback ever comes out."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys

import click
import engines
import pytest
from click.testing import CliRunner
from engines import ENGINES, PROMPT

from farthing.cli import catalog
from farthing.cli import main as main_module
from farthing.cli.main import COMMANDS, cli, main
from farthing.errors import (
    BundleError,
    CheckpointError,
    FarthingError,
    MissingDependencyError,
    RequestError,
    VerificationError,
)
from farthing.export import methods

IDS = ",".join(map(str, PROMPT))


def call(*arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a call in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def script(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """A call in a process of its own."""
    command = [sys.executable, "-m", "farthing.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# --- the group


def test_help_lists_every_command() -> None:
    code, out, _ = call("--help")
    assert code == 0
    for name, line in COMMANDS.items():
        assert name in out and line in out


def installed() -> list[str]:
    import importlib.util

    return [name for name in COMMANDS if importlib.util.find_spec(f"farthing.cli.{name}")]


@pytest.mark.parametrize("name", installed())
def test_every_command_explains_itself(name) -> None:
    code, out, _ = call(name, "--help")
    assert code == 0 and "Usage:" in out
    assert f"farthing {name}" in out, "an example"
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and (command.help or "").strip()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom farthing.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'tokenizers', 'rich', 'jsonschema'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    import farthing

    assert call("--version") == (0, f"farthing {farthing.__version__}\n", "")


def test_unknown_command_names_the_nearest() -> None:
    code, _, err = call("quantise")
    assert code == 2 and "the nearest is 'quantize'" in err


def test_missing_command_does_not_take_the_others_down(monkeypatch) -> None:
    monkeypatch.setitem(COMMANDS, "later", "Not written yet.")
    code, _, err = call("later")
    assert code == 6 and "command 'later' is not part of this installation" in err
    assert call("methods")[0] == 0


@pytest.mark.parametrize(
    "error, code",
    [
        (FarthingError("x is 1, expected 2; y"), 1),
        (RequestError("x is 1, expected 2; y"), 2),
        (CheckpointError("x is 1, expected 2; y"), 3),
        (BundleError("x is 1, expected 2; y"), 4),
        (VerificationError("x is 1, expected 2; y"), 5),
        (MissingDependencyError("x is 1, expected 2; y"), 6),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 6),
        (ZeroDivisionError("oops"), 70),
        (KeyboardInterrupt(), 130),
        (click.UsageError("bad"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(monkeypatch, error, code) -> None:
    def fail(**_: object) -> None:
        raise error

    command = click.Command("methods", callback=fail)
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda self, ctx, name: command)
    found, out, err = call("methods")
    assert found == code and out == "" and "Traceback" not in err
    if isinstance(error, FarthingError):
        assert err == "error: x is 1, expected 2; y\n"
    if isinstance(error, ModuleNotFoundError) and code == 6 and not isinstance(error, FarthingError):
        assert "pip install 'farthing[export]'" in err
    if code == 70:
        assert "oops" in err and "FARTHING_DEBUG=1" in err
        monkeypatch.setenv("FARTHING_DEBUG", "1")
        assert "Traceback" in call("methods")[2]


def test_reader_that_goes_away() -> None:
    """`farthing methods | head -1`"""
    done = subprocess.run(
        f"{sys.executable} -m farthing.cli methods | head -1",
        shell=True,
        capture_output=True,
        text=True,
        executable="/bin/bash",
    )
    assert done.returncode == 0 and done.stderr == ""


# --- methods


def test_methods() -> None:
    code, out, _ = call("methods", "--json")
    listed = json.loads(out)
    assert code == 0
    assert all(set(m) == {"id", "number", "title", "status", "guarantee"} for m in listed)
    assert [m["number"] for m in listed if m["number"] is not None] == [*range(1, 52)]
    assert len({m["id"] for m in listed}) == len(listed)
    assert {m["guarantee"] for m in listed} <= set(catalog.GUARANTEES)
    assert {m["id"] for m in listed if m["status"] == "working"} == set(methods())
    assert {m["status"] for m in listed} <= {"working", "planned"}
    assert listed[0] == {
        "id": "decoder", "number": None, "status": "working", "guarantee": "exact", "title": listed[0]["title"],
    }  # fmt: skip


def test_method_ids_other_tools_rely_on() -> None:
    fixed = {
        3: "mtp", 4: "judge", 8: "gam", 12: "elm", 21: "zoo-prune", 22: "idpruner", 23: "token-shuffle", 28: "ftp",
        29: "lantern", 37: "nar", 38: "vlora", 39: "ima-skip", 42: "globalcom2", 49: "gsd", 50: "aded", 51: "matryoshka",
    }  # fmt: skip
    by_number = {m.number: m.id for m in catalog.entries()}
    assert {n: by_number[n] for n in fixed} == fixed


def test_status_follows_the_exporter(monkeypatch) -> None:
    monkeypatch.setattr("farthing.export.methods", lambda: ["gam", "something-new"])
    by_id = {m.id: m for m in catalog.entries()}
    assert by_id["gam"].status == "working" and by_id["decoder"].status == "planned"
    assert by_id["something-new"].status == "working"


def test_methods_table() -> None:
    code, out, _ = call("methods", "--working")
    assert code == 0 and "decoder" in out and "seg-moe" not in out


# --- run


@pytest.mark.parametrize("native", ENGINES)
def test_run_json(native) -> None:
    extra = [] if native else ["--no-native"]
    arguments = [
        "run",
        engines.bundle(),
        "--prompt-ids",
        IDS,
        "--max-new-tokens",
        8,
        "--greedy",
        "--ignore-eos",
        "--threads",
        1,
    ]
    code, out, err = call(*arguments, *extra, "--json")
    made = json.loads(out)
    assert code == 0 and err == ""
    assert set(made) == {"prompt_ids", "ids", "text", "stop_reason", "stats"}
    assert made["prompt_ids"] == PROMPT and made["ids"] == engines.greedy(8) and made["stop_reason"] == "length"
    assert made["stats"]["kernels"] is native


def test_run_streams_text_and_reports() -> None:
    code, out, err = call(
        "run", engines.bundle(), "--prompt", "the", "--raw", "--max-new-tokens", 6, "--greedy", "--ignore-eos"
    )
    made = json.loads(
        call(
            "run",
            engines.bundle(),
            "--prompt",
            "the",
            "--raw",
            "--max-new-tokens",
            6,
            "--greedy",
            "--ignore-eos",
            "--json",
        )[1]
    )
    assert code == 0 and out == made["text"] + "\n"
    assert "tokens/s" in err and "6 passes" in err and "length" in err


def test_run_prompt_from_file_and_stdin(tmp_path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("the é\r\n".encode())
    options = ["--max-new-tokens", "1", "--greedy", "--json", "--no-native"]
    from_file = json.loads(call("run", engines.bundle(), "--prompt-file", path, *options)[1])
    given = json.loads(call("run", engines.bundle(), "--prompt", "the é\r\n", *options)[1])
    assert from_file["prompt_ids"] == given["prompt_ids"]
    with path.open() as stream:
        done = script("run", engines.bundle(), "--prompt-file", "-", *options, stdin=stream)
    assert json.loads(done.stdout)["prompt_ids"] == given["prompt_ids"]


def test_run_sampling_reaches_the_engine() -> None:
    def ids(*options: object) -> list[int]:
        arguments = ("--prompt-ids", IDS, "--max-new-tokens", 12, "--ignore-eos", "--json", *options)
        return json.loads(call("run", engines.bundle(), *arguments)[1])["ids"]

    assert (
        ids("--temperature", 2, "--seed", 1)
        == ids("--temperature", 2, "--seed", 1)
        != ids("--temperature", 2, "--seed", 2)
    )
    assert ids("--top-k", 1) == ids("--temperature", 0) == ids("--greedy") == engines.greedy(12)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the prompt is missing"),
        (["--prompt", "x", "--prompt-ids", "5"], "--prompt and --prompt-ids"),
        (["--prompt", ""], "prompt is empty"),
        (["--prompt-ids", "5,x"], "--prompt-ids"),
        (["--prompt-ids", "99999"], "99999"),
        (["--prompt-ids", "99999999999999999999999"], "prompt_ids"),
        (["--prompt-file", "/no/such/file"], "not readable"),
        (["--prompt", "x", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--prompt", "x", "--temperature", "nan"], "temperature is nan"),
        (["--prompt", "x", "--context", "100000"], "context is 100000"),
        (["--prompt", "x", "--threads", "-1"], "threads is -1"),
        (["--prompt", "x", "--stop", ""], "stop string is empty"),
        (["--prompt", "x", "--max-new-tokens", "many"], "'many' is not a valid integer"),
        (["--prompt", "x", "--surprise"], "--surprise"),
    ],
)
def test_run_bad_requests(arguments, message) -> None:
    code, out, err = call("run", engines.bundle(), *arguments)
    assert code == 2 and out == "" and message in err and "Traceback" not in err


def test_run_prompt_file_that_is_not_utf8(tmp_path) -> None:
    (tmp_path / "p").write_bytes(b"abc\xff")
    code, _, err = call("run", engines.bundle(), "--prompt-file", tmp_path / "p")
    assert code == 2 and "not UTF-8 (byte 3)" in err


def test_run_bad_bundle(tmp_path) -> None:
    assert call("run", tmp_path / "nothing", "--prompt", "x")[0] == 4
    bundle = shutil.copytree(engines.bundle(), tmp_path / "bundle")
    with (bundle / "tokenizer" / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    code, _, err = call("run", bundle, "--prompt", "x")
    assert code == 4 and "tokenizer.json" in err and "export the bundle again" in err


def test_run_without_tokenizer() -> None:
    bundle = engines.bundle(tokenizer=False)
    code, out, _ = call("run", bundle, "--prompt-ids", IDS, "--max-new-tokens", 4, "--greedy")
    assert code == 0 and out.strip() == ",".join(map(str, engines.greedy(4)))
    code, _, err = call("run", bundle, "--prompt", "x")
    assert code != 0 and "tokenizer" in err


def test_interrupt_ends_with_130() -> None:
    """Ctrl-C between two tokens."""
    arguments = ["run", engines.bundle(), "--prompt-ids", IDS, "--max-new-tokens", 500, "--ignore-eos"]
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    code = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from farthing.runtime import api\n"
    code += "old = api.Runtime.generate\n"
    code += "def slow(self, *a, **k):\n    k['on_token'] = lambda i: (print('token', file=sys.stderr, flush=True), time.sleep(0.05)) and None\n"
    code += "    return old(self, *a, **k)\n"
    code += "api.Runtime.generate = slow\nfrom farthing.cli.main import main\nmain(sys.argv[1:])\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "token\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err


# --- chat


def test_chat() -> None:
    """A conversation from a pipe: turns grow, /reset starts anew, the second turn reuses the cache."""
    lines = "the\n/stats\nand\n/stats\n\n/reset\n/stats\nthe\n/quit\nnever\n"
    done = script("chat", engines.bundle(), "--greedy", "--max-new-tokens", 4, "--system", "in", input=lines)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == 3 and answers[0] == answers[2]
    counts = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("prompt ")]
    assert len(counts) == 2
    assert "nothing yet" in done.stderr


def test_chat_goes_on_after_a_prompt_that_is_too_long() -> None:
    done = script(
        "chat", engines.bundle(), "--greedy", "--max-new-tokens", 2, "--context", 40, input="x" * 200 + "\nthe\n"
    )
    assert done.returncode == 0 and "longer context" in done.stderr and len(done.stdout.splitlines()) == 1


def test_chat_with_a_base_model() -> None:
    code, _, err = call("chat", engines.bundle(tokenizer=False))
    assert code == 2 and "chat template" in err


# --- bench, doctor


@pytest.mark.parametrize("native", ENGINES)
def test_bench(native) -> None:
    extra = [] if native else ["--no-native"]
    arguments = ["bench", engines.bundle(), "--prompt-tokens", 16, "--new-tokens", 8, "--runs", 2, *extra]
    code, out, _ = call(*arguments, "--json")
    r = json.loads(out)
    assert code == 0 and r["native"] is native and r["threads"] == 1
    for key in (
        "prefill_tokens_per_cpu_second", "prefill_tokens_per_second", "decode_tokens_per_cpu_second", "decode_tokens_per_second",
        "first_token_seconds", "outside_microseconds_per_pass", "open_seconds", "weight_bytes", "kv_bytes", "peak_rss_bytes",
    ):  # fmt: skip
        assert r[key] > 0, key
    code, out, _ = call(*arguments)
    assert code == 0 and "tokens/CPU-s" in out


def test_bench_bad_requests() -> None:
    assert call("bench", engines.bundle(), "--new-tokens", 1)[0] == 2
    assert call("bench", engines.bundle(), "--prompt-tokens", 10**6)[0] == 2
    assert call("bench", "/no/such/bundle")[0] == 4


def test_doctor() -> None:
    code, out, _ = call("doctor", "--json")
    told = json.loads(out)
    assert code == 0 and set(told) == {"version", "native", "findings"}
    parts = {f["part"]: f for f in told["findings"]}
    assert parts["onnxruntime"]["status"] == "ok" and "libonnxruntime" in parts["libonnxruntime"]["found"]
    assert {f["status"] for f in told["findings"]} <= {"ok", "missing", "optional"}
    assert all(f["fix"] for f in told["findings"] if f["status"] == "missing")
    assert "TensorRT" in parts and "extra [export]" in parts and "C++20 compiler" in parts
    code, out, _ = call("doctor")
    assert code == 0 and "TensorRT" in out


def test_doctor_explains_what_is_missing(monkeypatch) -> None:
    from farthing.cli import _look
    from farthing.runtime import engines as choice

    monkeypatch.setattr(choice, "native_parts", lambda: choice.NativeParts(None, None, "the native core is not built"))
    code, out, _ = call("doctor")
    assert code == 0 and "portable mode" in out and "install compiler" in out
    monkeypatch.setattr(_look, "_version", lambda name: None)
    code, out, _ = call("doctor")
    assert code == 6 and "pip install onnxruntime" in out


def test_doctor_and_a_wrong_FARTHING_ORT(monkeypatch) -> None:
    monkeypatch.setenv("FARTHING_ORT", "/no/such/libonnxruntime.so")
    code, out, _ = call("doctor")
    assert code == 0 and "FARTHING_ORT names no file" in out


def test_click_runner() -> None:
    """Embedding the group in another program's tests works too."""
    result = CliRunner().invoke(cli, ["methods", "--json"])
    assert result.exit_code == 0 and len(json.loads(result.stdout)) >= 51
