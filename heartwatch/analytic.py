"""An analytic: a folder name from which every topic, schema, KSQL variable and versioned resource name follows.

Shared code never spells the name of an analytic's topic: it asks for the role that the topic plays (`Analytic.stream`,
`Analytic.table`, `Analytic.results`), which the analytic's file assigns.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from heartwatch.errors import HeartWatchError
from heartwatch.settings import ROOT, PipelineSettings
from kafkakit.avro_codec import CodecError, parse

_SINK = "_sink"


class AnalyticError(HeartWatchError):
    """An analytic's folder is missing or its files are wrong; the message names the file and the remedy."""


class TopicDefinition(BaseModel):
    """One topic of an analytic, as `analytic.toml` states it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_file: str = Field(alias="schema", description="Avro file of the value, in the analytic's schema folder")
    key: str = Field(description="field that the key repeats as UTF-8 text")
    event_time: str | None = Field(None, description="field that holds the event time")
    windowed_key: bool = Field(False, description="the key is followed by the 8-byte window start")
    cleanup_policy: Literal["compact", "delete"] = Field(description="Kafka's cleanup.policy")


class PageDefinition(BaseModel):
    """What the live page shows of an analytic: which fields play which part in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str = Field(description="field that says who, in every topic")
    area: str = Field(description="field that says where, of the stream and the results")
    area_title: str = Field(description="what an area is called")
    north: str = Field(description="field of the position, degrees north, of the stream and the results")
    east: str = Field(description="field of the position, degrees east, of the stream and the results")
    measure: str = Field(description="field that is watched, of the stream")
    measure_title: str = Field(description="what it is called")
    unit: str = Field(description="its unit")
    average: str = Field(description="field of its average in a window, of the results")
    low: str = Field(description="field of the personal range's lower end, of the table and the results")
    high: str = Field(description="field of the personal range's upper end, of the table and the results")
    begin: str = Field(description="field of the window's first instant, of the results")
    end: str = Field(description="field of the window's end, of the results")


class HeartbeatDefinition(BaseModel):
    """The records of the reserved users (see `heartwatch.heartbeats`), without key and event time, which are added to each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: dict[str, Any] = Field(description="fields of their events; the queries must neither drop nor report them")
    table: dict[str, Any] = Field(description="fields of their rows in the table")


class RolesDefinition(BaseModel):
    """Which topic plays which role in the pipeline; a role that is not assigned fails only where it is needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: str | None = Field(None, description="topic that the producers write and the queries read: the events")
    table: str | None = Field(None, description="compacted topic that the events are joined with, one row per key")
    results: str | None = Field(None, description="topic that the final query writes")

    @property
    def assigned(self) -> dict[str, str]:
        """The topics by role, without the roles that are not assigned."""
        return {role: topic for role, topic in self if topic is not None}


class _AnalyticFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    topics: dict[str, TopicDefinition]
    roles: RolesDefinition = Field(default_factory=RolesDefinition)
    variables: dict[str, str | int | FiniteFloat]
    repartition: bool = False
    summary: dict[str, str] = Field(default_factory=dict)
    page: PageDefinition | None = None
    heartbeat: HeartbeatDefinition | None = None

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        assigned = self.roles.assigned
        for role, topic in assigned.items():
            if topic not in self.topics:
                raise ValueError(f"roles.{role} = {topic!r} is not a topic of the file; it has {sorted(self.topics)!r}")
        if len(set(assigned.values())) < len(assigned):
            raise ValueError(f"roles {assigned!r} name a topic twice; assign each role a topic of its own")
        return self


