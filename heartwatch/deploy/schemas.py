"""Avro schemas under the subjects ``<topic>-value``: compatibility is set, then checked, then the schema is registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from heartwatch.analytic import Analytic
from heartwatch.deploy.plan import Change, Plan
from kafkakit.registry import Registry
from kafkakit.settings import RegistrySettings

_SCHEMA, _COMPATIBILITY = "schema", "compatibility"
_NONE = "NONE"


def subjects(analytic: Analytic) -> dict[str, str]:
    """Return the schema of each subject of an analytic, as its file has it."""
    return {f"{analytic.topic(resource)}-value": analytic.schema_text(resource) for resource in analytic.topics}


class Schemas:
    """Deploys schemas."""

    def __init__(self, registry: Registry, analytic: Analytic, settings: RegistrySettings) -> None:
        self._registry = registry
        self._wanted = subjects(analytic)
        self._compatibility = settings.compatibility

    def plan(self) -> Plan:
        """Compare the schema files with the registry; an incompatible schema is refused.

        Raises:
            kafkakit.registry.RegistryError: the registry could not be asked.
        """
        known = set(self._registry.subjects())
        return Plan(
            tuple(self._plan_subject(subject, text, subject in known) for subject, text in self._wanted.items())
        )

    def carry_out(self, change: Change) -> None:
        """Register a schema and set its subject's compatibility, or take both back.

        Raises:
            kafkakit.registry.RegistryError: the registry refused.
        """
        if change.after is None:
            self._registry.delete(change.resource)
            return
        if compatibility := change.after.get(_COMPATIBILITY):
            self._registry.set_compatibility(change.resource, compatibility)
        else:
            self._registry.delete_compatibility(change.resource)
        wanted = self._registry.register(change.resource, change.after[_SCHEMA])
        replaced = self._registry.lookup(change.resource, change.before[_SCHEMA]) if change.before else None
        if replaced is not None and replaced.version > wanted.version:
            # This takes back a registration: the newer version must not stay the latest.
            self._registry.delete_version(change.resource, replaced.version)

    def _plan_subject(self, subject: str, text: str, known: bool) -> Change:
        after = {_SCHEMA: text, _COMPATIBILITY: self._compatibility}
        if not known:
            return Change("schema", subject, "create", "is not registered", None, after)
        free = self._compatibility == _NONE
        # Apicurio says NONE for every subject without a level of its own, though the global one counts.
        compatibility = (self._registry.effective_compatibility if free else self._registry.compatibility)(subject)
        registered = self._registry.lookup(subject, text)
        before = {_COMPATIBILITY: compatibility, _SCHEMA: text if registered else self._registry.latest(subject).text}
        if registered is None and not free and not self._registry.compatible(subject, text):
            return Change("schema", subject, "refused", self._incompatible(before[_SCHEMA], text), before, after)
        if registered is None:
            return Change("schema", subject, "update", describe_fields(before[_SCHEMA], text), before, after)
        if compatibility != self._compatibility:
            return Change("schema", subject, "update", "differs in compatibility", before, after)
        return Change("schema", subject, "unchanged", f"is version {registered.version}", before, after)

    def _incompatible(self, old: str | None, new: str) -> str:
        return (
            f"not {self._compatibility} compatible to the registered schema ({describe_fields(old, new)}); give new fields a "
            "default and keep the types of old ones, or deploy a new pipeline version (docs/how-to/change-a-schema.md)"
        )


def describe_fields(old: str | None, new: str) -> str:
    """Return how the fields of two record schemas differ: ``adds a; removes b; changes c``."""
    before, after = _fields(old), _fields(new)
    parts = {
        "adds": [name for name in after if name not in before],
        "removes": [name for name in before if name not in after],
        "changes": [name for name in after if name in before and after[name] != before[name]],
    }
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts.items() if names) or "differs in its texts"


def _fields(text: str | None) -> dict[str, Any]:
    schema: Mapping[str, Any] = json.loads(text) if text else {}
    return {field["name"]: (field["type"], field.get("default")) for field in schema.get("fields", [])}
