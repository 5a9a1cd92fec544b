"""What each component may do on the brokers of a secured platform: accounts with SCRAM passwords, and access control lists.

Least rights: a component has what it needs and nothing else; who has no account has nothing. Names of topics end with a version,
so rights are on beginnings of names: what stands before the version is that of all versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from heartwatch.platform.errors import PlatformError
from heartwatch.settings import ROOT
from ksqlengine.internal_names import INTERNAL_PREFIX

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding, AdminClient

    from heartwatch.analytic import Analytic

OPERATOR = "operator"
"""Deploys, checks and looks: the flows of the orchestration pool, and people on the command line."""

ACCOUNTS = (OPERATOR, "producer", "heartbeat", "engine", "connect", "page")

SERVICES = {"kafka": ACCOUNTS, "registry": ACCOUNTS, "ksqldb": (OPERATOR, "page")}
"""The components that log in to a service."""

SERVICE = "heartwatch_"
"""The KSQL engine's service id."""

_PROCESSING_LOG = f"{SERVICE}ksql_processing_log"
_TIMEOUT = 20.0
_ITERATIONS = 4096

Right = tuple[str, str, str, tuple[str, ...]]
"""Kind of resource, "prefixed" or "literal", name, operations."""


class RightsError(PlatformError):
    """The brokers refused an account or its rights; the message has their reason."""


def rights(account: str) -> list[Right]:
    """Return what an account may do."""
    return list(_RIGHTS[account]())


def _topics(*names: str, may: tuple[str, ...]) -> Iterator[Right]:
    for name in names:
        yield ("topic", "prefixed", name, may)


def _analytics() -> list[Analytic]:
    from heartwatch.analytic import Analytic  # noqa: PLC0415  the command line must start quickly

    return [Analytic.load(path.parent.name, 1) for path in sorted((ROOT / "schemas").glob("*/analytic.toml"))]


def _of_role(role: str) -> list[str]:
    """Return the beginnings of the names of a role's topics, of all analytics."""
    found = [(analytic, analytic.roles.assigned.get(role)) for analytic in _analytics()]
    return [_versions(analytic, topic) for analytic, topic in found if topic is not None]


def _versions(analytic: Analytic, resource: str) -> str:
    return analytic.name(resource).removesuffix(str(analytic.version))


def _all_of_analytics() -> list[str]:
    return [f"{analytic.analytic}_" for analytic in _analytics()]


_READ = ("read", "describe", "describe_configs")
_WRITE = ("write", "describe", "describe_configs")
_OWN = ("read", "write", "create", "delete", "alter", "alter_configs", "describe", "describe_configs")


def _operator() -> Iterator[Right]:
    yield from _topics(*_all_of_analytics(), may=_OWN)
    # What a torn-down version leaves: its queries' topics and groups.
    yield from _topics(INTERNAL_PREFIX + SERVICE, may=("read", "delete", "describe", "describe_configs"))
    yield from _topics(_PROCESSING_LOG, may=_READ)
    yield ("topic", "literal", "*", ("describe", "describe_configs"))
    yield ("group", "literal", "*", ("describe",))
    for group in ("heartwatch-", INTERNAL_PREFIX + SERVICE, "connect-", "cg-control-", *_all_of_analytics()):
        yield ("group", "prefixed", group, ("read", "delete"))
    yield ("cluster", "literal", "kafka-cluster", ("describe", "describe_configs"))


def _producer() -> Iterator[Right]:
    # A shard's progress is an offset of this topic, and brokers let only those commit one who may read it.
    yield from _topics(*_of_role("stream"), may=("read", *_WRITE))
    yield ("group", "prefixed", "heartwatch-produce-", ("read", "describe"))
    yield ("transactional_id", "prefixed", "heartwatch-produce-", ("write", "describe"))


def _heartbeat() -> Iterator[Right]:
    yield from _topics(*_of_role("stream"), may=("read", *_WRITE))
    yield from _topics(*_of_role("table"), may=("read", *_WRITE))
    yield ("group", "prefixed", "heartwatch-", ("read", "describe"))


def _engine() -> Iterator[Right]:
    internal = INTERNAL_PREFIX + SERVICE
    yield from _topics(internal, may=_OWN)
    yield from _topics(_PROCESSING_LOG, may=("read", "write", "create", "describe", "describe_configs"))
    yield from _topics(*_of_role("stream"), *_of_role("table"), may=_READ)
    # CREATE … AS SELECT makes its topic, and others read on from it.
    yield from _topics(*_of_role("results"), may=("read", "write", "create", "describe", "describe_configs"))
    yield ("group", "prefixed", internal, ("read", "describe", "delete"))
    # kafkakit's reader of offsets.
    yield ("group", "literal", "heartwatch-offsets", ("read", "describe"))
    for name in (internal, f"{SERVICE}command_topic"):
        yield ("transactional_id", "prefixed", name, ("write", "describe"))
    yield ("cluster", "literal", "kafka-cluster", ("describe", "describe_configs"))


