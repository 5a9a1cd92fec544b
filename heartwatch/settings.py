"""Every host, size and limit of HeartWatch, once.

Values come, first found wins, from: arguments, ``HEARTWATCH_…`` environment variables (``__`` between levels), the file
``settings.toml`` in the home, for the profile ``local`` the addresses that the embedded platform wrote when it started, and the
profile's file ``deployments/profiles/<profile>.toml``. A flow run has its worker's environment, not that of whoever asked for
it: what is to hold for runs stands in ``settings.toml``, which each run reads. Secrets are never here: they come from the
environment, from files (the platform's secrets file; a file each in the folder that HEARTWATCH_SECRETS_FOLDER names), or from a
Prefect block (`add_source`; `tasks.secrets` has it).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import NestedSecretsSettingsSource as SecretsSource
from pydantic_settings import SettingsError as SourceError

from heartwatch.errors import HeartWatchError
from kafkakit.settings import HttpAccess, KafkaSettings, RegistrySettings, SettingsSection
from ksqlengine.client.settings import KsqldbSettings

DEFAULT_ANALYTIC = "heart_rate"

_INSTALLED = Path(__file__).resolve().parent / "project"

IS_CHECKOUT = not _INSTALLED.is_dir()
"""Whether this is the project's repository, or a copy of it, rather than an installed wheel."""

ROOT = Path(__file__).resolve().parent.parent if IS_CHECKOUT else _INSTALLED
"""The project's files (ksql/, schemas/, deployments/, prefect.yaml): a checkout's top, or what the wheel carries."""


def _default_home() -> Path:
    """Return the checkout's own folder, or the user's for an installed wheel, whatever folder a command is called from."""
    if IS_CHECKOUT:
        return ROOT / ".heartwatch"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(data)).absolute() / "heartwatch"


DEFAULT_HOME = _default_home()
"""Where the embedded platform keeps its data unless HEARTWATCH_HOME names another folder."""

Source = Callable[[], dict[str, Any]]
"""Gives further values, shaped as the settings."""

_SOURCES: list[Source] = []

SECRETS_FOLDER = "HEARTWATCH_SECRETS_FOLDER"
"""Variable that names a folder of files, one a secret (``kafka__sasl_password``), as Docker and Kubernetes mount them."""


class SettingsError(HeartWatchError):
    """The settings can't be used; the message names each wrong value and what is allowed."""


class ConnectSettings(HttpAccess):
    """Kafka Connect."""

    url: str = Field("http://127.0.0.1:8083", description="base address of Connect's REST API")
    user: str = Field("heartwatch", description="user, where the API asks for one")
    password: SecretStr = Field(
        SecretStr(""),
        description="HEARTWATCH_CONNECT__PASSWORD or the platform's secrets; empty: the API asks for none",
    )
    ready_timeout_seconds: float = Field(120, gt=0, description="how long a connector's tasks may take to run")
    restart_limit: int = Field(3, ge=0, description="restarts of failed tasks before a deploy fails")
    secrets_file: str = Field(
        "/etc/heartwatch/connect.properties",
        description="properties file, as Connect sees it, that its config provider `secrets` reads",
    )
    avro_converter: dict[str, str] = Field(
        {
            "class": "io.apicurio.registry.utils.converter.AvroConverter",
            "apicurio.registry.url": "${registry.converter_url}",
            "apicurio.registry.as-confluent": "true",
            "apicurio.registry.use-id": "contentId",
            "apicurio.registry.headers.enabled": "false",
            "apicurio.registry.auto-register": "true",
            "apicurio.registry.artifact-resolver-strategy": "io.apicurio.registry.serde.strategy.TopicIdStrategy",
        },
        description="class and settings of the Avro converter that Connect has",
    )


