"""Schema registry: Confluent's API, over confluent-kafka's client.

That client caches answers about subjects for as long as it lives, so that a subject deleted by someone else would still look
registered. Here only schemas by id are cached: an id never changes its meaning.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from authlib.deprecate import AuthlibDeprecationWarning

from kafkakit.avro_codec import UnusableSchemaError
from kafkakit.avro_references import with_references
from kafkakit.errors import KafkaKitError
from kafkakit.security import registry_config
from kafkakit.settings import RegistrySettings
from kafkakit.waiting import wait_until

with warnings.catch_warnings():
    # Of no use to whoever runs a command: it tells the makers of confluent-kafka to import something else.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from confluent_kafka.schema_registry import RegisteredSchema as _Answer
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

Result = TypeVar("Result")

_KEPT_SECONDS, _POLL_SECONDS = 3.0, 0.2  # another server of the registry may answer a moment later

_NOT_FOUND = 404
_NOT_LET_IN = (401, 403)
_LARGEST_ID = 2**31 - 1
_SUBJECT_SOFT_DELETED = {40404, 40406}


class RegistryError(KafkaKitError):
    """The registry refused or didn't answer; the message names the subject or id and the registry's reason."""


class NotRegisteredError(RegistryError):
    """There is no such subject, version or schema id."""


class IncompatibleSchemaError(RegistryError):
    """A schema would break the compatibility that its subject promises."""


class CompatibilityNotKeptError(RegistryError):
    """The registry said that it had set a subject's compatibility, but has another one."""


@dataclass(frozen=True)
class RegisteredSchema:
    """A schema under a subject."""

    subject: str
    schema_id: int
    version: int
    text: str


