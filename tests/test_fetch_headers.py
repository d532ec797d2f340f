"""The finder of native dependencies, as far as it goes without a network."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "cmake" / "fetch_headers.py"


@pytest.fixture
def fetcher() -> ModuleType:
    """Load the script as a module."""
    spec = importlib.util.spec_from_file_location("fetch_headers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fake_package(folder: Path, header: str, stamp: dict[str, str] | None = None) -> None:
    """Lay out a header as an unpacked package has it."""
    (folder / "usr/include" / header).parent.mkdir(parents=True)
    (folder / "usr/include" / header).touch()
    if stamp is not None:
        (folder / ".farthing-package.json").write_text(json.dumps(stamp), encoding="utf-8")


def test_nothing_to_do_needs_no_network(fetcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched before is found again, without running any program."""
    stamp = {"architecture": "amd64"}
    fake_package(tmp_path / "deps/libonnxruntime-dev", "onnxruntime/onnxruntime_c_api.h", stamp)
    monkeypatch.setattr(fetcher, "SYSTEM_ROOTS", ())
    monkeypatch.setattr(fetcher, "run", lambda *_: pytest.fail("a program was run"))
    monkeypatch.delenv("ONNXRUNTIME_ROOT", raising=False)
    assert fetcher.main(["--build-dir", str(tmp_path), "--only", "libonnxruntime-dev"]) == 0


def test_unfinished_or_foreign_download_is_not_trusted(fetcher: ModuleType, tmp_path: Path) -> None:
    """A folder without a stamp, or for another architecture, is fetched again."""
    package = fetcher.PACKAGES[0]
    fake_package(tmp_path / "a", "onnxruntime/onnxruntime_c_api.h")
    fake_package(tmp_path / "b", "onnxruntime/onnxruntime_c_api.h", {"architecture": "arm64"})
    assert not fetcher.already_fetched(package, tmp_path / "a", None)
    assert not fetcher.already_fetched(package, tmp_path / "b", "amd64")
    assert fetcher.already_fetched(package, tmp_path / "b", "arm64")


def test_own_root_comes_first_and_must_be_right(
    fetcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNXRUNTIME_ROOT is used, or refused with a remedy; never passed over."""
    fake_package(tmp_path / "own", "onnxruntime_c_api.h")
    arguments = ["--build-dir", str(tmp_path), "--only", "libonnxruntime-dev"]
    monkeypatch.setenv("ONNXRUNTIME_ROOT", str(tmp_path / "own/usr"))
    assert fetcher.main(arguments) == 0
    monkeypatch.setenv("ONNXRUNTIME_ROOT", str(tmp_path / "nowhere"))
    assert fetcher.main(arguments) == 1
    assert "expected a folder with include/" in capsys.readouterr().err


def test_other_systems_are_told_what_to_do(
    fetcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without apt the message names the variables to set."""
    monkeypatch.setattr(fetcher, "SYSTEM_ROOTS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetcher.main(["--build-dir", str(tmp_path), "--only", "libpcre2-dev"]) == 1
    assert "PCRE2_ROOT" in capsys.readouterr().err
    with pytest.raises(fetcher.FetchError, match="expected Debian or Ubuntu"):
        fetcher.family({"ID": "fedora"})


def test_families_and_newer_suites(fetcher: ModuleType) -> None:
    """Derived systems count as their parent, and only newer suites of the same mirror are asked."""
    assert fetcher.family({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}) == "ubuntu"
    assert fetcher.family({"ID": "raspbian", "ID_LIKE": "debian"}) == "debian"
    own = [fetcher.Source("mirror:/x", "trixie", ("main",)), fetcher.Source("mirror:/y", "trixie-security", ("main",))]
    suites = [[(s.uri, s.suite) for s in sources] for sources in fetcher.newer_sources("debian", own, "trixie")]
    assert suites == [[("mirror:/x", "sid")]]
