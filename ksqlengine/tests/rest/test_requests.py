"""The REST API around a stand-in for the engine: clients that go away, and requests that are none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from kafkakit.admin import KafkaClientError
from kafkakit.settings import KafkaSettings, RegistrySettings
from ksqlengine.internal_names import AHEAD
from ksqlengine.language.lexer import split_statements
from ksqlengine.plan.catalog import Source
from ksqlengine.rest.api import Server
from ksqlengine.server import engine
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.types.errors import StatementError


class Query:
    """A push query that nothing comes of; it counts as open while its generator is."""

    query_id = "transient_1"
    columns = ()
    keys: frozenset[str] = frozenset()
    push = True
    final_message = None
    ends_with_message = True

    def __init__(self) -> None:
        self.is_open = False
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def rows(self) -> Iterator[list[Any]]:
        self.is_open = True
        try:
            while not self._stop.wait(0.01):
                yield []
        finally:
            self.is_open = False


class Engine:
    """Has one query."""

    ready = True

    def __init__(self) -> None:
        self.query = Query()

    def transient(self, *_: Any) -> Query:
        return self.query


def real_engine(folder: Path, properties: Mapping[str, str] | None = None) -> engine.Engine:
    """Return an engine without brokers."""
    kafka, registry = KafkaSettings(bootstrap_servers="127.0.0.1:1"), RegistrySettings(url="http://127.0.0.1:1")
    return engine.Engine(engine.EngineConfig(kafka, registry, "test_", folder, properties or {}))


async def request(
    server: Server, path: str, body: bytes, stays_seconds: float = 60, version: str = "1.1", accept: str = "*/*"
) -> tuple[int, bytes]:
    """Send a request and return the answer's status and body; the client goes away after a time."""
    scope = {
        "type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"",
        "headers": [(b"accept", accept.encode())], "http_version": version, "scheme": "http", "server": ("here", 1),
        "client": ("there", 2),
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    received, sent = [{"type": "http.request", "body": body}], []

    async def receive() -> Mapping[str, Any]:
        if received:
            return received.pop()
        await asyncio.sleep(stays_seconds)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await server.application()(scope, receive, send)
    status = next((one["status"] for one in sent if one["type"] == "http.response.start"), 0)
    return status, b"".join(one.get("body", b"") for one in sent)


@pytest.mark.parametrize("stays_seconds", [0, 0.2], ids=["before the first row", "later"])
@pytest.mark.parametrize("path", ["/query", "/query-stream"])
def test_a_query_ends_with_its_client(path: str, stays_seconds: float) -> None:
    engine = Engine()
    server = Server(engine, "here")  # type: ignore[arg-type]
    body = orjson.dumps({"sql": "SELECT …;", "ksql": "SELECT …;"})

    async def visit() -> None:
        await request(server, path, body, stays_seconds)
        assert not engine.query.is_open
        status, _ = await request(server, "/close-query", orjson.dumps({"queryId": engine.query.query_id}))
        assert status == 400, "the server still knows the query"

    asyncio.run(visit())


@pytest.mark.parametrize(
    "fields",
    [
        {"streamsProperties": ["auto.offset.reset"]},
        {"streamsProperties": {"auto.offset.reset": None}},
        {"sessionVariables": "x"},
        {"sessionVariables": {"x": ["y"]}},
        {"commandSequenceNumber": "7"},
    ],
    ids=str,
)
def test_fields_of_another_type_are_a_bad_request(fields: dict[str, Any], tmp_path: Path) -> None:
    engine = real_engine(tmp_path)
    engine.ready = True
    body = orjson.dumps({"ksql": "SHOW VARIABLES;", **fields})
    status, answer = asyncio.run(request(Server(engine, "here"), "/ksql", body))
    assert (status, orjson.loads(answer)["error_code"]) == (400, 40000)
    assert repr(next(iter(fields))) in orjson.loads(answer)["message"]


def test_numbers_and_switches_are_taken_as_text(tmp_path: Path) -> None:
    engine = real_engine(tmp_path)
    engine.ready = True
    given = {"streamsProperties": {"ksql.suppress.enabled": True}, "sessionVariables": {"number": 7}}
    body = orjson.dumps({"ksql": "SHOW PROPERTIES; SHOW VARIABLES;", **given})
    status, answer = asyncio.run(request(Server(engine, "here"), "/ksql", body))
    assert status == 200
    properties, variables = orjson.loads(answer)
    assert "true" in [one["value"] for one in properties["properties"] if one["name"] == "ksql.suppress.enabled"]
    assert variables["variables"] == [{"name": "number", "value": "7"}]
    # Clients know by it that they may set it: ksqlDB refuses properties that it doesn't have.
    assert AHEAD in [one["name"] for one in properties["properties"]]


@pytest.mark.parametrize(
    ("sql", "variables", "answer"),
    [
        ("UNSET 'nope';", {}, (400, "Unknown property: nope", "UNSET 'nope';")),
        ("UNSET '${p}';", {"p": "nope"}, (400, "Unknown property: nope", "UNSET 'nope';")),
        ("UNSET 'auto.offset.reset';", {}, (200, None, None)),
        ("UNSET 'ksql.streams.auto.offset.reset';", {}, (200, None, None)),
        (
            "UNDEFINE nope;",
            {},
            (200, "Cannot undefine variable 'nope' which was never defined", "UNDEFINE nope;"),
        ),
        ("DEFINE a = '1'; UNDEFINE a;", {}, (200, None, None)),
    ],
)
def test_what_is_unset_and_undefined(
    sql: str, variables: dict[str, str], answer: tuple[int, str | None, str | None], tmp_path: Path
) -> None:
    engine = real_engine(tmp_path)
    engine.ready = True
    body = orjson.dumps({"ksql": sql, "sessionVariables": variables})
    status, text = asyncio.run(request(Server(engine, "here"), "/ksql", body))
    found = orjson.loads(text)
    entity = (found[0] if found else {}) if status == 200 else found
    assert (status, entity.get("message"), entity.get("statementText")) == answer
    if status == 200 and found:
        assert entity["@type"] == "warning_entity"


class AwayFromKafka(Engine):
    """Can't be started."""

    ready = False
    stopped = False

    def start(self) -> None:
        raise KafkaClientError("no broker")

    def stop(self) -> None:
        self.stopped = True


def test_a_server_that_waits_for_kafka_can_be_stopped() -> None:
    engine = AwayFromKafka()
    application = Server(engine, "here").application()  # type: ignore[arg-type]

    async def life() -> None:
        async with application.router.lifespan_context(application):
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(life(), 20))
    assert engine.stopped


