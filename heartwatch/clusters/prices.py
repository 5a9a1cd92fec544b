"""Prices of machines and disks, from a file with its date and source: known before anything is created."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from heartwatch.clusters.errors import SpecError
from heartwatch.clusters.spec import Machine
from heartwatch.settings import ROOT

PRICES = ROOT / "deployments" / "clusters" / "prices.toml"
HOURS_A_MONTH = 730
"""How AWS turns prices a month into prices an hour."""


class InstanceType(BaseModel):
    """One type: its price and size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hour: float = Field(gt=0, description="price an hour")
    architecture: Literal["x86_64", "arm64"]
    vcpus: int = Field(ge=1)
    memory_gib: int = Field(ge=1)


class Prices(BaseModel):
    """The price file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    date: datetime.date
    currency: str
    regions: list[str]
    disk_gib_month: float = Field(gt=0, description="price of a GiB of disk a month")
    types: dict[str, InstanceType]

    @classmethod
    def load(cls, path: Path = PRICES) -> Prices:
        """Read the file."""
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))

    def check_region(self, region: str) -> None:
        """Refuse a region without prices.

        Raises:
            SpecError: the file has none for it.
        """
        if region not in self.regions:
            raise SpecError(
                f"no prices are known for region {region!r}; use one of {self.regions!r}, or add it to {PRICES.name}"
            )

    def type(self, name: str) -> InstanceType:
        """Return an instance type.

        Raises:
            SpecError: the file doesn't have it.
        """
        try:
            return self.types[name]
        except KeyError as error:
            raise SpecError(
                f"unknown instance type {name!r}; use one of {sorted(self.types)!r}, or add it to {PRICES.name}"
            ) from error

    def hour(self, machine: Machine) -> float:
        """Return what a machine and its disks cost an hour."""
        disks = machine.root_gib + machine.data_gib
        return self.type(machine.instance_type).hour + disks * self.disk_gib_month / HOURS_A_MONTH


def per_billion_events(hour: float, events_per_second: float) -> float:
    """Return the price of a billion events from the price of an hour and the rate, events/s."""
    return hour / (events_per_second * 3_600) * 1e9


def cost_rows(machines: Iterable[Machine], prices: Prices, events_per_second: float) -> list[dict[str, str]]:
    """Return a table: one row per role, and the sum, each with its price per hour and per billion events."""
    by_role: dict[str, list[Machine]] = {}
    for machine in machines:
        by_role.setdefault(machine.role, []).append(machine)
    rows, total = [], 0.0
    for role, members in by_role.items():
        hour = sum(prices.hour(machine) for machine in members)
        total += hour
        rows.append(_row(role, str(len(members)), members[0].instance_type, hour, events_per_second))
    count = str(sum(len(members) for members in by_role.values()))
    return [*rows, _row("all", count, "", total, events_per_second)]


def _row(role: str, count: str, instance_type: str, hour: float, events_per_second: float) -> dict[str, str]:
    return {
        "role": role,
        "machines": count,
        "type": instance_type,
        "USD an hour": f"{hour:.3f}",
        "USD a billion events": f"{per_billion_events(hour, events_per_second):.2f}",
    }
