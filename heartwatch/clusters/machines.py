"""The machines that are there, found by their tags: there is no host list to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heartwatch.clusters.errors import explained
from heartwatch.clusters.spec import Role

if TYPE_CHECKING:
    from boto3 import Session

_LIVING = {"pending", "running"}
_REPLACED = {"shutting-down", "terminated"}


@dataclass(frozen=True)
class Found:
    """A machine that EC2 has.

    Attributes:
        name: as in the private zone.
        role: what it is for.
        number: from 1 within its role.
        instance_id: EC2's id.
        instance_type: EC2's name of its type.
        state: EC2's: pending, running, stopping, stopped, shutting-down or terminated.
        zone: its availability zone.
    """

    name: str
    role: Role
    number: int
    instance_id: str
    instance_type: str
    state: str
    zone: str

    @property
    def alive(self) -> bool:
        """Whether it runs or is about to."""
        return self.state in _LIVING


def find_machines(session: Session, region: str, analytic: str, version: int) -> list[Found]:
    """Return the machines of an analytic's version, by name; of those with one name the living one.

    Raises:
        AwsError: AWS refused.
    """
    filters = [
        {"Name": "tag:analytic", "Values": [analytic]},
        {"Name": "tag:version", "Values": [str(version)]},
        {"Name": "tag-key", "Values": ["role"]},
    ]
    with explained(f"find the machines of {analytic!r} version {version}", region):
        pages = session.client("ec2", region_name=region).get_paginator("describe_instances").paginate(Filters=filters)
        found = [
            _found(instance) for page in pages for group in page["Reservations"] for instance in group["Instances"]
        ]
    # What was replaced is listed as terminated for an hour.
    by_name = {machine.name: machine for machine in sorted(found, key=lambda machine: machine.alive)}
    return sorted(by_name.values(), key=lambda machine: (machine.role, machine.number))


def _found(instance: Mapping[str, Any]) -> Found:
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    return Found(
        name=tags["Name"],
        role=tags["role"],
        number=int(tags["number"]),
        instance_id=instance["InstanceId"],
        instance_type=instance["InstanceType"],
        state=instance["State"]["Name"],
        zone=instance["Placement"]["AvailabilityZone"],
    )


def dead_machines(expected: Iterable[str], found: Iterable[Found]) -> tuple[str, ...]:
    """Return the names of machines that are gone: terminated, or not there at all. A stopped one can be started."""
    there = {machine.name for machine in found if machine.state not in _REPLACED}
    return tuple(name for name in sorted(expected) if name not in there)