def test_an_engine_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    real_engine(tmp_path).stop()
    real_engine(tmp_path).stop()


def test_unset_gives_the_servers_default_back_under_any_name(tmp_path: Path) -> None:
    defaults = {"auto.offset.reset": "earliest", "commit.interval.ms": "500"}
    sql = """
        SET 'ksql.streams.auto.offset.reset'='latest'; SET 'ksql.suppress.enabled'='false';
        UNSET 'ksql.streams.auto.offset.reset'; UNSET 'ksql.suppress.enabled'; UNSET 'commit.interval.ms';
        SHOW PROPERTIES;
    """
    (answer,) = real_engine(tmp_path, defaults).execute(sql)
    values = {one["name"]: one["value"] for one in answer["properties"]}
    names = ("auto.offset.reset", "ksql.suppress.enabled", "commit.interval.ms")
    assert [values[name] for name in names] == ["earliest", "true", "500"]
    assert answer["overwrittenProperties"] == []


def test_no_topic_is_deleted_that_another_stream_is_over(tmp_path: Path) -> None:
    engine = real_engine(tmp_path)
    driver = InMemoryEngine({}, {})
    for name in ("a", "b", "c"):
        sql = f"CREATE STREAM {name} (v INT) WITH (KAFKA_TOPIC='shared', VALUE_FORMAT='JSON');"
        driver.execute(split_statements(sql)[0])
    engine.catalog = driver.catalog
    with pytest.raises(StatementError, match=r"Found other data sources \(A, C\) using topic shared"):
        engine.execute("DROP STREAM b DELETE TOPIC;")


