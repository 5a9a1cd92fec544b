"""`heartwatch ksql test` over this project's migrations, with the variables and schemas of their analytic."""

from __future__ import annotations

from pathlib import Path

import pytest

from heartwatch.ksql.commands import run_tests
from heartwatch.settings import ROOT


def exit_code(*files: Path) -> int:
    with pytest.raises(SystemExit) as left:
        run_tests(*files)
    return int(left.value.code or 0)


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "ksql").glob("*/tests")))
def test_the_migrations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = exit_code(folder)
    assert code == 0, capsys.readouterr().out


def test_migrations_of_an_unknown_analytic_are_unusable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ksql" / "nothing"
    (folder / "tests" / "one").mkdir(parents=True)
    (folder / "V000001__make.sql").write_text("CREATE STREAM s (v INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');")
    assert exit_code(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("heartwatch: ")
    assert "nothing" in error
