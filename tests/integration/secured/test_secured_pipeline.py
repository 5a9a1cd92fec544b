"""The whole pipeline on a platform with TLS and logins everywhere, and what a stranger gets of it: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from secured_accounts import Accounts

from heartwatch.connect import Connect, ConnectError
from heartwatch.platform.platform import Platform
from heartwatch.platform.state import load_accounts, load_secrets, read_state
from heartwatch.settings import ROOT, Settings, load_settings
from kafkakit.registry import Registry, RegistryError
from kafkakit.security import tls_verify
from ksqlengine.client.rest_client import Ksqldb, KsqldbError

pytestmark = pytest.mark.parts(
    "kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers", "heartbeat", "web"
)


@pytest.fixture(scope="module")
def found(secured: Platform) -> dict[str, Any]:
    """What one run of heart-watch found: it deploys, loads, produces, verifies the alerts and proves the sink."""
    parameters = json.dumps({"people": 1_000, "events": 20_000, "seed": 1})
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("whole_run.py")), parameters],
        cwd=ROOT,
        env={**secured.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4_000:]
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def settings(secured: Platform) -> Settings:
    return load_settings(home=secured.home)


def test_the_whole_run_passes(found: dict[str, Any], secured: Platform) -> None:
    assert found["alerts"]["exact"], found["alerts"]["sentence"]
    assert found["sent"]["delivered"] > 0
    assert len(found["sinks"]) == 2
    for sink in found["sinks"]:
        assert sink["proven"], sink["sentence"]
    assert [one.name for one in secured.status() if not one.healthy] == []


def test_no_component_asked_for_a_right_that_it_has_not(found: dict[str, Any], secured: Platform) -> None:
    """What is denied to our own components fails somewhere, sooner or later; only strangers are refused."""
    log = (secured.home / "logs" / "kafka-1.log").read_text(encoding="utf-8", errors="replace")
    denied = {line for line in log.splitlines() if "is Denied" in line and "User:CN=" not in line}
    ours = {
        line for line in denied if not any(word in line for word in ("_v9", "heartwatch-produce-", "connect-cluster-x"))
    }
    assert sorted(ours)[:5] == []


@pytest.mark.parametrize("part", ["registry", "connect", "engine", "prefect", "s3", "web"])
def test_no_part_speaks_clear_text(part: str, secured: Platform) -> None:
    state = read_state(secured.home)
    assert state is not None
    with httpx.Client(trust_env=False, timeout=5) as client:
        try:
            answer = client.get(f"http://127.0.0.1:{state.ports[part]}/")
        except httpx.TransportError:
            return
    # Go's servers say why they hang up.
    assert (part, answer.status_code) == ("s3", 400)
    assert "HTTP request to an HTTPS server" in answer.text


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("registry", "/apis/ccompat/v7/subjects"),
        ("registry", "/apis/registry/v2/search/artifacts"),
        ("registry", "/apis/registry/v3/admin/config/properties"),
        ("connect", "/connectors"),
        ("engine", "/info"),
        ("engine", "/clusterStatus"),
        ("engine", "/ksql"),
        ("prefect", "/api/flow_runs/filter"),
        ("s3", "/heartwatch?list-type=2"),
    ],
)
def test_no_part_answers_a_stranger(part: str, path: str, secured: Platform, settings: Settings) -> None:
    state = read_state(secured.home)
    assert state is not None
    url = f"https://127.0.0.1:{state.ports[part]}{path}"
    for login in (None, ("operator", "guessed"), ("heartwatch", "")):
        with httpx.Client(trust_env=False, timeout=10, verify=tls_verify(settings.s3.ca_file, part)) as client:
            answer = client.post(url, json={}, auth=login) if part in ("prefect",) else client.get(url, auth=login)
        assert answer.status_code in (401, 403), answer.text
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as client:
        client.get(url)


def test_a_login_of_one_service_is_none_of_another(settings: Settings, secured: Platform) -> None:
    """Who is told the page's password for KSQL, or the producer's for the brokers, has no other."""
    accounts = load_accounts(secured.home)
    taken = {"user": "operator", "password": accounts["kafka"]["operator"]}
    with pytest.raises(KsqldbError, match="Unauthorized"):
        Ksqldb(type(settings.ksqldb)(**settings.ksqldb.model_dump() | taken), retry_seconds=0).entities("SHOW STREAMS;")
    with pytest.raises(RegistryError, match="401"):
        Registry(type(settings.registry)(**settings.registry.model_dump() | taken)).subjects()
    with pytest.raises(ConnectError, match="401"):
        Connect(type(settings.connect)(**settings.connect.model_dump() | taken), retry_seconds=0.1).connectors()
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3.endpoint,
        region_name="us-east-1",
        verify=str(settings.s3.ca_file),
        aws_access_key_id="heartwatch",
        aws_secret_access_key="guessed",
    )
    with pytest.raises((ClientError, BotoCoreError), match=r"InvalidAccessKeyId|403|AccessDenied"):
        client.list_objects_v2(Bucket=settings.s3.bucket)


def test_no_secret_is_in_a_log_a_process_list_or_a_run(
    found: dict[str, Any], secured: Platform, settings: Settings, accounts: Accounts
) -> None:
    known = {text for one in load_accounts(secured.home).values() for text in one.values()}
    for table in load_secrets(secured.home, secured=True).values():
        known |= set(table.values())
    places = {str(path): path.read_text("utf-8", "replace") for path in (secured.home / "logs").iterdir()}
    own = os.getpid()
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.info["pid"] != own:
            places[f"process {process.info['pid']}"] = " ".join(process.info["cmdline"] or ())
    with httpx.Client(trust_env=False, verify=tls_verify(settings.prefect.ca_file, "Prefect"), timeout=30) as client:
        user, _, password = settings.prefect.auth_string.get_secret_value().partition(":")
        for kind in ("flow_runs", "task_runs", "artifacts", "deployments", "variables", "work_pools", "logs"):
            answer = client.post(f"{settings.prefect.api_url}/{kind}/filter", json={}, auth=(user, password))
            assert answer.is_success, answer.text
            places[f"Prefect's {kind}"] = answer.text
    connect = Connect(settings.connect)
    places["connectors"] = str([connect.config(name) for name in connect.connectors()])
    assert len(places) > 20
    assert [place for place, text in places.items() if any(secret in text for secret in known)] == []
