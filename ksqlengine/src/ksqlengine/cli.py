"""The command `ksqlengine`: tests in memory, a server over Kafka, a prompt.

What a command needs is imported when it is called: the prompt loads no engine, and the server sets the number of Polars' threads
before Polars is loaded.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, Parameter

from ksqlengine.errors import KsqlEngineError

if TYPE_CHECKING:
    from ksqlengine.client.settings import KsqldbSettings

app = App(name="ksqlengine", help="ksqlDB's SQL in Python: test it in memory, run it against Kafka, talk to a server.")

_FAILED, _UNUSABLE = 1, 2
_HISTORY = Path("~/.ksqlengine_history")

Servers = Annotated[list[str] | None, Parameter(name="--server", negative="")]


@app.command(name="test")
def run_tests(path: Path, input_file: Path | None = None, output_file: Path | None = None, /) -> None:
    """Run KSQL tests in memory: no broker, no network.

    Exits with 0 when every test passes, 1 when one fails, 2 when a file can't be used.

    Args:
        path: statements, with an input and an output file; a folder of tests or of migrations; a file or folder of SQL tests.
        input_file: JSON file of the records that go in.
        output_file: JSON file of the records that must come out, or of the refusal that is expected.
    """
    from ksqlengine.testing.cases import CaseFileError  # noqa: PLC0415
    from ksqlengine.testing.report import print_results, run_files  # noqa: PLC0415

    try:
        results = run_files(path, input_file, output_file)
    except CaseFileError as error:
        _leave(str(error), _UNUSABLE)
    sys.exit(0 if print_results(results) else _FAILED)


@app.command
def server(
    *,
    bootstrap_servers: str,
    listen: str = "127.0.0.1:8088",
    schema_registry_url: Annotated[
        str, Parameter(name=["--schema-registry-url", "--registry-url"])
    ] = "http://127.0.0.1:8081",
    service_id: str = "default_",
    data_dir: Path = Path(".ksqlengine"),
    properties: Annotated[list[str] | None, Parameter(name="--property", negative="")] = None,
    log_level: str = "INFO",
) -> None:
    """Run ksqlDB's REST API over Kafka until the process is asked to stop.

    Args:
        bootstrap_servers: Kafka brokers, host:port with commas between.
        listen: host:port of the REST API.
        schema_registry_url: schema registry (Confluent's API).
        service_id: prefix of topics and groups; processes with the same one share the work.
        data_dir: folder of this process, which keeps its name there; each process needs its own.
        properties: NAME=VALUE, the server's default of a session property; may be given several times.
        log_level: DEBUG, INFO, WARNING or ERROR.
    """
    from ksqlengine.rest.api import serve  # noqa: I001, PLC0415 - before anything that loads Polars
    from kafkakit.settings import KafkaSettings, RegistrySettings  # noqa: PLC0415
    from ksqlengine.server.engine import EngineConfig  # noqa: PLC0415
    from ksqlengine.server.session_properties import with_changes  # noqa: PLC0415

    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = EngineConfig(
            kafka=KafkaSettings(bootstrap_servers=bootstrap_servers),
            registry=RegistrySettings(url=schema_registry_url),
            service_id=service_id,
            data_dir=data_dir,
            properties=with_changes({}, dict(given.partition("=")[::2] for given in properties or ())),
            address=listen,
        )
    except KsqlEngineError as error:
        _leave(str(error), _UNUSABLE)
    serve(config, listen)


@app.command
def shell(*, servers: Servers = None) -> None:
    """Open a KSQL prompt on a running server (or ksqlDB); statements that are piped in run as those of a file.

    Exits with 1 when a statement is refused or no server answers.

    Args:
        servers: a server's address, http://127.0.0.1:8088 by default; several may be given, the first healthy one is used.
    """
    from ksqlengine.client.shell import open_prompt, run_statements  # noqa: PLC0415

    if not sys.stdin.isatty():
        sys.exit(0 if run_statements(_settings(servers), sys.stdin.read()) else _FAILED)
    open_prompt(_settings(servers), _HISTORY.expanduser())


@app.command
def run(file: Path, /, *, servers: Servers = None) -> None:
    """Run a file of statements on a running server (or ksqlDB); the first that fails ends it.

    Args:
        file: statements.
        servers: as in `shell`.
    """
    from ksqlengine.client.shell import run_statements  # noqa: PLC0415

    try:
        sql = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _leave(f"file {str(file)!r} can't be read: {error}")
    sys.exit(0 if run_statements(_settings(servers), sql) else _FAILED)


def _settings(servers: list[str] | None) -> KsqldbSettings:
    from ksqlengine.client.settings import KsqldbSettings  # noqa: PLC0415

    return KsqldbSettings(urls=servers) if servers else KsqldbSettings()


def _leave(message: str, code: int = _FAILED) -> NoReturn:
    print(f"ksqlengine: {message}", file=sys.stderr)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that a user can fix are one sentence and exit code 1.

    Args:
        arguments: words after the command's name, None for those of the process.
    """
    try:
        app(arguments)
    except KsqlEngineError as error:
        _leave(str(error))