class PostgresSettings(SettingsSection):
    """The database of the personal ranges."""

    host: str = Field("127.0.0.1", description="server")
    connect_host: str | None = Field(None, description="the same server as Connect sees it, where that differs")
    port: int = Field(5432, ge=1, le=65_535, description="port")
    database: str = Field("heartwatch", description="database")
    user: str = Field("heartwatch", description="role")
    password: SecretStr = Field(SecretStr(""), description="HEARTWATCH_POSTGRES__PASSWORD or the platform's secrets")
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="how much TLS: verify-full knows the server by its certificate and name"
    )
    ca_file: Path | None = Field(None, description="PEM file of the authority that signed the server, for verify-…")
    connect_ca_file: str | None = Field(None, description="the same file as Connect sees it, where that differs")
    historical_table: str = Field(
        "historical", pattern=r"^[a-z][a-z0-9_]*$", description="table of the personal ranges, in the schema public"
    )


class S3Settings(SettingsSection):
    """Object storage of the sink, and the Iceberg catalog over it."""

    endpoint: str | None = Field(None, description="address of an S3 server; None for AWS")
    region: str = Field("us-east-1", description="region")
    bucket: str = Field("heartwatch", min_length=3, max_length=63, description="bucket of the tables")
    path_style: bool = Field(True, description="bucket in the path (S3 servers) rather than in the host name")
    ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the server; None: the system's"
    )
    access_key_id: SecretStr = Field(SecretStr(""), description="HEARTWATCH_S3__ACCESS_KEY_ID; empty: the AWS chain")
    secret_access_key: SecretStr = Field(SecretStr(""), description="HEARTWATCH_S3__SECRET_ACCESS_KEY")
    namespace: str = Field("heartwatch", pattern=r"^[a-z][a-z0-9_]*$", description="Iceberg namespace of the tables")
    warehouse: str = Field("warehouse", description="folder of the tables in the bucket")
    catalog_schema: str = Field("iceberg", description="Postgres schema of the Iceberg catalog")
    commit_interval_ms: int = Field(10_000, ge=1_000, description="how often the sink commits a snapshot")
    layout: Literal["iceberg", "confluent"] = Field(
        "iceberg",
        description="what the sink connectors write: Iceberg tables, or objects as Confluent's S3 sink names them",
    )
    topics_folder: str = Field("topics", description="folder of Confluent's S3 sink in the bucket (its topics.dir)")


class PrefectSettings(SettingsSection):
    """Prefect."""

    api_url: str | None = Field(None, description="API of the server; None uses PREFECT_API_URL")
    auth_string: SecretStr = Field(
        SecretStr(""),
        description="user:password that the API asks for; the platform's secrets, or empty: PREFECT_API_AUTH_STRING",
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authority that signed the server; None: the system's (PREFECT_API_SSL_CERT_FILE)",
    )
    orchestration_pool: str = Field("orchestration", description="work pool of the flows")
    producers_pool: str = Field("producers", description="work pool of the producers")


class PipelineSettings(SettingsSection):
    """Which analytic runs, in which version, with which query parameters."""

    analytic: str = Field(
        DEFAULT_ANALYTIC, pattern=r"^[a-z][a-z0-9_]*$", description="folder name under ksql/ and schemas/"
    )
    version: int = Field(1, ge=1, le=9_999, description="in every resource name, so that versions live side by side")
    mode: Literal["dev", "prod"] = Field("prod", description="dev: generated events; prod: events of the producers")
    offset_reset: Literal["earliest", "latest"] = Field("earliest", description="where a new query starts reading")
    variables: dict[str, str] = Field(default_factory=dict, description="overrides of the analytic's KSQL variables")
    # Stream time is the largest event time of a partition: what is further ahead than the grace period makes everybody else late.
    max_ahead_ms: int = Field(
        5_000, ge=0, description="how far an event's time may lie ahead of its arrival, ms; below the grace period"
    )


class ProducerSettings(SettingsSection):
    """How events are sent."""

    machines: list[str] = Field(default_factory=list, description="producer machines; empty: the brokers' machines")
    processes_per_machine: int = Field(2, ge=1, le=256, description="producer processes a machine")
    batch_events: int = Field(20_000, ge=1, le=1_000_000, description="events encoded at once (the original's: 400)")
    transaction_interval_ms: int = Field(200, ge=10, le=60_000, description="longest open producer transaction")
    poll_interval_ms: int = Field(100, ge=1, description="longest interval between dev-mode events")
    iterations: int = Field(1_000_000, ge=1, description="events that dev mode sends")


