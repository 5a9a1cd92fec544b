"""The commands ``heartwatch check`` and ``heartwatch ksql test | explain | shell | run``.

The latter are those of `ksqlengine`, with an analytic's variables and our servers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from cyclopts import App

from heartwatch.settings import SECRETS_FOLDER, load_settings

app = App(name="ksql", help="Test KSQL without a broker, or talk to the running engine.")

_FAILED, _UNUSABLE = 1, 2
_TEST_AHEAD_MS = 300_000
"""How far a record's event time may lie ahead of the record's own in a test, ms: those that people write are less near."""
_SERVERS_CACHE = "10000000"
"""Cache of the clusters' KSQL servers, bytes; ksqlDB's own tests run without one."""


@app.command(name="test")
def run_tests(path: Path, input_file: Path | None = None, output_file: Path | None = None, /) -> None:
    """Run KSQL tests in memory: no broker, no network.

    A record whose TIMESTAMP column lies more than five minutes ahead of the record's own timestamp is left out, as the platform
    leaves events of clocks that are ahead out. A window of EMIT FINAL that has left its store (RETENTION, else size and grace
    period) before it closes is lost, as on the clusters.

    Exits with 0 when every test passes, 1 when one fails, 2 when a file can't be used.

    Args:
        path: statements, with an input and an output file; a folder of tests or of migrations; a file or folder of SQL tests.
        input_file: JSON file of the records that go in.
        output_file: JSON file of the records that must come out, or of the refusal that is expected.
    """
    from heartwatch.analytic import AnalyticError  # noqa: PLC0415
    from heartwatch.ksql.surroundings import surroundings_of  # noqa: PLC0415
    from ksqlengine.internal_names import AHEAD, CACHE  # noqa: PLC0415
    from ksqlengine.testing.cases import CaseFileError  # noqa: PLC0415
    from ksqlengine.testing.report import print_results, run_files  # noqa: PLC0415

    properties = {AHEAD: str(_TEST_AHEAD_MS), CACHE: _SERVERS_CACHE}
    try:
        results = run_files(path, input_file, output_file, surroundings_of, properties)
    except (CaseFileError, AnalyticError) as error:
        _leave(str(error), _UNUSABLE)
    sys.exit(0 if print_results(results) else _FAILED)


def check(analytic: str | None = None, /, *, json: bool = False) -> None:
    """Check without a server: the KSQL migrations (their variables, whether the engine can run each statement), and the logins.

    Logins are those of the settings: files and passwords that are missing, secrets that others can read, clear text.

    Exits with 0 when nothing is found, 1 otherwise.

    Args:
        analytic: folder under ``ksql/``; all of them by default.
        json: print the findings as a JSON list.
    """
    from heartwatch.deploy.logins import weaknesses  # noqa: PLC0415
    from heartwatch.ksql.check import (  # noqa: PLC0415
        Finding,
        check_analytic,
        known_analytics,
        shown,
        shown_as_json,
    )

    settings = load_settings()
    findings = []
    for name in [analytic] if analytic else known_analytics():
        overrides = settings.pipeline.variables if name == settings.pipeline.analytic else {}
        findings += check_analytic(name, overrides)
    folder = os.environ.get(SECRETS_FOLDER)
    for one in weaknesses(settings, Path(folder) if folder else None):
        findings.append(Finding(f"profile {settings.profile}, {one.setting}", 0, one.what, one.remedy))
    print(shown_as_json(findings) if json else shown(findings))
    sys.exit(_FAILED if findings else 0)


@app.default
@app.command
def shell() -> None:
    """Open a KSQL prompt on the running engine (or ksqlDB); statements that are piped in run as those of a file."""
    from ksqlengine.client.rest_client import KsqldbError  # noqa: PLC0415
    from ksqlengine.client.shell import open_prompt  # noqa: PLC0415

    if not sys.stdin.isatty():
        _run_statements(sys.stdin.read())
    settings = load_settings()
    try:
        open_prompt(settings.ksqldb, settings.home / "ksql_history")
    except KsqldbError as error:
        _leave(str(error))


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


@app.command
def explain(file: Path, /) -> None:
    """Say what each engine will do with each statement of a file: the laptop's, and ksqlDB on the clusters. Nothing is sent.

    A migration of an analytic is read with its variables, after those before it.

    Exits with 0, 1 when the laptop's engine refuses a statement, 2 when the file can't be used.

    Args:
        file: statements.
    """
    from heartwatch.analytic import AnalyticError  # noqa: PLC0415
    from heartwatch.ksql.explain import explanations, shown  # noqa: PLC0415
    from heartwatch.ksql.surroundings import engine_before  # noqa: PLC0415
    from ksqlengine.language.rendering import RenderingError  # noqa: PLC0415
    from ksqlengine.types.errors import KsqlError  # noqa: PLC0415

    try:
        sql, engine = engine_before(file)
        found = list(explanations(sql, engine))
    except (OSError, UnicodeDecodeError, AnalyticError, RenderingError, KsqlError) as error:
        _leave(f"file {str(file)!r} can't be explained: {error}", _UNUSABLE)
    print(shown(found, str(file)))
    sys.exit(_FAILED if any(one.laptop.startswith("refuses") for one in found) else 0)


def _run_statements(sql: str) -> NoReturn:
    from ksqlengine.client.shell import run_statements  # noqa: PLC0415

    sys.exit(0 if run_statements(load_settings().ksqldb, sql) else _FAILED)


def _leave(message: str, code: int = _FAILED) -> NoReturn:
    print(f"heartwatch: {message}", file=sys.stderr)
    sys.exit(code)
