"""docs/operators.md is what the contracts say, and `farthing ops` prints it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from farthing.cli.ops import ops_command
from farthing.plugins import operators
from farthing.plugins.document import page

ROOT = Path(__file__).parents[2]


def test_page_is_current() -> None:
    found = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert found == page(), "docs/operators.md is old; farthing ops list --markdown > docs/operators.md"


def test_list_as_json_has_every_port() -> None:
    result = CliRunner().invoke(ops_command, ["list", "--json"])
    data = {o["name"]: o for o in json.loads(result.output)}
    assert list(data) == list(operators())
    for name, contract in operators().items():
        assert [p["name"] for p in data[name]["inputs"]] == [p.name for p in contract.inputs]
        assert data[name]["cost"] == contract.cost


def test_check_fails_loudly(monkeypatch) -> None:
    from farthing.plugins.check import reference as module

    monkeypatch.setattr(module, "call_reference", lambda case, tensors: tensors[0] * 0)
    result = CliRunner().invoke(ops_command, ["check", "-o", "Linear", "-f", "reference"], standalone_mode=False)
    assert result.return_value == 5
    assert "FAILED" in result.output and "1x64x64-half" in result.output


def test_unknown_operator_and_face_are_refused() -> None:
    for arguments in (["-o", "Lineal"], ["-f", "bodi"]):
        result = CliRunner().invoke(ops_command, ["check", *arguments])
        assert "expected one of" in str(result.exception)
