"""The command `ksqlengine`: tests in memory, a server over Kafka, a prompt.

What a command needs is imported when it is called: the prompt loads no engine, and the server sets the number of Polars' threads
before Polars is loaded.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, Parameter

from kafkakit.errors import KafkaKitError
from ksqlengine.errors import KsqlEngineError

if TYPE_CHECKING:
    from ksqlengine.client.settings import KsqldbSettings

app = App(name="ksqlengine", help="ksqlDB's SQL in Python: test it in memory, run it against Kafka, talk to a server.")

_FAILED, _UNUSABLE = 1, 2
_HISTORY = Path("~/.ksqlengine_history")

Properties = Annotated[list[str] | None, Parameter(name="--property", negative="")]
Servers = Annotated[list[str] | None, Parameter(name="--server", negative="")]

_PASSWORD_VARIABLE = "KSQLENGINE_PASSWORD"  # noqa: S105 - its name


@app.command(name="test")
def run_tests(
    path: Path, input_file: Path | None = None, output_file: Path | None = None, /, *, properties: Properties = None
) -> None:
    """Run KSQL tests in memory: no broker, no network.

    As on ksqlDB, an event of the future moves stream time there, and what others send meanwhile is late, unless
    ksqlengine.timestamp.ahead.max.ms says how far a TIMESTAMP column may lie ahead of the record's own timestamp.

    Exits with 0 when every test passes, 1 when one fails, 2 when a file can't be used.

    Args:
        path: statements, with an input and an output file; a folder of tests or of migrations; a file or folder of SQL tests.
        input_file: JSON file of the records that go in.
        output_file: JSON file of the records that must come out, or of the refusal that is expected.
        properties: NAME=VALUE, a session property that is set before each test; may be given several times.
    """
    from ksqlengine.server.session_properties import with_changes  # noqa: PLC0415
    from ksqlengine.testing.cases import CaseFileError  # noqa: PLC0415
    from ksqlengine.testing.report import print_results, run_files  # noqa: PLC0415

    try:
        given = with_changes({}, _by_name(properties))
        results = run_files(path, input_file, output_file, properties=given)
    except (CaseFileError, KsqlEngineError) as error:
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
    properties: Properties = None,
    log_level: str = "INFO",
    kafka_config: Path | None = None,
    registry_config: Path | None = None,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    users_file: Path | None = None,
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
        kafka_config: properties file, readable by its owner only, of how brokers are logged in to, with librdkafka's names:
            security.protocol, sasl.mechanism, sasl.username, sasl.password, ssl.ca.location, ….
        registry_config: the same of the schema registry: basic.auth.user, basic.auth.password, bearer.auth.token,
            ssl.ca.location, ….
        tls_certificate: PEM file of the server's certificate with its chain: HTTPS instead of HTTP.
        tls_key: PEM file of the certificate's key.
        users_file: lines user=password, readable by its owner only: basic auth; without it everybody may do everything.
    """
    from ksqlengine.rest.api import serve  # noqa: I001, PLC0415 - before anything that loads Polars
    from kafkakit.security import kafka_config as kafka_client_config  # noqa: PLC0415
    from kafkakit.security import read_http_config, read_kafka_config  # noqa: PLC0415
    from kafkakit.settings import KafkaSettings, RegistrySettings  # noqa: PLC0415
    from pydantic import ValidationError  # noqa: PLC0415
    from ksqlengine.rest.access import ServerAccess  # noqa: PLC0415
    from ksqlengine.server.engine import EngineConfig  # noqa: PLC0415
    from ksqlengine.server.session_properties import with_changes  # noqa: PLC0415

    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = EngineConfig(
            kafka=KafkaSettings(
                bootstrap_servers=bootstrap_servers, **(read_kafka_config(kafka_config) if kafka_config else {})
            ),
            registry=RegistrySettings(
                url=schema_registry_url, **(read_http_config(registry_config) if registry_config else {})
            ),
            service_id=service_id,
            data_dir=data_dir,
            properties=with_changes({}, _by_name(properties)),
            address=listen,
        )
        access = ServerAccess.of(tls_certificate, tls_key, users_file)
        kafka_client_config(config.kafka)
    except (KsqlEngineError, KafkaKitError) as error:
        _leave(str(error), _UNUSABLE)
    except ValidationError as error:
        _leave("; ".join(_complaint(found) for found in error.errors(include_input=False)), _UNUSABLE)
    serve(config, listen, access)


