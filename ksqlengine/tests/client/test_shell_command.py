"""`ksqlengine shell` and `ksqlengine run`: what they print and how they exit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from ksqlengine import cli
from ksqlengine.client import shell
from ksqlengine.client.settings import KsqldbSettings


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """Return which statements were sent to which servers; one with NOTHING is refused."""
    found: list[tuple[list[str], str]] = []

    def run_statements(settings: KsqldbSettings, sql: str) -> bool:
        found.append((settings.urls, sql))
        return "NOTHING" not in sql

    monkeypatch.setattr(shell, "run_statements", run_statements)
    return found


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.app(list(arguments))
    return int(left.value.code or 0)


@pytest.mark.parametrize(("sql", "code"), [("SHOW STREAMS;", 0), ("DESCRIBE NOTHING;", 1)])
def test_piped_statements_run_as_a_file_s(
    ran: list[tuple[list[str], str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sql: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(sql))
    assert exit_code("shell", "--server", "http://one", "--server", "http://two") == code
    file = tmp_path / "file.sql"
    file.write_text(sql)
    assert exit_code("run", str(file)) == code
    assert ran == [(["http://one", "http://two"], sql), (["http://127.0.0.1:8088"], sql)]


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", str(tmp_path / "none.sql")) == 1
    assert "none.sql' can't be read" in capsys.readouterr().err


def test_no_server_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit) as left:
        cli.main(["shell", "--server", "http://127.0.0.1:1"])
    assert left.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("ksqlengine: can't read the server's version: no KSQL server is ready")
    assert error.count("\n") == 1


def test_the_command_line_loads_no_engine() -> None:
    code = "import sys, ksqlengine.cli; print({'polars', 'pyarrow', 'starlette', 'lark'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
