"""The commands ``heartwatch ksql test | shell | run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from cyclopts import App
from rich.console import Console

from heartwatch.settings import load_settings

app = App(name="ksql", help="Test KSQL without a broker, or talk to the running engine.")

_FAILED, _UNUSABLE = 1, 2


@app.command(name="test")
def run_tests(path: Path, input_file: Path | None = None, output_file: Path | None = None, /) -> None:
    """Run KSQL tests in memory: no broker, no network.

    Exits with 0 when every test passes, 1 when one fails, 2 when a file can't be used.

    Args:
        path: statements, with an input and an output file; a folder of tests or of migrations; a file or folder of SQL tests.
        input_file: JSON file of the records that go in.
        output_file: JSON file of the records that must come out, or of the refusal that is expected.
    """
    from heartwatch.analytic import AnalyticError  # noqa: PLC0415
    from heartwatch.ksql.surroundings import surroundings_of  # noqa: PLC0415
    from ksqlengine.testing.cases import CaseFileError, read_case, read_folder  # noqa: PLC0415
    from ksqlengine.testing.runner import run_case, run_sql_test  # noqa: PLC0415
    from ksqlengine.testing.sql_tests import read_sql_tests, sql_test_files  # noqa: PLC0415

    try:
        if output_file is not None:
            results = [run_case(read_case(path, input_file, output_file))]
        elif input_file is not None:
            raise CaseFileError(
                "an output file is missing; give statements, input and output, a folder, or a file of SQL tests"
            )
        elif path.is_dir() and not sql_test_files(path):
            results = [run_case(case) for case in read_folder(path, surroundings_of)]
        else:
            files = sql_test_files(path) if path.is_dir() else [path]
            results = [run_sql_test(one) for file in files for one in read_sql_tests(file)]
    except (CaseFileError, AnalyticError) as error:
        print(f"heartwatch: {error}", file=sys.stderr)
        sys.exit(_UNUSABLE)
    failed = [result for result in results if result.failure is not None]
    for result in failed:
        print(f"FAILED {result.name}: {result.failure}")
    if len(results) == 1 and failed:
        print(*failed[0].details, sep="\n")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(_FAILED if failed else 0)


@app.default
@app.command
def shell() -> None:
    """Open a KSQL prompt on the running engine (or ksqlDB); statements that are piped in run as those of a file."""
    if not sys.stdin.isatty():
        _run_statements(sys.stdin.read())
    from ksqlengine.client.rest_client import Ksqldb, KsqldbError  # noqa: PLC0415
    from ksqlengine.client.shell import Shell, prompt  # noqa: PLC0415

    settings = load_settings()
    console = Console()
    client = Ksqldb(settings.ksqldb, retry_seconds=0)
    try:
        info = client.info()
        console.print(f"KSQL server {info.version} at {info.url}, service {info.service_id}", highlight=False)
        prompt(Shell(client, console), console, settings.home / "ksql_history")
    except KsqldbError as error:
        _leave(str(error))
    finally:
        client.close()


@app.command
def run(file: Path, /) -> None:
    """Run a file of statements on the running engine (or ksqlDB); the first that fails ends it.

    Args:
        file: statements.
    """
    try:
        sql = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _leave(f"file {str(file)!r} can't be read: {error}")
    _run_statements(sql)


def _run_statements(sql: str) -> NoReturn:
    from ksqlengine.client.rest_client import Ksqldb  # noqa: PLC0415
    from ksqlengine.client.shell import Shell, run_shown  # noqa: PLC0415

    client = Ksqldb(load_settings().ksqldb, retry_seconds=5)
    try:
        good = run_shown(Shell(client, Console()), Console(stderr=True), sql)
    finally:
        client.close()
    sys.exit(0 if good else _FAILED)


def _leave(message: str) -> NoReturn:
    print(f"heartwatch: {message}", file=sys.stderr)
    sys.exit(_FAILED)
