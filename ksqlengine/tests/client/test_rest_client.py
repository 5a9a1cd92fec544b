"""ksqlDB's REST API: the shapes of its entities, its errors, and several servers."""

import json
import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ksqlengine.client.rest_client import Ksqldb, KsqldbError, KsqldbUnavailableError, StatementRefusedError, quoted
from ksqlengine.client.settings import KsqldbSettings

Handler = Callable[[httpx.Request], httpx.Response]
STATEMENT_ERROR = {
    "@type": "statement_error",
    "error_code": 40001,
    "message": "line 1:8: no table",
    "statementText": "DROP X;",
    "entities": [],
}


def ksqldb(handler: Handler, urls: Sequence[str] = ("http://one",), retry_seconds: float = 0.2) -> Ksqldb:
    return Ksqldb(KsqldbSettings(urls=list(urls)), retry_seconds=retry_seconds, transport=httpx.MockTransport(handler))


def command(status: str, query_id: str | None = None, sequence: int = 7) -> dict[str, Any]:
    return {
        "@type": "currentStatus",
        "statementText": "CREATE …;",
        "commandId": "table/`A`/create",
        "commandStatus": {"status": status, "message": "done", "queryId": query_id},
        "commandSequenceNumber": sequence,
        "warnings": [],
    }


def stat(name: str, value: float, timestamp: int = 1_700_000_000_000) -> dict[str, Any]:
    return {"name": name, "value": value, "timestamp": timestamp}


def description(**more: Any) -> dict[str, Any]:
    return {
        "name": "REALTIME",
        "windowType": None,
        "type": "STREAM",
        "topic": "t",
        "keyFormat": "KAFKA",
        "valueFormat": "AVRO",
        "partitions": 4,
        "replication": 1,
        "statement": "CREATE STREAM …",
        "readQueries": [{"id": "CTAS_1"}],
        "writeQueries": [],
        **more,
    }


def test_execute_sends_properties_variables_and_sequence_number():
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        assert request.headers["content-type"] == "application/vnd.ksql.v1+json"
        return httpx.Response(200, json=[command("SUCCESS", "CTAS_1")])

    results = ksqldb(handler).execute("CREATE …;", {"auto.offset.reset": "earliest"}, {"window_ms": "10000"}, after=6)
    assert sent == [
        {
            "ksql": "CREATE …;",
            "streamsProperties": {"auto.offset.reset": "earliest"},
            "sessionVariables": {"window_ms": "10000"},
            "commandSequenceNumber": 6,
        }
    ]
    assert [(one.query_id, one.sequence_number) for one in results] == [("CTAS_1", 7)]


def test_execute_waits_for_a_queued_command():
    states = ["EXECUTING", "SUCCESS"]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json=[command("QUEUED")])
        assert request.url.path == "/status/table/`A`/create"
        return httpx.Response(200, json={"status": states.pop(0), "message": "made", "queryId": "Q"})

    assert ksqldb(handler).execute("CREATE …;")[0].query_id == "Q"
    assert states == []


def test_a_refused_statement_keeps_code_reason_and_text():
    with pytest.raises(StatementRefusedError) as caught:
        ksqldb(lambda request: httpx.Response(400, json=STATEMENT_ERROR)).execute("DROP X;")
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (error.error_code, error.reason, error.statement) == (40001, "line 1:8: no table", "DROP X;")
    assert "line 1:8: no table" in str(error)


def test_a_command_that_fails_while_carried_out_is_an_error():
    with pytest.raises(StatementRefusedError, match="done"):
        ksqldb(lambda request: httpx.Response(200, json=[command("ERROR")])).execute("CREATE …;")


def test_the_next_server_is_used_when_the_first_is_gone():
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "one":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=[{"@type": "streams", "streams": []}])

    client = ksqldb(handler, ["http://one", "http://two"])
    client.streams()
    client.streams()
    assert asked == ["one", "two", "two"]