class HeartbeatSettings(SettingsSection):
    """Events of reserved users that close the windows of quiet partitions."""

    look_after_seconds: float = Field(
        5,
        ge=1,
        description="silence of a partition after which the KSQL servers are made to look for closed windows, s",
    )
    # Phones send samples at once, and after a short loss of coverage or a restart within about three minutes. A producer
    # process of ours that hangs is replaced after 150 s (`heartwatch.produce.supervision.Limits`): what it sends then must not
    # be late either.
    close_after_seconds: float = Field(
        180,
        ge=1,
        description="silence of a partition, and how far behind the clock its windows must lie, until they are closed, s",
    )


class ConnectorSettings(SettingsSection):
    """Connector intervals of the original that a JDBC source needs."""

    historical_poll_ms: int = Field(3_600_000, ge=100, description="how often a polling source reads the table")


class ObjectiveSettings(SettingsSection):
    """What the scheduled checks hold the pipeline to."""

    min_events_per_second: float = Field(10_000, ge=0, description="rate of the first stream during a run, events/s")
    max_lag_seconds: float = Field(60, ge=0, description="age of the oldest event not yet through a stage")
    min_recall: float = Field(0.9, ge=0, le=1, description="share of the alerts that had to come that came")
    min_precision: float = Field(0.9, ge=0, le=1, description="share of the alerts that were right")
    max_latency_ms: float = Field(
        60_000, gt=0, description="99th percentile of the time from a window's closing event to its result, ms"
    )


class WebSettings(SettingsSection):
    """The live page."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65_535, description="port to listen on")
    allowed_hosts: list[str] = Field(
        ["127.0.0.1", "localhost"], min_length=1, description="host names that browsers may use; others are refused"
    )
    secret: SecretStr = Field(
        SecretStr(""),
        description="HEARTWATCH_WEB__SECRET or the platform's secrets: who knows it may run and stop; empty: nobody",
    )
    certificate_file: Path | None = Field(None, description="PEM file of the page's certificate: HTTPS; None: HTTP")
    key_file: Path | None = Field(None, description="PEM file of that certificate's key")
    session_minutes: float = Field(60, gt=0, le=1_440, description="how long a sign-in holds, minutes")
    prefect_ui_url: str | None = Field(None, description="Prefect's UI as browsers see it; None: beside its API")
    history_seconds: int = Field(300, ge=60, le=3_600, description="how far back the charts go, s")
    remembered_alerts: int = Field(5_000, ge=100, le=100_000, description="alerts that the page keeps, the newest")


class MonitoringSettings(SettingsSection):
    """What the scheduled checks remember and do by themselves."""

    retention_days: float = Field(14, gt=0, description="how long the checks' figures are kept, days")
    notification_block: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+/[a-z0-9-]+$",
        description="Prefect block that tells people, as type/name: slack-webhook/ops, sendgrid-email/ops; None: nobody",
    )
    zombie_seconds: float = Field(
        90,
        ge=10,
        description="silence after which a run without heartbeats counts as crashed; three heartbeats are 90 s",
    )
    connector_restarts: int = Field(
        5, ge=0, description="restarts of a connector's failed tasks before people are needed"
    )
    connector_calm_seconds: float = Field(
        1_800, gt=0, description="how long a connector must run before its earlier restarts are forgotten"
    )
    least_free_disk: float = Field(0.1, ge=0, le=1, description="share of the disk that must stay free")
    worker_memory_hours: float = Field(
        24, gt=0, description="how long a worker that went is missed; later it counts as taken away"
    )


class Settings(BaseSettings):
    """The whole configuration of a process."""

    model_config = SettingsConfigDict(env_prefix="HEARTWATCH_", env_nested_delimiter="__", extra="forbid")

    profile: Literal["local", "docker", "ec2", "msk", "confluent-cloud", "secured"] = Field(
        "local", description="which platform the flows talk to"
    )
    home: Path = Field(DEFAULT_HOME, description="data of the embedded platform, logs, secrets, state")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    connect: ConnectSettings = Field(default_factory=ConnectSettings)
    ksqldb: KsqldbSettings = Field(default_factory=KsqldbSettings)
    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
    s3: S3Settings = Field(default_factory=S3Settings)
    prefect: PrefectSettings = Field(default_factory=PrefectSettings)
    pipeline: PipelineSettings = Field(default_factory=PipelineSettings)
    producer: ProducerSettings = Field(default_factory=ProducerSettings)
    heartbeat: HeartbeatSettings = Field(default_factory=HeartbeatSettings)
    connector: ConnectorSettings = Field(default_factory=ConnectorSettings)
    objectives: ObjectiveSettings = Field(default_factory=ObjectiveSettings)
    monitoring: MonitoringSettings = Field(default_factory=MonitoringSettings)
    web: WebSettings = Field(default_factory=WebSettings)

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the profile's file and the embedded platform's addresses below the environment."""
        chosen = {**env_settings(), **init_settings()}
        profile = str(chosen.get("profile", "local"))
        home = Path(str(chosen.get("home", DEFAULT_HOME))).expanduser()
        folder = os.environ.get(SECRETS_FOLDER)
        if folder and not Path(folder).is_dir():
            raise SettingsError(f"{SECRETS_FOLDER}={folder!r} is not a folder; mount the secrets there, or unset it")
        secrets = SecretsSource(file_secret_settings, secrets_dir=folder, secrets_prefix="")
        return init_settings, env_settings, secrets, *_given(settings_cls), _FileSource(settings_cls, profile, home)


