"""The parts of the platform, and which of them a start includes."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter

from heartwatch.platform.elsewhere import REPLACED_GROUPS
from heartwatch.platform.errors import PartError
from heartwatch.platform.services.base import Context, Part
from heartwatch.platform.services.connect import ConnectPart
from heartwatch.platform.services.engine import EnginePart
from heartwatch.platform.services.heartbeat import HeartbeatPart
from heartwatch.platform.services.kafka import KafkaPart
from heartwatch.platform.services.postgres import PostgresPart
from heartwatch.platform.services.prefect import PrefectServerPart, WorkerPart
from heartwatch.platform.services.registry import RegistryPart
from heartwatch.platform.services.s3 import S3Part
from heartwatch.platform.services.web import WebPart

__all__ = ["Context", "Part", "all_parts", "closure", "members", "order"]


def all_parts(brokers: int = 1, producers: int = 2, secured: bool = False, elsewhere: bool = False) -> dict[str, Part]:
    """Return every part by name.

    Args:
        brokers: Kafka brokers, 1 or 3.
        producers: workers of the producers' pool.
        secured: whether they speak TLS and ask for a login.
        elsewhere: whether servers that are there already do the work of Kafka, the registry and the KSQL engine.
    """
    parts: list[Part] = [
        PostgresPart(),
        *(KafkaPart(number, secured) for number in range(1, brokers + 1)),
        RegistryPart(),
        S3Part(),
        ConnectPart(),
        EnginePart(),
        HeartbeatPart(),
        PrefectServerPart(),
        WebPart(),
        WorkerPart("orchestration", 1),
        *(WorkerPart("producers", number, producers) for number in range(1, producers + 1)),
    ]
    return {part.name: part for part in (_without_replaced(parts) if elsewhere else parts)}


def _without_replaced(parts: Iterable[Part]) -> list[Part]:
    """Return the parts that remain where some servers are elsewhere; nothing waits for those."""
    left = [part for part in parts if part.group not in REPLACED_GROUPS]
    for part in left:
        part.depends_on = tuple(group for group in part.depends_on if group not in REPLACED_GROUPS)
        part.follows = tuple(group for group in part.follows if group not in REPLACED_GROUPS)
    return left


def groups(parts: dict[str, Part]) -> list[str]:
    """Return the groups' names, in the order of the parts."""
    return list(dict.fromkeys(part.group for part in parts.values()))


def members(parts: dict[str, Part], names: Iterable[str]) -> list[str]:
    """Return the parts that the names mean; a name is a part's or a group's (`kafka` means every broker).

    Raises:
        PartError: there is no such part.
    """
    found: list[str] = []
    for name in names:
        matches = [part.name for part in parts.values() if name in (part.name, part.group)]
        if not matches:
            raise PartError(f"{name!r} is not a part of the platform; the parts are {', '.join(groups(parts))}")
        found += [match for match in matches if match not in found]
    return found


def closure(parts: dict[str, Part], names: Iterable[str]) -> list[str]:
    """Return the parts that the names mean and all that these depend on, in the order of a start.

    Raises:
        PartError: there is no such part.
    """
    wanted: set[str] = set()
    pending = members(parts, names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += members(parts, parts[name].depends_on)
    return [name for name in order(parts) if name in wanted]


def order(parts: dict[str, Part]) -> list[str]:
    """Return all parts so that each follows what it depends on; the reverse is the order of a stop."""
    return list(TopologicalSorter(dependencies(parts, parts)).static_order())


def dependencies(parts: dict[str, Part], names: Iterable[str]) -> dict[str, list[str]]:
    """Return, for each of the named parts, those of them that it starts after."""
    chosen = set(names)
    return {
        name: [other for other in members(parts, part.depends_on + part.follows) if other in chosen]
        for name, part in parts.items()
        if name in chosen
    }