def inserting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Server, list[tuple[Any, ...]]]:
    """Return a server with a stream, and the rows that are written; Kafka goes away after two."""
    engine = real_engine(folder)
    engine.ready = True
    driver = InMemoryEngine({}, {})
    sql = (
        "CREATE STREAM s (k STRING KEY, d DECIMAL(4, 2), f DOUBLE, i INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');"
    )
    driver.execute(split_statements(sql)[0])
    engine.catalog = driver.catalog
    written: list[tuple[Any, ...]] = []

    def write(source: Source, rows: pl.DataFrame) -> None:
        if len(written) == 2:
            raise KafkaClientError("no broker")
        written.extend(rows.rows())

    monkeypatch.setattr(engine._inserter, "insert_rows", write)
    return Server(engine, "here"), written


ROW = b'{"K": "k", "d": 1.50, "F": 1.50, "I": 7, "OTHER": 1}'


def test_each_row_that_is_inserted_is_acknowledged_and_numbers_keep_their_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, written = inserting(tmp_path, monkeypatch)
    body = b"\n".join([b'{"target": "s"}', ROW, ROW, b""])
    status, answer = asyncio.run(request(server, "/inserts-stream", body, version="2"))
    assert written == [("k", Decimal("1.50"), 1.5, 7)] * 2
    found = [orjson.loads(line) for line in answer.splitlines()]
    assert (status, found) == (200, [{"status": "ok", "seq": 0}, {"status": "ok", "seq": 1}])
    failed = asyncio.run(request(server, "/inserts-stream", body, version="2", accept="application/json"))
    assert failed[0] == 200
    assert orjson.loads(failed[1]) == [
        {"@type": "InsertError", "status": "error", "seq": 0, "message": "no broker", "error_code": 50000}
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"K": "k", "I": "7"}', "Can't coerce a field of type class java.lang.String into type INTEGER"),
        (b'{"K": "k", "I": 9999999999}', "Can't coerce a field of type class java.lang.Long into type INTEGER"),
        (b'{"K": 7}', "Can't coerce a field of type class java.lang.Integer into type STRING"),
        (b'{"I": 7}', "Key field must be specified: K"),
        (b'{"K": "k", "k": "l"}', "Found duplicate column / struct field name: K"),
        (b"[1]", "Invalid JSON in inserts stream"),
    ],
)
def test_the_first_row_that_does_not_fit_ends_the_answer(
    row: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, written = inserting(tmp_path, monkeypatch)
    body = b"\n".join([b'{"target": "s"}', ROW, row, ROW])
    _, answer = asyncio.run(request(server, "/inserts-stream", body, version="2"))
    found = [orjson.loads(line) for line in answer.splitlines()]
    assert len(written) == 1
    assert [(one["status"], one.get("message")) for one in found] == [("ok", None), ("error", message)]


@pytest.mark.parametrize(
    ("body", "version", "code"),
    [
        (b'{"target": "s"}\n', "1.1", 40004),
        (b'{"target": "nope"}\n', "2", 40001),
        (b'{"nope": 1}\n', "2", 40000),
        (b"", "2", 40000),
    ],
)
def test_inserts_that_are_refused_as_a_whole(
    body: bytes, version: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = inserting(tmp_path, monkeypatch)
    status, answer = asyncio.run(request(server, "/inserts-stream", body, version=version))
    assert (status, orjson.loads(answer)["error_code"]) == (400, code)


@pytest.mark.parametrize("statements", [{}, {"ksql": None}, {"ksql": ""}, {"ksql": " "}], ids=str)
def test_no_statement_is_answered_with_nothing(statements: dict[str, Any], tmp_path: Path) -> None:
    engine = real_engine(tmp_path)
    engine.ready = True
    answer = asyncio.run(request(Server(engine, "here"), "/ksql", orjson.dumps(statements)))
    assert answer == (200, b"[]")


def test_what_is_not_there_and_what_a_client_does_not_accept() -> None:
    server = Server(Engine(), "here")  # type: ignore[arg-type]
    body = orjson.dumps({"sql": "SELECT …;"})
    assert asyncio.run(request(server, "/info", b"")) == (404, b"Not Found")
    assert asyncio.run(request(server, "/nope", b"")) == (404, b"Not Found")
    assert asyncio.run(request(server, "/query-stream", body, accept="text/plain")) == (404, b"Not Found")
    status, answer = asyncio.run(request(server, "/query-stream", orjson.dumps({"ksql": "SELECT …;"})))
    assert (status, orjson.loads(answer)["error_code"]) == (400, 40000)