@app.command
def shell(*, servers: Servers = None, user: str = "", client_config: Path | None = None) -> None:
    """Open a KSQL prompt on a running server (or ksqlDB); statements that are piped in run as those of a file.

    Exits with 1 when a statement is refused or no server answers.

    Args:
        servers: a server's address, http://127.0.0.1:8088 by default; several may be given, the first healthy one is used.
        user: who logs in; the password comes from KSQLENGINE_PASSWORD, or is asked for.
        client_config: properties file, readable by its owner only, of how servers are logged in to: basic.auth.user,
            basic.auth.password, bearer.auth.token, ssl.ca.location, ssl.certificate.location, ssl.key.location.
    """
    from ksqlengine.client.shell import open_prompt, run_statements  # noqa: PLC0415

    settings = _settings(servers, user, client_config)
    if not sys.stdin.isatty():
        sys.exit(0 if run_statements(settings, sys.stdin.read()) else _FAILED)
    open_prompt(settings, _HISTORY.expanduser())


@app.command
def run(file: Path, /, *, servers: Servers = None, user: str = "", client_config: Path | None = None) -> None:
    """Run a file of statements on a running server (or ksqlDB); the first that fails ends it.

    Args:
        file: statements.
        servers: as in `shell`.
        user: as in `shell`.
        client_config: as in `shell`.
    """
    from ksqlengine.client.shell import run_statements  # noqa: PLC0415

    try:
        sql = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _leave(f"file {str(file)!r} can't be read: {error}")
    sys.exit(0 if run_statements(_settings(servers, user, client_config), sql) else _FAILED)


def _by_name(properties: list[str] | None) -> dict[str, str]:
    """Return properties that were given as NAME=VALUE."""
    return dict(given.partition("=")[::2] for given in properties or ())


def _settings(servers: list[str] | None, user: str, client_config: Path | None) -> KsqldbSettings:
    """Return which servers are meant and how they are logged in to; a password is asked for on a terminal only."""
    from pydantic import ValidationError  # noqa: PLC0415

    from kafkakit.security import SecurityError, read_http_config  # noqa: PLC0415
    from ksqlengine.client.settings import KsqldbSettings  # noqa: PLC0415

    try:
        given: dict[str, Any] = dict(read_http_config(client_config)) if client_config else {}
        if user:
            given |= {"user": user, "password": _password(user)}
        return KsqldbSettings(**given, **({"urls": servers} if servers else {}))
    except SecurityError as error:
        _leave(str(error), _UNUSABLE)
    except ValidationError as error:
        _leave("; ".join(_complaint(found) for found in error.errors(include_input=False)), _UNUSABLE)


def _password(user: str) -> str:
    given = os.environ.get(_PASSWORD_VARIABLE, "")
    if not given and sys.stdin.isatty():
        given = getpass(f"password of {user}: ")
    if not given:
        _leave(f"there is no password for user {user!r}; set {_PASSWORD_VARIABLE}", _UNUSABLE)
    return given


def _complaint(found: Mapping[str, Any]) -> str:
    """Return what is wrong with a setting, without its value, which may be a secret."""
    where = ".".join(map(str, found["loc"]))
    return f"{where}: {found['msg']}" if where else str(found["msg"])


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
    except (KsqlEngineError, KafkaKitError) as error:
        _leave(str(error))