class Registry:
    """What deploys, codecs and checks need of a schema registry."""

    def __init__(self, settings: RegistrySettings, timeout_seconds: float = 30) -> None:
        """Make a client; nothing is asked of the registry yet.

        Args:
            settings: where the registry is.
            timeout_seconds: limit of one request; failed ones are repeated three times.
        """
        self._url = settings.url
        self._client = SchemaRegistryClient(
            {
                **registry_config(settings),
                "timeout": timeout_seconds,
                "retries.wait.ms": 200,
                "retries.max.wait.ms": 2_000,
            }
        )
        self._schemas: dict[int, Schema] = {}

    def subjects(self, prefix: str = "", deleted: bool = False) -> list[str]:
        """Return the subjects that begin with a text, sorted.

        Args:
            prefix: beginning of the names.
            deleted: also those that were only softly deleted.

        Raises:
            RegistryError: the registry could not be asked.
        """
        names = self._ask(lambda: self._client.get_subjects(deleted=deleted), "list the subjects")
        return sorted(name for name in names if name.startswith(prefix))

    def schema(self, schema_id: int) -> str:
        """Return the text of a schema; asked for once an id.

        Raises:
            NotRegisteredError: there is no such id.
            RegistryError: the registry could not be asked.
        """
        return self._schema(schema_id).schema_str or ""

    def avro_schema(self, schema_id: int) -> Any:
        """Return an Avro schema with all that it refers to in other subjects.

        Raises:
            NotRegisteredError: there is no such id.
            UnusableSchemaError: it is not an Avro schema, or what it refers to isn't there.
            RegistryError: the registry could not be asked.
        """
        return self._self_contained(self._schema(schema_id), f"schema id {schema_id}", ())

    def ids(self, subject: str) -> list[int]:
        """Return the ids of a subject's versions, empty when there is no such subject.

        Raises:
            RegistryError: the registry could not be asked.
        """
        self._client.clear_caches()
        try:
            versions = self._ask(lambda: self._client.get_versions(subject), f"list the versions of {subject!r}")
        except NotRegisteredError:
            return []
        found = [self._version(subject, version) for version in versions]
        return [answer.schema_id for answer in found if answer.schema_id is not None]

    def _schema(self, schema_id: int) -> Schema:
        if not 0 <= schema_id <= _LARGEST_ID:
            raise NotRegisteredError(f"schema id {schema_id!r} is none: ids are 0 to {_LARGEST_ID}")
        if schema_id not in self._schemas:
            found = self._ask(lambda: self._client.get_schema(schema_id), f"read schema id {schema_id!r}")
            self._schemas[schema_id] = found
        return self._schemas[schema_id]

    def _version(self, subject: str, version: int) -> _Answer:
        return self._ask(
            lambda: self._client.get_version(subject, version), f"read version {version} of subject {subject!r}"
        )

    def _self_contained(self, schema: Schema, name: str, inside: tuple[tuple[str, int], ...]) -> Any:
        """Return a schema with what it refers to.

        Args:
            schema: as the registry gives it.
            name: what it is, for errors.
            inside: subjects and versions of which this schema is a reference.
        """
        kind = schema.schema_type or "AVRO"
        if kind != "AVRO":
            raise UnusableSchemaError(f"{name} is a schema of type {kind}, not AVRO")
        try:
            parsed = json.loads(schema.schema_str or "")
        except ValueError:
            # A registry may keep a plain type's name as it was given.
            parsed = schema.schema_str
        references: dict[str, Any] = {}
        for reference in schema.references or ():
            place = (reference.subject or "", reference.version or 0)
            text = f"{name} refers to version {place[1]} of subject {place[0]!r}"
            if place in inside:
                raise UnusableSchemaError(f"{text}, which refers back to it")
            try:
                found = self._version(*place).schema
            except NotRegisteredError as error:
                raise UnusableSchemaError(f"{text}, which isn't registered") from error
            if found is not None:
                references[reference.name or ""] = self._self_contained(found, text, (*inside, place))
        return with_references(parsed, references) if references else parsed

    def latest(self, subject: str) -> RegisteredSchema:
        """Return the latest version under a subject.

        Raises:
            NotRegisteredError: there is no such subject.
            RegistryError: the registry could not be asked.
        """
        self._client.clear_caches()
        found = self._ask(lambda: self._client.get_latest_version(subject), f"read the latest schema of {subject!r}")
        return _registered(subject, found)

    def lookup(self, subject: str, text: str) -> RegisteredSchema | None:
        """Return the version under which a subject has a schema, None when it hasn't.

        Raises:
            RegistryError: the registry could not be asked.
        """
        self._client.clear_caches()
        try:
            found = self._ask(
                lambda: self._client.lookup_schema(subject, Schema(text, "AVRO"), normalize_schemas=True),
                f"look up a schema of {subject!r}",
            )
        except NotRegisteredError:
            return None
        return _registered(subject, found)

    def compatible(self, subject: str, text: str) -> bool:
        """Tell whether a schema may become the next version of a subject; anything may become the first one.

        Raises:
            RegistryError: the registry could not be asked, or the text is not an Avro schema.
        """
        try:
            return self._ask(
                lambda: self._client.test_compatibility(subject, Schema(text, "AVRO")),
                f"check the compatibility of a schema of {subject!r}",
            )
        except NotRegisteredError:
            return True

    def register(self, subject: str, text: str) -> RegisteredSchema:
        """Register a schema after checking its compatibility; one that is there already is found again.

        Raises:
            IncompatibleSchemaError: the subject's compatibility forbids it.
            RegistryError: the registry could not be asked, or the text is not an Avro schema.
        """
        found = self.lookup(subject, text)
        if found is not None:
            return found
        if not self.compatible(subject, text):
            raise IncompatibleSchemaError(
                f"subject {subject!r}: the schema is not {self.compatibility(subject) or 'compatible'} to version "
                f"{self.latest(subject).version}; give new fields a default and keep the types of old ones, or deploy a new "
                "pipeline version"
            )
        registered = self._ask(
            lambda: self._client.register_schema_full_response(subject, Schema(text, "AVRO"), normalize_schemas=True),
            f"register a schema of {subject!r}",
        )
        found = self.lookup(subject, text)
        if found is None:
            raise RegistryError(
                f"subject {subject!r}: schema id {registered.schema_id!r} was registered, but isn't found"
            )
        return found

    def delete(self, subject: str) -> bool:
        """Delete a subject for good, softly first as the registry demands; False when it wasn't there.

        Raises:
            RegistryError: the registry refused.
        """
        existed = True
        try:
            self._ask(lambda: self._client.delete_subject(subject), f"delete subject {subject!r}")
        except NotRegisteredError:
            existed = False
        try:
            self._ask(
                lambda: self._client.delete_subject(subject, permanent=True), f"delete subject {subject!r} for good"
            )
        except NotRegisteredError:
            # A registry without soft deletion has removed it at the first request.
            return existed
        return True

    def delete_version(self, subject: str, version: int) -> None:
        """Delete one version of a subject for good; nothing happens when it isn't there.

        Raises:
            RegistryError: the registry refused.
        """
        for permanent in (False, True):
            try:
                self._ask(
                    lambda permanent=permanent: self._client.delete_version(subject, version, permanent=permanent),  # type: ignore[misc]
                    f"delete version {version} of subject {subject!r}",
                )
            except NotRegisteredError:
                continue

    def compatibility(self, subject: str) -> str | None:
        """Return the compatibility set on a subject itself, None when it has none of its own.

        Raises:
            RegistryError: the registry could not be asked.
        """
        try:
            return self._ask(
                lambda: self._client.get_compatibility(subject), f"read the compatibility of subject {subject!r}"
            )
        except NotRegisteredError:
            return None

    def effective_compatibility(self, subject: str) -> str:
        """Return the compatibility that counts for a subject: its own, or the registry's global one.

        Raises:
            RegistryError: the registry could not be asked.
        """
        path, query = f"config/{quote(subject, safe='')}", {"defaultToGlobal": "true"}
        answer = self._ask(
            # The client's own call doesn't ask for the global level, and Apicurio says NONE for a subject without its own.
            lambda: self._client._rest_client.get(path, query),
            f"read the compatibility that counts for subject {subject!r}",
        )
        return str(answer["compatibilityLevel"])

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set what new versions of a subject must keep (BACKWARD, FULL, …), and see that it is kept.

        Apicurio answers NONE as done, and only removes the subject's own level, so that the registry's global one counts.

        Raises:
            CompatibilityNotKeptError: the registry has another level than it said.
            RegistryError: the registry refused.
        """
        self._ask(
            lambda: self._client.set_compatibility(subject, level),
            f"set the compatibility of subject {subject!r} to {level!r}",
        )
        wait_until(
            lambda: self.effective_compatibility(subject) == level,
            _KEPT_SECONDS,
            _POLL_SECONDS,
            lambda: CompatibilityNotKeptError(
                f"subject {subject!r}: the registry answered that the compatibility {level!r} is set, but "
                f"{self.effective_compatibility(subject)!r} counts; Apicurio does so with NONE. Keep a level, and "
                "register a schema that can't keep it under a subject of its own: deploy a new pipeline version "
                "(docs/how-to/change-a-schema.md)"
            ),
        )

    def delete_compatibility(self, subject: str) -> None:
        """Take back the compatibility set on a subject; nothing happens when it has none.

        Raises:
            RegistryError: the registry refused.
        """
        try:
            self._ask(lambda: self._client.delete_config(subject), f"take back the compatibility of {subject!r}")
        except NotRegisteredError:
            return

    def _ask(self, request: Callable[[], Result], operation: str) -> Result:
        try:
            return request()
        except SchemaRegistryError as error:
            text = f"can't {operation} at {self._url}: {error.error_message} (code {error.error_code})"
            if error.http_status_code in _NOT_LET_IN:
                text = (
                    f"can't {operation} at {self._url}: the registry lets nobody in so (HTTP {error.http_status_code}); "
                    "see its user and password, or token, in the settings"
                )
            missing = error.http_status_code == _NOT_FOUND or error.error_code in _SUBJECT_SOFT_DELETED
            raise (NotRegisteredError if missing else RegistryError)(text) from None
        except httpx2.HTTPError as error:
            raise RegistryError(
                f"can't {operation}: no answer from {self._url} ({type(error).__name__}: {error}); see that the registry is up"
            ) from error


def _registered(subject: str, answer: _Answer) -> RegisteredSchema:
    """Return the client's answer without its optional fields, which are all there in answers about a version."""
    if answer.schema_id is None or answer.version is None or answer.schema is None:
        raise RegistryError(f"subject {subject!r}: the registry's answer {answer!r} has no id, version or schema")
    return RegisteredSchema(subject, answer.schema_id, answer.version, answer.schema.schema_str or "")