def test_the_next_server_is_used_when_the_first_is_not_ready():
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "one":
            return httpx.Response(503, json={"error_code": 50303, "message": "not ready"})
        return httpx.Response(200, json=[command("SUCCESS")])

    assert len(ksqldb(handler, ["http://one", "http://two"]).execute("CREATE …;")) == 1


def test_a_statement_that_may_have_been_taken_is_not_sent_twice():
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        raise httpx.ReadError("reset")

    client = ksqldb(handler, ["http://one", "http://two"])
    with pytest.raises(KsqldbUnavailableError, match="can't tell whether"):
        client.execute("CREATE …;")
    assert asked == ["one"]
    with pytest.raises(KsqldbUnavailableError, match="no KSQL server is ready"):
        client.streams()
    assert "two" in asked


FENCED = {
    "@type": "statement_error",
    "error_code": 50000,
    "message": "There is a newer producer with the same transactionalId which fences the current one.",
    "statementText": "CREATE …;",
    "entities": [],
}


def test_a_statement_that_another_client_s_has_ended_is_sent_again():
    answers = [
        httpx.Response(500, json=FENCED),
        httpx.Response(500, json=FENCED),
        httpx.Response(200, json=[command("SUCCESS")]),
    ]
    (result,) = ksqldb(lambda _: answers.pop(0)).execute("CREATE …;")
    assert result.message == "done"
    assert answers == []


def test_statements_of_which_some_were_carried_out_are_not_sent_again():
    answers = [httpx.Response(500, json={**FENCED, "entities": [command("SUCCESS")]})]
    with pytest.raises(StatementRefusedError, match="newer producer"):
        ksqldb(lambda _: answers.pop(0)).execute("CREATE …; CREATE …;")


def test_a_server_that_refuses_for_another_reason_is_not_asked_again():
    answers = [
        httpx.Response(500, json={**FENCED, "message": "The retention period of the window store must be larger"})
    ]
    with pytest.raises(StatementRefusedError, match="retention period"):
        ksqldb(lambda _: answers.pop(0)).execute("CREATE …;")


def test_statements_are_sent_one_at_a_time():
    running, most = 0, 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        return httpx.Response(200, json=[command("SUCCESS")])

    client = ksqldb(handler)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client.execute, ["CREATE …;"] * 8))
    assert most == 1


def test_a_statement_may_take_longer_than_a_question():
    seconds: dict[str, float] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        seconds[request.url.path] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json=INFO if request.url.path == "/info" else [command("SUCCESS")])

    client = ksqldb(handler)
    client.info()
    client.execute("CREATE …;")
    assert seconds == {"/info": KsqldbSettings(urls=["http://one"]).request_timeout_seconds, "/ksql": 120}


INFO = {"KsqlServerInfo": {"version": "8.2.0", "ksqlServiceId": "a", "serverStatus": "RUNNING"}}
NO_LAG = {
    "@type": "generic_error",
    "error_code": 50000,
    "message": "Unable to execute pull query. [Partition 0 failed to find valid host. Hosts scanned: [127.0.0.1:8088 was not "
    "selected because Lag information is not present for host.]]",
}


def test_a_pull_query_that_comes_too_early_is_sent_again():
    not_yet = {
        "@type": "statement_error",
        "error_code": 40001,
        "message": "Error starting pull query: Materialized data for key ['a']-Optional.empty is not available yet. "
        "Please try again later.",
        "statementText": "SELECT * FROM t WHERE k = 'a';",
        "entities": [],
    }
    answers = [
        httpx.Response(503, json=NO_LAG),
        httpx.Response(400, json=not_yet),
        httpx.Response(
            200, text='{"queryId":"q","columnNames":["K","N"],"columnTypes":["STRING","BIGINT"]}\n["a",1]\n'
        ),
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=INFO) if request.url.path == "/info" else answers.pop(0)

    with ksqldb(handler, retry_seconds=10).select("SELECT * FROM t WHERE k = 'a';") as result:
        assert (result.names, list(result.rows)) == (("K", "N"), [["a", 1]])


