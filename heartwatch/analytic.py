"""An analytic: a folder name from which every topic, schema, KSQL variable and versioned resource name follows."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heartwatch.settings import ROOT, PipelineSettings

_SINK = "_sink"


class AnalyticError(Exception):
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
    area: str = Field(description="field that says where, of realtime and alerts")
    area_title: str = Field(description="what an area is called")
    north: str = Field(description="field of the position, degrees north, of realtime and alerts")
    east: str = Field(description="field of the position, degrees east, of realtime and alerts")
    measure: str = Field(description="field that is watched, of realtime")
    measure_title: str = Field(description="what it is called")
    unit: str = Field(description="its unit")
    average: str = Field(description="field of its average in a window, of alerts")
    low: str = Field(description="field of the own range's lower end, of historical and alerts")
    high: str = Field(description="field of the own range's upper end, of historical and alerts")
    begin: str = Field(description="field of the window's first instant, of alerts")
    end: str = Field(description="field of the window's end, of alerts")


class _AnalyticFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    topics: dict[str, TopicDefinition]
    variables: dict[str, str | int | float]
    summary: dict[str, str] = Field(default_factory=dict)
    page: PageDefinition | None = None


class Analytic(BaseModel):
    """One version of one analytic.

    Attributes:
        analytic: its folder's name.
        version: in every resource name.
        root: top folder of the project.
        topics: by resource.
        default_variables: the KSQL variables' defaults.
        summary: how a result is shown to people: column → ``str.format`` template over the result's fields.
        page: what the live page shows of it; None: no alerts and people.
    """

    model_config = ConfigDict(frozen=True)

    analytic: str
    version: int
    root: Path
    topics: dict[str, TopicDefinition]
    default_variables: dict[str, str]
    summary: dict[str, str] = Field(default_factory=dict)
    page: PageDefinition | None = None

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
        except (tomllib.TOMLDecodeError, ValidationError) as error:
            raise AnalyticError(f"analytic {analytic!r}: {path.name!r} is wrong: {error}; mend it") from error
        return cls(
            analytic=analytic,
            version=version,
            root=root,
            topics=definition.topics,
            default_variables={name: _sql_text(value) for name, value in definition.variables.items()},
            summary=definition.summary,
            page=definition.page,
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

    def sink_topics(self) -> list[str]:
        """Return the resources of the topics that have a sink connector."""
        return sorted(path.stem.removesuffix(_SINK) for path in self.connectors_folder.glob(f"*{_SINK}.json"))

    def sink_connector(self, resource: str) -> str:
        """Return the name of a topic's sink connector."""
        return self.name(resource + _SINK)

    def schema_text(self, resource: str) -> str:
        """Return the Avro schema of a topic's values as it stands in its file."""
        return (self.schemas_folder / self.topics[resource].schema_file).read_text(encoding="utf-8")

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