def add_source(source: Source) -> None:
    """Have settings take what a source gives, below the environment and above the files; it is asked each time they are read."""
    if source not in _SOURCES:
        _SOURCES.append(source)


def _given(settings_cls: type[BaseSettings]) -> list[PydanticBaseSettingsSource]:
    return [InitSettingsSource(settings_cls, init_kwargs=source()) for source in _SOURCES]


class _FileSource(PydanticBaseSettingsSource):
    """Values of the profile's file, over them the running platform's addresses and secrets, and people's own over all."""

    def __init__(self, settings_cls: type[BaseSettings], profile: str, home: Path) -> None:
        super().__init__(settings_cls)
        self._values = _read_toml(ROOT / "deployments" / "profiles" / f"{profile}.toml")
        if profile == "local":
            for name in ("endpoints.toml", "secrets.toml"):
                self._values = merge(self._values, _read_toml(home / name))
        self._values = merge(self._values, _read_toml(home / "settings.toml"))

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Return one top-level value (pydantic-settings' interface)."""
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return all values (pydantic-settings' interface)."""
        return self._values


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` laid over it, level by level."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        # Windows' editors put a byte-order mark before it.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        # Not UTF-8, not TOML, or nested too deep.
        raise SettingsError(f"{str(path)!r} is not valid TOML: {error}; fix or remove the file") from error
    except OSError as error:
        raise SettingsError(f"{str(path)!r} can't be read: {error.strerror}; check its owner and mode") from error


def load_settings(**overrides: Any) -> Settings:
    """Read and check the settings.

    Args:
        **overrides: top-level values that win over every other source.

    Raises:
        SettingsError: a value is missing or out of bounds; each is named with its remedy.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            f"HEARTWATCH_{'__'.join(str(part).upper() for part in item['loc'])}={_shown(item)}: {item['msg']}"
            for item in error.errors()
        ]
        # Its own text would show secrets.
        raise SettingsError("settings can't be used: " + "; ".join(lines)) from None
    except SourceError as error:
        raise SettingsError(
            f"settings can't be used: {error}; write lists and maps as JSON, such as "
            "HEARTWATCH_KSQLDB__URLS='[\"http://127.0.0.1:8088\"]'"
        ) from error


def _shown(item: Any) -> str:
    """Return a wrong value, unless it is a secret or may hold one."""
    kind: Any = Settings
    for part in item["loc"]:
        field = getattr(kind, "model_fields", {}).get(part)
        if field is None:
            break
        kind = field.annotation
    fields = getattr(kind, "model_fields", {}) if kind is not Settings else {}
    is_secret = kind is SecretStr or any(field.annotation is SecretStr for field in fields.values())
    return "(not shown)" if is_secret else repr(item.get("input"))