def test_a_pull_query_that_a_server_is_not_ready_for_fails_with_its_reason():
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=INFO) if request.url.path == "/info" else httpx.Response(503, json=NO_LAG)

    with (
        pytest.raises(KsqldbUnavailableError, match=r"can't run the query: the server is not ready: .*Lag information"),
        ksqldb(handler).select("SELECT * FROM t WHERE k = 'a';"),
    ):
        pytest.fail("the query was accepted")


def test_a_server_has_the_properties_that_it_lists():
    listed = [{"name": "auto.offset.reset", "scope": "KSQL", "value": "earliest", "editable": True, "level": "QUERY"}]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/info":
            return httpx.Response(200, json=INFO)
        return httpx.Response(200, json=[{"@type": "properties", "properties": listed}])

    client = ksqldb(handler)
    assert [client.has_property(name) for name in ("auto.offset.reset", "ksqlengine.nope")] == [True, False]


def test_queries_and_sources():
    bodies = {
        "SHOW QUERIES;": {
            "queries": [
                {
                    "id": "CTAS_A_1",
                    "queryString": "CREATE …",
                    "sinks": ["A"],
                    "sinkKafkaTopics": ["a"],
                    "statusCount": {"RUNNING": 1, "ERROR": 1},
                    "queryType": "PERSISTENT",
                    "state": "RUNNING:1,ERROR:1",
                },
                {"id": "t", "queryString": "SELECT", "sinks": [], "queryType": "PUSH", "state": "RUNNING"},
            ]
        },
        "SHOW TABLES;": {
            "tables": [{"name": "A", "topic": "a", "keyFormat": "KAFKA", "valueFormat": "AVRO", "isWindowed": True}]
        },
    }

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[bodies[json.loads(request.content)["ksql"]]])

    client = ksqldb(handler)
    assert [(query.query_id, query.state, query.sinks) for query in client.queries()] == [("CTAS_A_1", "ERROR", ("A",))]
    assert [(table.name, table.kind, table.windowed) for table in client.tables()] == [("A", "TABLE", True)]
    with pytest.raises(KsqldbError, match="'CTAS_A_1' is in ERROR"):
        client.wait_query("CTAS_A_1")


@pytest.mark.parametrize(
    "cluster",
    [
        None,
        [
            {"host": "a:1", **stat("consumer-total-messages", 5.0)},
            {"host": "b:1", **stat("consumer-total-messages", 7.0)},
        ],
        {"b:1": {"consumer-total-messages": stat("consumer-total-messages", 7.0)}},
    ],
)
def test_statistics_add_up_all_servers_once(cluster: Any):
    own = {"a": stat("consumer-total-messages", 5.0), "b": stat("consumer-messages-per-sec", 2.5)}
    errors = {"c": stat("consumer-failed-messages", 3.0), "d": stat("consumer-failed-messages-per-sec", 0.5)}
    body = description(statisticsMap=own, errorStatsMap=errors)
    if cluster is not None:
        body["clusterStatistics"] = cluster

    def handler(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["ksql"] == "DESCRIBE `REALTIME` EXTENDED;"
        return httpx.Response(200, json=[{"@type": "sourceDescription", "sourceDescription": body}])

    found = ksqldb(handler).describe("REALTIME")
    assert found.statistics.consumed == (5 if cluster is None else 12)
    assert found.statistics.consumed_per_second == 2.5
    assert found.statistics.failed == 3
    assert found.statistics.last_message == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert found.read_queries == ("CTAS_1",)
    assert (found.statistics.late, found.statistics.let_go) == (None, None), "ksqlDB doesn't count them"


def test_what_an_engine_counts_beside_ksqldb_s_statistics():
    own = {"a": stat("late-record-drop", 4.0), "b": stat("windows-let-go", 0.0)}
    body = description(statisticsMap=own, errorStatsMap={})
    answer = httpx.Response(200, json=[{"@type": "sourceDescription", "sourceDescription": body}])
    found = ksqldb(lambda request: answer).describe("REALTIME").statistics
    assert (found.late, found.let_go) == (4, 0)


def test_quoted():
    assert quoted("a`b") == "`a``b`"