class Analytic(BaseModel):
    """One version of one analytic.

    Attributes:
        analytic: its folder's name.
        version: in every resource name.
        root: top folder of the project.
        topics: by resource.
        roles: which of them plays which role.
        default_variables: the KSQL variables' defaults.
        repartition: the queries put the stream's records into the partitions of their keys themselves.
        summary: how a result is shown to people: column → ``str.format`` template over the result's fields.
        page: what the live page shows of it; None: no alerts and people.
        heartbeat: records of its reserved users; None: quiet partitions' windows wait for the next event.
    """

    model_config = ConfigDict(frozen=True)

    analytic: str
    version: int
    root: Path
    topics: dict[str, TopicDefinition]
    roles: RolesDefinition = Field(default_factory=RolesDefinition)
    default_variables: dict[str, str]
    repartition: bool = False
    summary: dict[str, str] = Field(default_factory=dict)
    page: PageDefinition | None = None
    heartbeat: HeartbeatDefinition | None = None

    @classmethod
    def load(cls, analytic: str, version: int, root: Path = ROOT) -> Analytic:
        """Read an analytic's definition.

        Args:
            analytic: folder name under ``schemas/`` and ``ksql/``.
            version: version in every resource name.
            root: top folder of the project.

        Raises:
            AnalyticError: there is no such analytic, or its definition is wrong.
        """
        path = root / "schemas" / analytic / "analytic.toml"
        if not path.exists():
            known = sorted(found.parent.name for found in (root / "schemas").glob("*/analytic.toml"))
            raise AnalyticError(
                f"there is no analytic {analytic!r}; known are {known!r}: add {path.name!r} or choose one"
            )
        try:
            definition = _AnalyticFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            # Not UTF-8, not TOML, or not what the model wants: ValueErrors, all of them.
            raise AnalyticError(f"analytic {analytic!r}: {path.name!r} is wrong: {error}; fix it") from error
        return cls(
            analytic=analytic,
            version=version,
            root=root,
            topics=definition.topics,
            roles=definition.roles,
            default_variables={name: _sql_text(value) for name, value in definition.variables.items()},
            repartition=definition.repartition,
            summary=definition.summary,
            page=definition.page,
            heartbeat=definition.heartbeat,
        )

    @classmethod
    def of(cls, settings: PipelineSettings, root: Path = ROOT) -> Analytic:
        """Read the analytic that the settings name."""
        return cls.load(settings.analytic, settings.version, root)

    @property
    def migrations_folder(self) -> Path:
        """Folder of the KSQL migrations."""
        return self.root / "ksql" / self.analytic

    @property
    def schemas_folder(self) -> Path:
        """Folder of the Avro schemas."""
        return self.root / "schemas" / self.analytic

    @property
    def connectors_folder(self) -> Path:
        """Folder of the connectors, one file each."""
        return self.root / "deployments" / "connect" / self.analytic

    def name(self, resource: str) -> str:
        """Return the versioned name of a resource: ``heart_rate_realtime_v1``."""
        return f"{self.analytic}_{resource}_v{self.version}"

    def topic(self, resource: str) -> str:
        """Return the name of a topic of `analytic.toml`.

        Raises:
            AnalyticError: the analytic has no such topic.
        """
        if resource not in self.topics:
            raise AnalyticError(f"analytic {self.analytic!r} has no topic {resource!r}; it has {sorted(self.topics)!r}")
        return self.name(resource)

    @property
    def stream(self) -> str:
        """Resource of the topic that the producers write and the queries read: the events.

        Raises:
            AnalyticError: the analytic assigns no topic this role.
        """
        return self._assigned("stream")

    @property
    def table(self) -> str:
        """Resource of the compacted topic that the events are joined with: one row per key.

        Raises:
            AnalyticError: the analytic assigns no topic this role.
        """
        return self._assigned("table")

    @property
    def results(self) -> str:
        """Resource of the topic that the final query writes.

        Raises:
            AnalyticError: the analytic assigns no topic this role.
        """
        return self._assigned("results")

    @property
    def stream_topic(self) -> str:
        """Name of the topic of the events (see `stream`)."""
        return self.topic(self.stream)

    @property
    def table_topic(self) -> str:
        """Name of the topic that the events are joined with (see `table`)."""
        return self.topic(self.table)

    @property
    def results_topic(self) -> str:
        """Name of the topic of the results (see `results`)."""
        return self.topic(self.results)

    def _assigned(self, role: str) -> str:
        resource = self.roles.assigned.get(role)
        if resource is None:
            raise AnalyticError(
                f"analytic {self.analytic!r} assigns no topic the role {role!r}; "
                f"add {role!r} under [roles] in its analytic.toml, naming one of {sorted(self.topics)!r}"
            )
        return resource

    def sink_topics(self) -> list[str]:
        """Return the resources of the topics that have a sink connector."""
        return sorted(path.stem.removesuffix(_SINK) for path in self.connectors_folder.glob(f"*{_SINK}.json"))

    def sink_connector(self, resource: str) -> str:
        """Return the name of a topic's sink connector."""
        return self.name(resource + _SINK)

    def schema_text(self, resource: str) -> str:
        """Return the Avro schema of a topic's values as it stands in its file.

        Raises:
            AnalyticError: the file is missing, or holds no Avro record schema.
        """
        file = self.topics[resource].schema_file
        try:
            text = (self.schemas_folder / file).read_text(encoding="utf-8")
            parse(text)
        except (OSError, ValueError, RecursionError, CodecError) as error:
            raise AnalyticError(
                f"analytic {self.analytic!r}: schema file {file!r} can't be used: {error}; fix it"
            ) from error
        return text

    def variables(self, overrides: dict[str, Any] | None = None) -> dict[str, str]:
        """Return the KSQL variables of the migrations: parameters, then a name for each topic as topic, stream and table.

        Args:
            overrides: parameters to use instead of the analytic's defaults.

        Raises:
            AnalyticError: an override names a parameter that the analytic doesn't have.
        """
        given = {name: _sql_text(value) for name, value in (overrides or {}).items()}
        unknown = sorted(set(given) - set(self.default_variables))
        if unknown:
            raise AnalyticError(
                f"analytic {self.analytic!r} has no KSQL variables {unknown!r}; it has {sorted(self.default_variables)!r}"
            )
        names = {
            f"{resource}_{kind}": self.name(resource)
            for resource in self.topics
            for kind in ("topic", "stream", "table")
        }
        return {**self.default_variables, **given, **names}


def _sql_text(value: Any) -> str:
    """Return a number as KSQL reads it: 0.00005, never 5e-05 (which KSQL takes for a DOUBLE all the same, but people don't)."""
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").rstrip(".")
    return str(value)
