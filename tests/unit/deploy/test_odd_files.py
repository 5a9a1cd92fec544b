"""No file or setting ends in an error that doesn't say what is wrong: generated from the project's own files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heartwatch.analytic import Analytic
from heartwatch.deploy.connectors import connector_configs
from heartwatch.deploy.migrations import read_migrations
from heartwatch.deploy.schemas import subjects
from heartwatch.errors import HeartWatchError
from heartwatch.settings import ROOT, Settings, load_settings
from ksqlengine.errors import KsqlEngineError

ODD = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for folder in ("schemas", "ksql", "deployments/connect"):
        shutil.copytree(ROOT / folder, root / folder)
    return root


def told(read: Callable[[], object]) -> None:
    """Read something; whatever is wrong with it must be told in a sentence of ours."""
    reason = "none"
    try:
        read()
    except (HeartWatchError, KsqlEngineError) as error:
        reason = str(error)
    assert reason.strip()


@st.composite
def changed(draw: st.DrawFn, text: bytes) -> bytes:
    """Return a file with a few bytes cut out, doubled, or put in."""
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, max(0, len(text) - 1)))
        end = draw(st.integers(begin, min(len(text), begin + 40)))
        put = draw(st.sampled_from([b"", text[begin:end] * 2, b"\xff"]) | st.text(max_size=5).map(to_bytes))
        text = text[:begin] + put + (text[end:] if draw(st.integers(0, 5)) else b"")
    return text


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def tried(path: Path, read: Callable[[], object], content: bytes) -> None:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        told(read)
    finally:
        path.write_bytes(before)


TOML = (ROOT / "schemas/heart_rate/analytic.toml").read_bytes()
CONNECTOR = (ROOT / "deployments/connect/heart_rate/historical_source.json").read_bytes()
MIGRATION = (ROOT / "ksql/heart_rate/V000003__alerts.sql").read_bytes()
SCHEMA = (ROOT / "schemas/heart_rate/realtime.avsc").read_bytes()


@ODD
@given(changed(TOML) | st.binary(max_size=20))
@example(b"\xff\xfe")
@example(b"topics = 3")
@example(TOML.replace(b"window_ms = 10000", b"window_ms = nan"))
@example(TOML.replace(b"window_ms = 10000", b"window_ms = 2020-01-01"))
def test_analytic_toml(root: Path, content: bytes) -> None:
    def read() -> None:
        analytic = Analytic.load("heart_rate", 1, root)
        analytic.variables()

    tried(root / "schemas/heart_rate/analytic.toml", read, content)


ODD_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=6), inner, max_size=2)),
    max_leaves=4,
)


@ODD
@given(
    changed(CONNECTOR)
    | ODD_JSON.map(lambda value: json.dumps(value).encode())
    | st.text(max_size=20).map(lambda text: json.dumps({"a": "${" + text + "}"}).encode())
)
@example(b"\xff\xfe")
@example(b'{"a": "${connect.avro_converter}${connect.avro_converter}"}')
@example(b'{"a": "x${connect.avro_converter}"}')
@example(b"[" * 100_000)
def test_connector_files(root: Path, content: bytes) -> None:
    analytic = Analytic.load("heart_rate", 1, root)
    path = root / "deployments/connect/heart_rate/historical_source.json"
    tried(path, lambda: connector_configs(analytic, load_settings()), content)


@ODD
@given(changed(MIGRATION) | st.binary(max_size=20))
@example(b"\xff\xfe")
@example(b"CREATE STREAM ${")
def test_migrations(root: Path, content: bytes) -> None:
    analytic = Analytic.load("heart_rate", 1, root)
    path = root / "ksql/heart_rate/V000003__alerts.sql"

    def read() -> None:
        for migration in read_migrations(analytic.migrations_folder, analytic.variables()):
            assert migration.has_query in (True, False)
            assert isinstance(migration.sources, tuple)

    tried(path, read, content)


@ODD
@given(changed(SCHEMA) | ODD_JSON.map(lambda value: json.dumps(value).encode()))
@example(b"\xff\xfe")
def test_schema_files(root: Path, content: bytes) -> None:
    def read() -> None:
        subjects(Analytic.load("heart_rate", 1, root))

    tried(root / "schemas/heart_rate/realtime.avsc", read, content)


NAMES = [
    "PROFILE", "HOME", "KAFKA", "KAFKA__PARTITIONS", "KAFKA__BOOTSTRAP_SERVERS", "REGISTRY__URL", "POSTGRES__PORT", "S3__LAYOUT",
    "PIPELINE__VARIABLES", "PIPELINE__VERSION", "PIPELINE__ANALYTIC", "KSQLDB__URLS",
    "MONITORING__LEAST_FREE_DISK", "OTHER", "KAFKA__OTHER",
]  # fmt: skip


@ODD
@given(
    st.sampled_from(NAMES),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    | ODD_JSON.map(json.dumps)
    | st.sampled_from(["{", "[1", "99999999999999999999", "nan", "-1", "1e400", '{"a": {"b": [1]}}']),
)
@example("KAFKA", "{")
@example("PIPELINE__VARIABLES", "{")
@example("KSQLDB__URLS", "http://127.0.0.1:1")
def test_environment_variables(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"HEARTWATCH_{name}", value)

        def read() -> Settings:
            return load_settings()

        told(read)


def test_a_bad_setting_is_not_pydantics_error() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEARTWATCH_KAFKA__PARTITIONS", "none")
        with pytest.raises(HeartWatchError, match=r"(?i)partitions") as caught:
            load_settings()
    assert not isinstance(caught.value, ValidationError)
