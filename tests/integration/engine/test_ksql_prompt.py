"""The KSQL prompt against a running engine."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_process import EngineProcess
from rich.console import Console

from heartwatch.ksql.commands import app
from ksqlengine import cli
from ksqlengine.client.rest_client import Ksqldb
from ksqlengine.client.settings import KsqldbSettings
from ksqlengine.client.shell import Shell, run_shown

pytestmark = pytest.mark.parts("kafka", "registry")


@pytest.fixture
def session(engines: Callable[[str], EngineProcess]) -> Iterator[Callable[[str], str]]:
    """Return what runs statements and gives what the prompt prints."""
    client = Ksqldb(KsqldbSettings(urls=[engines("engine").start().url]), retry_seconds=5)
    console = Console(file=io.StringIO(), width=200)
    shell = Shell(client, console)

    def run(sql: str) -> str:
        console.file = io.StringIO()
        run_shown(shell, console, sql)
        return console.file.getvalue()

    yield run
    client.close()


def test_a_session(session: Callable[[str], str], tmp_path: Path) -> None:
    topic = f"prompt_{time.time_ns()}"
    assert "auto.offset.reset is set to 'earliest'" in session("SET 'auto.offset.reset' = 'earliest';")
    session(f"DEFINE topic = '{topic}';")
    created = session(
        "CREATE STREAM samples (id INT KEY, pulse INT) WITH (KAFKA_TOPIC='${topic}', VALUE_FORMAT='JSON', PARTITIONS=1);"
    )
    assert "Stream created" in created
    assert topic in session("SHOW STREAMS;")

    script = tmp_path / "rows.sql"
    script.write_text("INSERT INTO samples VALUES (1, 60);\nINSERT INTO samples VALUES (2, 61);\n")
    session(f"RUN SCRIPT '{script}';")
    pushed = session("SELECT id, pulse + 1 AS next FROM samples EMIT CHANGES LIMIT 2;")
    assert [text in pushed for text in ("ID", "NEXT", "61", "62", "2 rows")] == [True] * 5
    assert '"PULSE":60' in session("PRINT '${topic}' FROM BEGINNING LIMIT 1;".replace("${topic}", topic)).replace(
        " ", ""
    )

    described = session("DESCRIBE samples;")
    assert [text in described for text in ("SAMPLES", "PULSE", "INTEGER", "KEY")] == [True] * 4

    assert "line 1:7: Syntax Error" in session("SELECT;")
    assert "NOTHING" in session("DESCRIBE nothing;")
    assert "Source `SAMPLES` (topic:" in session("DROP STREAM samples DELETE TOPIC;")


@pytest.mark.parametrize(
    ("sql", "code"), [("SHOW STREAMS; SHOW QUERIES;", 0), ("SHOW STREAMS; SELECT;", 1)], ids=["good", "refused"]
)
def test_piped_statements_run_as_a_file_s(
    engines: Callable[[str], EngineProcess],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sql: str,
    code: int,
) -> None:
    url = engines("engine").start().url
    monkeypatch.setenv("HEARTWATCH_KSQLDB__URLS", f'["{url}"]')
    monkeypatch.setattr("sys.stdin", io.StringIO(sql))
    with pytest.raises(SystemExit) as left:
        app(["shell"])
    shown = capsys.readouterr()
    assert left.value.code == code
    assert "Stream" in shown.out, "what comes before the refused statement has run"
    assert ("Syntax Error" in shown.err) == bool(code)


def test_ksqlengine_s_own_command_takes_the_server_s_address(
    engines: Callable[[str], EngineProcess],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    url = engines("engine").start().url
    file = tmp_path / "statements.sql"
    file.write_text("SHOW STREAMS; SELECT;")
    monkeypatch.setattr("sys.stdin", io.StringIO("SHOW STREAMS;"))
    for arguments, code in ((["shell"], 0), (["run", str(file)], 1)):
        with pytest.raises(SystemExit) as left:
            cli.main([*arguments, "--server", url])
        shown = capsys.readouterr()
        assert left.value.code == code
        assert "Stream" in shown.out
        assert ("Syntax Error" in shown.err) == bool(code)
