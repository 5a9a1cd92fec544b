"""What somebody on the same machine gets without a login: nothing of what the parts keep, and no file of the home."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest

from heartwatch.platform.platform import Platform
from heartwatch.platform.state import load_secrets, read_state
from heartwatch.settings import load_settings

pytestmark = pytest.mark.parts("kafka", "connect", "s3", "postgres", "prefect")

REFUSED = {400, 401, 403, 404}


@pytest.fixture(scope="module")
def ports(platform: Platform) -> dict[str, int]:
    state = read_state(platform.home)
    assert state is not None
    return state.ports


@pytest.fixture(scope="module")
def stranger() -> Iterator[httpx.Client]:
    # A connection for each request: some servers close it behind a refusal.
    with httpx.Client(timeout=10, trust_env=False, headers={"Connection": "close"}) as client:
        yield client


def test_nobody_else_gets_into_the_home(platform: Platform) -> None:
    others = stat.S_IRWXG | stat.S_IRWXO
    assert platform.home.stat().st_mode & others == 0
    # A copy with its modes is for nobody else either.
    kept = [platform.home / name for name in ("secrets.toml", "endpoints.toml", "state.json")]
    kept += [path for path in (platform.home / "data" / "kafka-1").rglob("*") if path.is_file()]
    kept += [path for path in (platform.home / "data" / "connect").rglob("*") if path.is_file()]
    kept += (platform.home / "data" / "s3").glob("*.*")
    assert len(kept) > 10
    assert [path for path in kept if path.is_file() and path.stat().st_mode & others] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/connectors"),
        ("POST", "/connectors"),
        ("PUT", "/connectors/thief/config"),
        ("GET", "/connector-plugins"),
        ("GET", "/admin/loggers"),
        ("PUT", "/connector-plugins/MirrorSourceConnector/config/validate"),
    ],
)
def test_connect_takes_no_connector_from_a_stranger(
    ports: dict[str, int], stranger: httpx.Client, method: str, path: str
) -> None:
    body = {"name": "thief", "config": {"stolen": "${secrets:/x:postgres.password}"}}
    url = f"http://127.0.0.1:{ports['connect']}{path}"
    assert stranger.request(method, url, json=body).status_code == 401
    assert stranger.request(method, url, json=body, auth=("heartwatch", "guessed")).status_code == 401


def test_connectors_can_refer_only_to_the_secrets_that_they_need(platform: Platform) -> None:
    known = {line.partition("=")[0] for line in Path(load_settings().connect.secrets_file).read_text().splitlines()}
    assert known == {"postgres.password", "s3.access_key_id", "s3.secret_access_key"}
    assert {"prefect", "web", "connect"} <= load_secrets(platform.home).keys()


@pytest.mark.parametrize(
    "path", ["/deployments/filter", "/flow_runs/filter", "/block_documents/filter", "/variables/filter"]
)
def test_prefect_answers_nobody_without_the_password(ports: dict[str, int], stranger: httpx.Client, path: str) -> None:
    url = f"http://127.0.0.1:{ports['prefect']}/api{path}"
    answer = stranger.post(url, json={}, headers={"Origin": "http://elsewhere.example"})
    assert answer.status_code == 401
    assert "access-control-allow-origin" not in answer.headers
    user, _, password = load_settings().prefect.auth_string.get_secret_value().partition(":")
    assert stranger.post(url, json={}, auth=(user, password)).status_code == 200


def test_other_sites_pages_get_no_leave_to_ask_prefect(ports: dict[str, int], stranger: httpx.Client) -> None:
    url = f"http://127.0.0.1:{ports['prefect']}/api/deployments/filter"
    asked = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = stranger.options(url, headers=asked)
    assert "access-control-allow-origin" not in answer.headers


@pytest.fixture(scope="module")
def key(platform: Platform) -> str:
    """An object of ours, as the owner wrote it."""
    s3 = load_settings().s3
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key_id.get_secret_value(),
        aws_secret_access_key=s3.secret_access_key.get_secret_value(),
    )
    client.put_object(Bucket=s3.bucket, Key="intruder/kept", Body=b"a person's heart rate")
    return f"{s3.bucket}/intruder/kept"


def answers(client: httpx.Client, method: str, url: str) -> bool:
    """Tell whether a request without a key is answered with anything but a refusal."""
    try:
        return client.request(method, url, content=b"changed").status_code not in REFUSED
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_port_of_the_object_store_answers_without_a_key(ports: dict[str, int], key: str, scheme: str) -> None:
    with httpx.Client(timeout=10, trust_env=False, verify=False) as client:  # noqa: S501 - an intruder trusts anybody
        bucket = key.partition("/")[0]
        tried = {
            "s3": [("GET", f"/{key}"), ("PUT", f"/{key}"), ("DELETE", f"/{key}"), ("GET", f"/{bucket}?list-type=2")],
            "s3-filer": [
                ("GET", f"/buckets/{key}"),
                ("PUT", f"/buckets/{key}"),
                ("DELETE", f"/buckets/{key}"),
                ("GET", "/buckets/?pretty=y"),
            ],
            "s3-master": [
                ("GET", "/dir/assign"),
                ("GET", "/dir/status"),
                ("GET", f"/col/delete?collection={bucket}"),
                ("GET", "/vol/status"),
                ("GET", "/"),
            ],
            "s3-volume": [
                ("GET", "/status"),
                ("GET", "/1,01637037d6"),
                ("POST", "/1,01637037d6"),
                ("GET", "/ui/index.html"),
            ],
        }
        opened = [
            (name, method, path)
            for name, requests in tried.items()
            for method, path in requests
            if answers(client, method, f"{scheme}://127.0.0.1:{ports[name]}{path}")
        ]
    assert opened == []
