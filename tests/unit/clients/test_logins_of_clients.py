"""Every client of the repository logs in: its configuration comes from `kafkakit.security`."""

from __future__ import annotations

import re

from heartwatch.settings import ROOT

SOURCES = ("flows", "heartwatch", "kafkakit/src", "ksqlengine/src", "tasks")
# Properties of the servers themselves: Java's.
SERVERS = {"heartwatch/platform/services/connect.py", "heartwatch/platform/services/kafka.py"}


def texts() -> dict[str, str]:
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 200
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def test_only_one_module_says_where_brokers_are() -> None:
    found = {path for path, text in texts().items() if '"bootstrap.servers"' in text}
    assert found - SERVERS == {"kafkakit/src/kafkakit/security.py"}


def test_each_http_client_knows_the_servers_authority_and_its_own_login() -> None:
    calls = {
        path: call
        for path, text in texts().items()
        for call in re.findall(r"httpx\.(?:Client|get|head|post|request)\((?:[^()]|\([^()]*\))*\)", text)
    }
    assert len(calls) >= 6
    careless = {path for path, call in calls.items() if "verify=" not in call and "**" not in call}
    assert careless == set()


def test_the_files_of_other_services_are_opened_in_one_place_each() -> None:
    where = {"S3FileSystem(": set[str](), "psycopg2.connect(": set[str](), "SchemaRegistryClient(": set[str]()}
    for path, text in texts().items():
        for call, found in where.items():
            if call in text:
                found.add(path)
    assert where["S3FileSystem("] == {"heartwatch/iceberg.py"}
    assert where["psycopg2.connect("] == {"heartwatch/postgres.py", "heartwatch/platform/services/postgres.py"}
    assert where["SchemaRegistryClient("] == {"kafkakit/src/kafkakit/registry.py"}
