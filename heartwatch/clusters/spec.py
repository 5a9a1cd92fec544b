"""Which machines the clusters have: roles, numbers, types, disks; and their names, services and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from heartwatch.settings import DEFAULT_ANALYTIC

Role = Literal["broker", "database", "connect", "ksql", "website", "producer"]
Processor = Literal["original", "graviton"]

WAVES: tuple[tuple[Role, ...], ...] = (("broker", "database"), ("connect",), ("website", "ksql"), ("producer",))
"""Roles in the order of their start; those of one wave start together."""

SERVICES: dict[Role, tuple[str, ...]] = {
    "broker": ("brokers.yaml",),
    "database": ("database.yaml",),
    "connect": ("connect.yaml",),
    "ksql": ("ksql.yaml",),
    "website": ("prefect.yaml", "website.yaml"),
    "producer": ("producers.yaml",),
}
"""Compose files of each role, in the order of their start."""

_SINGLE: tuple[Role, ...] = ("database", "connect", "website")
# r5a and r5 are the machines of the original's brokers and KSQL servers, m4 those of the system before it.
_TYPES: dict[Processor, dict[Role, str]] = {
    "original": {
        "broker": "r5a.large",
        "ksql": "r5.large",
        **dict.fromkeys(("producer", "connect", "database", "website"), "m4.large"),
    },
    "graviton": {
        "broker": "r7g.large",
        "ksql": "r7g.large",
        **dict.fromkeys(("producer", "connect", "database", "website"), "m7g.large"),
    },
}

Count = Annotated[int, Field(ge=1, le=20)]
InstanceTypeName = Annotated[
    str | None, Field(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$", description="None: the processor's type")
]


@dataclass(frozen=True)
class Machine:
    """A machine that is wanted.

    Attributes:
        role: what it is for.
        number: from 1 within its role.
        instance_type: EC2's name of its type.
        root_gib: size of its system disk, GiB.
        data_gib: size of the disk that outlives it, GiB; 0: none.
    """

    role: Role
    number: int
    instance_type: str
    root_gib: int
    data_gib: int = 0

    @property
    def name(self) -> str:
        """Its name: in tags, in the private zone, of its work queue."""
        return machine_name(self.role, self.number)


def machine_name(role: Role, number: int) -> str:
    """Return the name of a machine: ``broker-2``, but ``database``, as there is one."""
    return role if role in _SINGLE else f"{role}-{number}"


class ClusterName(BaseModel):
    """Which clusters: an analytic's version in a region."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    analytic: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="tag, and part of the stack's name")] = (
        DEFAULT_ANALYTIC
    )
    version: Annotated[int, Field(ge=1, le=9_999, description="tag, and part of the stack's name")] = 1
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="AWS region")] = "us-east-1"

    @property
    def stack_name(self) -> str:
        """Name of the CloudFormation stack: ``HeartRateV1``."""
        return "".join(part.capitalize() for part in self.analytic.split("_")) + f"V{self.version}"


class ClusterSpec(ClusterName):
    """What `provision-clusters` provides; the defaults are the original's machines."""

    owner: Annotated[str, Field(pattern=r"^[\w.@+-]{1,64}$", description="tag: whom to ask about these machines")] = (
        "heartwatch"
    )
    processor: Annotated[Processor, Field(description="original: the original's x86 types; graviton: arm64 types")] = (
        "original"
    )
    brokers: Annotated[int, Field(ge=3, le=20, description="Kafka brokers; the first three are the quorum")] = 3
    ksql_servers: Annotated[Count, Field(description="ksqlDB servers")] = 3
    producers: Annotated[int, Field(ge=0, le=20, description="producer machines; 0: the brokers' machines produce")] = 3
    broker_type: InstanceTypeName = None
    ksql_type: InstanceTypeName = None
    producer_type: InstanceTypeName = None
    service_type: Annotated[InstanceTypeName, Field(description="of connect, database and website")] = None
    root_gib: Annotated[int, Field(ge=8, le=1_000, description="system disk of each machine, GiB")] = 30
    broker_data_gib: Annotated[int, Field(ge=8, le=16_000, description="data disk of each broker, GiB")] = 100
    database_data_gib: Annotated[int, Field(ge=8, le=16_000, description="data disk of the database, GiB")] = 50
    events_per_second: Annotated[
        float, Field(gt=0, description="expected rate, for the price of a billion events, events/s")
    ] = 16_000

    @property
    def tags(self) -> dict[str, str]:
        """Tags of everything that belongs to these clusters."""
        return {"analytic": self.analytic, "version": str(self.version), "owner": self.owner}

    def machines(self) -> list[Machine]:
        """Return the machines that are wanted, in the order of their start."""
        counts: dict[Role, int] = {"broker": self.brokers, "ksql": self.ksql_servers, "producer": self.producers}
        return [
            self._machine(role, number)
            for wave in WAVES
            for role in wave
            for number in range(1, counts.get(role, 1) + 1)
        ]

    def _machine(self, role: Role, number: int) -> Machine:
        chosen = {"broker": self.broker_type, "ksql": self.ksql_type, "producer": self.producer_type}
        instance_type = chosen.get(role, self.service_type) or _TYPES[self.processor][role]
        data = {"broker": self.broker_data_gib, "database": self.database_data_gib}.get(role, 0)
        return Machine(role, number, instance_type, self.root_gib, data)
