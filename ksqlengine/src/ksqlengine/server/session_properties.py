"""Session properties: which there are, what they may be, and what they mean for a query.

Names are ksqlDB's. Those of Kafka Streams and its clients may carry the prefix ``ksql.streams.``, as there; what an engine
without Kafka Streams has no use for is accepted and without effect.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ksqlengine.internal_names import AHEAD, CACHE
from ksqlengine.planning.with_clause import EngineDefaults
from ksqlengine.server.property_names import WITHOUT_EFFECT
from ksqlengine.streams.context import Guarantee, QueryOptions
from ksqlengine.types.errors import BAD_REQUEST, SERVER_ERROR, KsqlError, NotSupportedError, StatementError

_STREAMS_PREFIX = "ksql.streams."
_THROW_ON_INVALID = "ksql.timestamp.throw.on.invalid"
_MESSAGE_WIDTH = 80  # of a cause in ksqlDB's messages


@dataclass
class RequestSession:
    """Session properties and variables of a request, which its statements may change."""

    properties: dict[str, str]
    variables: dict[str, str]


@dataclass(frozen=True)
class Property:
    """A property: its default, what it is for, and what is wrong with a value (None: nothing)."""

    default: str
    meaning: str
    problem: Callable[[str], str | None] = lambda value: None


def _whole(least: int) -> Callable[[str], str | None]:
    def problem(value: str) -> str | None:
        if re.fullmatch(r"-?\d{1,19}", value.strip()) is None:
            return "Not a number of type INT"
        return None if int(value) >= least else f"Value must be at least {least}"

    return problem


def _boolean(value: str) -> str | None:
    return None if value.lower() in ("true", "false") else "Expected value to be either true or false"


def _guarantee(value: str) -> str | None:
    right = value.lower() in ("at_least_once", "exactly_once_v2")
    return None if right else "String must be one of: at_least_once, exactly_once_v2"


def _reset(value: str) -> str | None:
    if value.lower() in ("earliest", "latest"):
        return None
    return (
        f"Invalid value `{value}` for configuration auto.offset.reset. The value must be either 'earliest', 'latest', 'none' or "
        "of the format 'by_duration:<PnDTnHnMn.nS.>'."
    )


PROPERTIES: Mapping[str, Property] = {
    "auto.offset.reset": Property("latest", "Where a new query begins to read.", _reset),
    "processing.guarantee": Property(
        "exactly_once_v2", "Whether results and positions are one transaction.", _guarantee
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
        "true", "Without effect: pull queries may always read whole tables.", _boolean
    ),
    "ksql.persistence.wrap.single.values": Property(
        "true", "Whether a value of one column is a record, where WRAP_SINGLE_VALUE doesn't say.", _boolean
    ),
    "ksql.functions.collect_list.limit": Property(
        str(2**31 - 1), "Most values of COLLECT_LIST; further ones are ignored.", _whole(-1)
    ),
    "ksql.functions.collect_set.limit": Property(
        str(2**31 - 1), "Most values of COLLECT_SET; further ones are ignored.", _whole(-1)
    ),
    _THROW_ON_INVALID: Property("false", "A record with an unusable timestamp is logged and skipped.", _boolean),
    "ksql.create.or.replace.enabled": Property("true", "Without effect: CREATE OR REPLACE is always there.", _boolean),
    "ksql.suppress.enabled": Property("true", "Without effect: EMIT FINAL is always there.", _boolean),
    "ksql.query.push.v2.enabled": Property("false", "Without effect.", _boolean),
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


_OF_THE_SERVER = {"ksql.service.id"}


def canonical(name: str) -> str:
    """Return a property's name without the prefixes for Kafka Streams' settings."""
    bare = name.removeprefix(_STREAMS_PREFIX)
    bare = bare.removeprefix("consumer.").removeprefix("producer.")
    return bare if bare in PROPERTIES or bare in WITHOUT_EFFECT else name


def is_known(name: str) -> bool:
    """Say whether there is a property of a name; those of functions may have any."""
    bare = canonical(name)
    return bare in PROPERTIES or bare in WITHOUT_EFFECT or name.startswith("ksql.functions.")


def check_name(name: str) -> None:
    """Check that there is a property of a name.

    Raises:
        StatementError: there is none.
    """
    if not is_known(name):
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


def _problem(name: str, value: str) -> str | None:
    """Return what is wrong with a value, None where nothing is."""
    found = PROPERTIES.get(canonical(name))
    if found is not None and name == _THROW_ON_INVALID and value.lower() == "true":
        raise NotSupportedError(f"{name}={value}")
    return None if found is None else found.problem(value)


def with_changes(properties: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return properties with some changed, as SET does.

    Raises:
        StatementError: a property is unknown, or its value is wrong.
    """
    result = dict(properties)
    for name, value in changes.items():
        check_name(name)
        problem = _problem(name, value)
        if problem is not None:
            raise StatementError(f"Invalid value {value} for configuration {canonical(name)}: {problem}")
        result[canonical(name)] = value
    return result


def of_request(properties: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return properties with those that came with a request.

    Raises:
        KsqlError: a value is wrong.
        StatementError: a property is unknown.
    """
    result = dict(properties)
    for name, value in given.items():
        problem = _problem(name, value)
        if problem is not None:
            cause = f"Caused by: Invalid value {value} for configuration {canonical(name)}: {problem}"
            lines = textwrap.wrap(cause, _MESSAGE_WIDTH, break_long_words=False, break_on_hyphens=False)
            told = "\n\t".join(lines)
            raise KsqlError(f"Failed to coerce type of value '{value}' for key '{name}'\n{told}", BAD_REQUEST)
        result[canonical(name)] = value
    unknown = next((name for name in given if not is_known(name)), None)
    if unknown is not None:
        message = f"Not recognizable as ksql, streams, consumer, or producer property: '{unknown}'"
        raise StatementError(message, error_code=SERVER_ERROR)
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
