"""What a deploy would change, as data; and how it is carried out and taken back.

A change holds the state before and after it. So its difference can be shown, it can be carried out, and taken back by carrying
out its inverse. Whoever carries changes out must be able to do one again: a creation of what is there already in the wanted
state, or a deletion of what is gone, does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from heartwatch.errors import HeartWatchError

Action = Literal["create", "update", "delete", "unchanged", "refused"]
State = Mapping[str, Any]

_INVERSE: dict[Action, Action] = {"create": "delete", "update": "update", "delete": "create"}


class DeployError(HeartWatchError):
    """A deploy failed; the message names the resource, the cause, and whether everything it had changed was taken back."""


class RefusedPlanError(DeployError):
    """A plan holds changes that must not be made; the message has the reason and the remedy of each."""


@dataclass(frozen=True)
class Difference:
    """One property that a change changes; None: it isn't there."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.name}: {_text(self.before)} → {_text(self.after)}"


@dataclass(frozen=True)
class Change:
    """One resource and what is to be done with it.

    Attributes:
        kind: topic, schema, connector, migration, …
        resource: its name.
        action: what is to be done; ``refused`` for what must not be done.
        reason: why.
        before: the resource's state now, None when it isn't there.
        after: the state wanted, None when it shall not be there.
    """

    kind: str
    resource: str
    action: Action
    reason: str
    before: State | None = None
    after: State | None = None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The properties that change, in the order of their names."""
        before, after = self.before or {}, self.after or {}
        names = sorted({*before, *after})
        return tuple(
            Difference(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
        )

    def inverse(self) -> Change:
        """Return the change that takes this one back.

        Raises:
            KeyError: nothing is to be done, so that nothing can be taken back.
        """
        return replace(self, action=_INVERSE[self.action], reason="taken back", before=self.after, after=self.before)

    def row(self) -> dict[str, str]:
        """Return the change as a row of a table."""
        shown = (
            ""
            if self.action in {"unchanged", "delete"}
            else "; ".join(str(difference) for difference in self.differences)
        )
        return {
            "action": self.action,
            "kind": self.kind,
            "resource": self.resource,
            "reason": self.reason,
            "difference": shown,
        }


@dataclass(frozen=True)
class Plan:
    """Changes in the order in which they have to be made."""

    changes: tuple[Change, ...] = ()

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.changes + other.changes)

    @property
    def needed(self) -> tuple[Change, ...]:
        """The changes that do something."""
        return tuple(change for change in self.changes if change.action in _INVERSE)

    @property
    def refused(self) -> tuple[Change, ...]:
        """The changes that must not be made."""
        return tuple(change for change in self.changes if change.action == "refused")

    def rows(self) -> list[dict[str, str]]:
        """Return one row of a table for each resource, unchanged ones too."""
        return [change.row() for change in self.changes]

    def summary(self) -> str:
        """Return the number of changes by action: ``2 create, 1 unchanged``."""
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change.action] = counts.get(change.action, 0) + 1
        return ", ".join(f"{count} {action}" for action, count in counts.items()) or "nothing"

    def check(self) -> None:
        """Refuse a plan that holds changes which must not be made.

        Raises:
            RefusedPlanError: it does.
        """
        if self.refused:
            reasons = "; ".join(f"{change.kind} {change.resource!r}: {change.reason}" for change in self.refused)
            raise RefusedPlanError(f"nothing was changed: {reasons}")


class Deployer(Protocol):
    """One kind of resource: what is to be changed, and how."""

    def plan(self) -> Plan:
        """Compare what is there with what is wanted; change nothing."""

    def carry_out(self, change: Change) -> None:
        """Make one change; do nothing when it has been made already."""


def compare(kind: str, resource: str, before: State | None, after: State) -> Change:
    """Return the change that leads from one state of a resource to the wanted one."""
    if before is None:
        return Change(kind, resource, "create", "is not there", None, after)
    if dict(before) == dict(after):
        return Change(kind, resource, "unchanged", "is as wanted", before, after)
    change = Change(kind, resource, "update", "", before, after)
    return replace(change, reason="differs in " + ", ".join(difference.name for difference in change.differences))


def deletions(kind: str, resources: Iterable[str], reason: str) -> Plan:
    """Return a plan that deletes resources."""
    return Plan(tuple(Change(kind, resource, "delete", reason, {}, None) for resource in resources))


def apply(plan: Plan, deployer: Deployer, report: Callable[[str], None] = lambda _: None) -> Plan:
    """Carry out a plan; when a change fails, take back it and those before it, so that all is as it was.

    Args:
        plan: what `deployer` planned.
        deployer: whoever carries out this kind of change.
        report: called with a line of text before each step.

    Returns:
        the changes that were made.

    Raises:
        RefusedPlanError: the plan holds changes that must not be made; nothing was done.
        DeployError: a change failed; the message says whether everything was taken back.
    """
    plan.check()
    done: list[Change] = []
    for change in plan.needed:
        report(f"{change.action} {change.kind} {change.resource!r}: {change.reason}")
        done.append(change)
        try:
            deployer.carry_out(change)
        except Exception as error:
            outcome = take_back(done, deployer, report)
            raise DeployError(f"can't {change.action} {change.kind} {change.resource!r}: {error}\n{outcome}") from error
    return Plan(tuple(done))


def take_back(changes: Sequence[Change], deployer: Deployer, report: Callable[[str], None] = lambda _: None) -> str:
    """Take back changes in reverse order; one that fails doesn't keep the others from being taken back.

    Returns:
        a sentence that says what is left, for an error message.
    """
    failures = []
    for change in reversed(changes):
        report(f"take back: {change.action} {change.kind} {change.resource!r}")
        try:
            deployer.carry_out(change.inverse())
        except Exception as error:
            failures.append(f"{change.kind} {change.resource!r}: {error}")
    if failures:
        return "could not take back, look after these yourself: " + "; ".join(failures)
    return f"all {len(changes)} change(s) of this deploy were taken back"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