def _connect() -> Iterator[Right]:
    yield from _topics("connect-", may=("read", "write", "create", "describe", "describe_configs"))
    sinks = [_versions(analytic, topic) for analytic in _analytics() for topic in analytic.sink_topics()]
    yield from _topics(*sinks, may=_READ)
    own = [
        _versions(analytic, f"{topic}_{kind}")
        for analytic in _analytics()
        for topic in analytic.sink_topics()
        for kind in ("dead_letters", "control")
    ]
    own += [f"{name.removesuffix('_v')}_{kind}" for name in _of_role("table") for kind in ("source", "heartbeat")]
    yield from _topics(*own, may=("read", "write", "create", "describe", "describe_configs"))
    yield from _topics(*_of_role("table"), may=("write", "create", "describe", "describe_configs"))
    for group in ("connect", "cg-control-"):
        yield ("group", "prefixed", group, ("read", "describe"))
    # Of exactly-once sources, and (the last two) of the Iceberg sinks' workers and coordinators.
    for name in ("connect", *_all_of_analytics(), "worker-", "coordinator-"):
        yield ("transactional_id", "prefixed", name, ("write", "describe"))
    yield ("cluster", "literal", "kafka-cluster", ("describe",))


def _page() -> Iterator[Right]:
    yield from _topics(*_all_of_analytics(), may=_READ)
    yield ("topic", "literal", "*", ("describe",))
    yield ("group", "prefixed", "heartwatch-", ("read", "describe"))
    yield ("group", "literal", "*", ("describe",))
    yield ("cluster", "literal", "kafka-cluster", ("describe",))


_RIGHTS = {
    OPERATOR: _operator,
    "producer": _producer,
    "heartbeat": _heartbeat,
    "engine": _engine,
    "connect": _connect,
    "page": _page,
}


def bindings(accounts: Iterable[str] = ACCOUNTS) -> set[AclBinding]:
    """Return the access control lists of accounts."""
    from confluent_kafka.admin import (  # noqa: PLC0415  the command line must start quickly
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "cluster": ResourceType.BROKER,
        "transactional_id": ResourceType.TRANSACTIONAL_ID,
    }
    return {
        AclBinding(
            kinds[kind],
            name,
            ResourcePatternType[pattern.upper()],
            f"User:{account}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for account in accounts
        for kind, pattern, name, operations in rights(account)
        for operation in operations
    }


def grant(admin: AdminClient, passwords: dict[str, str]) -> None:
    """Make the accounts, with their passwords and exactly their rights; what an earlier version gave is taken back.

    Args:
        admin: a client that may do everything.
        passwords: by account.

    Raises:
        RightsError: the brokers refused something.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    try:
        _set_passwords(admin, passwords)
        _set_rights(admin, bindings(passwords))
    except KafkaException as error:
        raise RightsError(f"the accounts' rights can't be set: {error.args[0].str()}; see the brokers' logs") from None


def _set_passwords(admin: AdminClient, passwords: dict[str, str]) -> None:
    from confluent_kafka.admin import (  # noqa: PLC0415
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialAlteration,
        UserScramCredentialUpsertion,
    )

    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(name, info, text.encode()) for name, text in passwords.items()
    ]
    for future in admin.alter_user_scram_credentials(wanted, request_timeout=_TIMEOUT).values():
        future.result()


def _set_rights(admin: AdminClient, wanted: set[AclBinding]) -> None:
    from confluent_kafka.admin import (  # noqa: PLC0415
        AclBindingFilter,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    any_text: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY,
        any_text,
        ResourcePatternType.ANY,
        any_text,
        any_text,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    found = set(admin.describe_acls(everything, request_timeout=_TIMEOUT).result())
    if new := list(wanted - found):
        for future in admin.create_acls(new, request_timeout=_TIMEOUT).values():
            future.result()
    stale = [
        AclBindingFilter(
            one.restype,
            one.name,
            one.resource_pattern_type,
            one.principal,
            one.host,
            one.operation,
            one.permission_type,
        )
        for one in found - wanted
    ]
    if stale:
        for removed in admin.delete_acls(stale, request_timeout=_TIMEOUT).values():
            removed.result()
