"""Session properties: which there are, what they may be, and what they mean for a query.

Names are ksqlDB's. Those of Kafka Streams and its clients may carry the prefix ``ksql.streams.``, as there; what an engine
without Kafka Streams has no use for is accepted and without effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ksqlengine.internal_names import AHEAD, CACHE
from ksqlengine.planning.with_clause import EngineDefaults
from ksqlengine.streams.context import Guarantee, QueryOptions
from ksqlengine.types.errors import BAD_REQUEST, KsqlError, NotSupportedError, StatementError

_STREAMS_PREFIX = "ksql.streams."
_THROW_ON_INVALID = "ksql.timestamp.throw.on.invalid"


@dataclass
class RequestSession:
    """Session properties and variables of a request, which its statements may change."""

    properties: dict[str, str]
    variables: dict[str, str]


@dataclass(frozen=True)
class Property:
    """A property: its default, what it is for, and whether a value is right."""

    default: str
    meaning: str
    is_right: Callable[[str], bool] = lambda value: True


def _whole(least: int) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(r"-?\d{1,19}", value.strip()) is not None and int(value) >= least


def _one_of(*values: str) -> Callable[[str], bool]:
    return lambda value: value.lower() in values


_BOOLEAN = _one_of("true", "false")
_GUARANTEES = ("exactly_once_v2", "exactly_once", "at_least_once")

PROPERTIES: Mapping[str, Property] = {
    "auto.offset.reset": Property("latest", "Where a new query begins to read.", _one_of("earliest", "latest")),
    "processing.guarantee": Property(
        "exactly_once_v2", "Whether results and positions are one transaction.", _one_of(*_GUARANTEES)
    ),
    "commit.interval.ms": Property("1000", "Longest time between commits of a query without results.", _whole(1)),
    AHEAD: Property(
        "-1",
        "A stream's record whose TIMESTAMP column lies further ahead of the record's own time is rejected; -1: none is.",
        _whole(-1),
    ),
    "ksql.persistence.default.format.key": Property("KAFKA", "Key format of statements that name none."),
    "ksql.persistence.default.format.value": Property("", "Value format of statements that name none."),
    "ksql.output.topic.name.prefix": Property("", "Put before the names of topics that queries make."),
    "ksql.query.pull.table.scan.enabled": Property(
        "true", "Without effect: pull queries may always read whole tables.", _BOOLEAN
    ),
    "ksql.persistence.wrap.single.values": Property(
        "true", "Whether a value of one column is a record, where WRAP_SINGLE_VALUE doesn't say.", _BOOLEAN
    ),
    "ksql.functions.collect_list.limit": Property(
        str(2**31 - 1), "Most values of COLLECT_LIST; further ones are ignored.", _whole(-1)
    ),
    "ksql.functions.collect_set.limit": Property(
        str(2**31 - 1), "Most values of COLLECT_SET; further ones are ignored.", _whole(-1)
    ),
    _THROW_ON_INVALID: Property("false", "A record with an unusable timestamp is logged and skipped.", _BOOLEAN),
    "ksql.create.or.replace.enabled": Property("true", "Without effect: CREATE OR REPLACE is always there.", _BOOLEAN),
    "ksql.suppress.enabled": Property("true", "Without effect: EMIT FINAL is always there.", _BOOLEAN),
    "ksql.query.push.v2.enabled": Property("false", "Without effect.", _BOOLEAN),
    CACHE: Property(
        "10000000",
        "Bytes of cache before the stores. With 0 each change of a group is given, and EMIT FINAL loses all behind RETENTION, "
        "else windows of dropped segments only.",
        _whole(0),
    ),
    "num.stream.threads": Property("1", "Without effect: start more engine processes instead.", _whole(1)),
    "max.task.idle.ms": Property(
        "0", "Without effect: tables are always up to date when a record is joined.", _whole(-1)
    ),
    "replication.factor": Property("-1", "Without effect: topics are made like their source.", _whole(-1)),
}


# Switches of ksqlDB for what the engine always does, or has no counterpart of.
_WITHOUT_EFFECT = {
    "ksql.any.key.name.enabled",
    "ksql.cast.strings.preserve.nulls",
    "ksql.headers.columns.enabled",
    "ksql.joins.foreign.key.enable",
    "ksql.new.query.planner.enabled",
    "ksql.rowpartition.rowoffset.enabled",
    "ksql.source.table.materialization.enabled",
}


_OF_THE_SERVER = {"ksql.service.id"}


def canonical(name: str) -> str:
    """Return a property's name without the prefix for Kafka Streams' settings."""
    bare = name.removeprefix(_STREAMS_PREFIX).removeprefix("consumer.")
    return bare if bare in PROPERTIES else name


def check_name(name: str) -> None:
    """Check that there is a property of a name.

    Raises:
        StatementError: there is none.
    """
    if canonical(name) not in PROPERTIES and not name.startswith(_STREAMS_PREFIX) and name not in _WITHOUT_EFFECT:
        raise StatementError(f"Unknown property: {name}")


def check_override(name: str) -> None:
    """Check that a session may have a property of its own.

    Raises:
        KsqlError: it is the server's alone.
    """
    if name in _OF_THE_SERVER:
        raise KsqlError(
            "One or more properties overrides set locally are prohibited by the KSQL server "
            f"(use UNSET to reset their default value): [{name}]",
            BAD_REQUEST,
        )


def check(name: str, value: str) -> None:
    """Check a property.

    Raises:
        StatementError: it is unknown, or the value is wrong.
    """
    check_name(name)
    found = PROPERTIES.get(canonical(name))
    if found is None:
        return
    if not found.is_right(value):
        raise StatementError(f"Invalid value {value} for configuration {name}")
    if name == _THROW_ON_INVALID and value.lower() == "true":
        raise NotSupportedError(f"{name}={value}")


def with_changes(properties: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return properties with some changed.

    Raises:
        StatementError: a property is unknown, or its value is wrong.
    """
    result = dict(properties)
    for name, value in changes.items():
        check(name, value)
        result[canonical(name)] = value
    return result


def engine_defaults(properties: Mapping[str, str]) -> EngineDefaults:
    """Return what statements that don't say otherwise take."""
    return EngineDefaults(
        key_format=properties.get("ksql.persistence.default.format.key", "KAFKA"),
        value_format=properties.get("ksql.persistence.default.format.value") or None,
        topic_prefix=properties.get("ksql.output.topic.name.prefix", ""),
        wraps_single=properties.get("ksql.persistence.wrap.single.values", "true").lower() == "true",
    )


def query_options(properties: Mapping[str, str]) -> QueryOptions:
    """Return what a query's properties come to."""
    values = {name: property_.default for name, property_ in PROPERTIES.items()} | dict(properties)
    at_least_once = values["processing.guarantee"].lower() == Guarantee.AT_LEAST_ONCE.value
    return QueryOptions(
        guarantee=Guarantee.AT_LEAST_ONCE if at_least_once else Guarantee.EXACTLY_ONCE,
        reset=values["auto.offset.reset"].lower(),
        commit_seconds=int(values["commit.interval.ms"]) / 1000,
    )
