"""Schemas of messages by their ids, for decoders that must not wait: known ids at once, others from the background.

A message's id says nothing about whether the message is any good, so one bad message must not make others wait for the registry:

* An id that the registry doesn't know is remembered as unknown for a while, then asked for again.
* An id that is not known here is asked for by a thread of its own, and waited for only as long as the registry answers at all.
* While it doesn't answer, messages of ids that aren't known yet are refused with that reason, so that messages of known ids go
  on. Whoever decodes keeps what was refused (a processing log, a dead letter). Before the first schema is known there is nothing
  that could go on: then the registry's error is raised, and the reader begins again later without having lost anything.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kafkakit.avro_codec import SchemaError, UnknownSchemaError
from kafkakit.registry import NotRegisteredError, Registry, RegistryError

WAIT_SECONDS = 5.0
UNKNOWN_SECONDS = 60.0
_ASK_AGAIN_SECONDS = 5.0
_MOST_REMEMBERED = 10_000
_MOST_WAITING = 100


class SchemaUnavailableError(SchemaError):
    """The registry gives no answer about a schema id that isn't known here yet."""


@dataclass(frozen=True)
class _Answer:
    """What came of asking for an id that gave no schema.

    Attributes:
        error: what the registry said, or that it said nothing.
        until: when it is to be asked again, s of the monotonic clock.
    """

    error: SchemaError | RegistryError
    until: float


class WriterSchemas:
    """Gives the Avro schema of an id (see `avro_codec.Decoder`); several threads may call it."""

    def __init__(
        self,
        look_up: Callable[[int], Any],
        *,
        wait_seconds: float = WAIT_SECONDS,
        unknown_seconds: float = UNKNOWN_SECONDS,
    ) -> None:
        """Begin without schemas.

        Args:
            look_up: asks the registry for an id (`Registry.avro_schema`).
            wait_seconds: how long a call waits for an answer about an id that isn't known yet.
            unknown_seconds: how long an id counts as unknown without being asked for again.
        """
        self._look_up = look_up
        self._wait_seconds = wait_seconds
        self._unknown_seconds = unknown_seconds
        self._known: dict[int, Any] = {}
        self._answers: OrderedDict[int, _Answer] = OrderedDict()
        self._asked: OrderedDict[int, threading.Event] = OrderedDict()
        self._is_asking = False
        self._is_away = False
        self._lock = threading.Lock()

    def __call__(self, schema_id: int) -> Any:
        """Return the schema of an id.

        Raises:
            SchemaError: there is none that can be used, or the registry gives no answer about it.
            RegistryError: the registry gives no answer, and no schema is known yet.
        """
        known = self._known.get(schema_id)
        if known is not None:
            return known
        with self._lock:
            answer = self._answers.get(schema_id)
            fresh = answer is not None and time.monotonic() < answer.until
            answered = self._ask(schema_id) if not fresh else None
            # What the registry itself said holds until it says something else, however late that comes.
            waits = not self._is_away and not (answer is not None and isinstance(answer.error, SchemaError))
        if answered is not None and waits and not answered.wait(self._wait_seconds):
            self._is_away = True
        return self._result(schema_id)

    def learn(self, schemas: Iterable[tuple[int, Any]]) -> None:
        """Take schemas that are known from elsewhere, so that they are known even while the registry is away."""
        for schema_id, schema in schemas:
            self._known.setdefault(schema_id, schema)

    def _result(self, schema_id: int) -> Any:
        known = self._known.get(schema_id)
        if known is not None:
            return known
        answer = self._answers.get(schema_id)
        if answer is not None and isinstance(answer.error, SchemaError):
            raise answer.error
        reason = str(answer.error) if answer is not None else f"no answer within {self._wait_seconds:g} s"
        if not self._known:
            raise RegistryError(
                f"schema id {schema_id} can't be asked for: {reason}; see that the registry is up"
            ) from None
        raise SchemaUnavailableError(
            f"schema id {schema_id} is not known yet, and the registry is unavailable ({reason}); once it is up, send the record "
            "again"
        )

    def _ask(self, schema_id: int) -> threading.Event | None:
        """Have the thread ask for an id; None where too many are asked for already."""
        if schema_id in self._asked:
            return self._asked[schema_id]
        if len(self._asked) >= _MOST_WAITING:
            return None
        self._asked[schema_id] = answered = threading.Event()
        if not self._is_asking:
            self._is_asking = True
            threading.Thread(target=self._ask_all, name="schema lookup", daemon=True).start()
        return answered

    def _ask_all(self) -> None:
        """Ask for what is waiting, one id after another; end when nothing is."""
        while True:
            with self._lock:
                schema_id = next(iter(self._asked), None)
                if schema_id is None:
                    self._is_asking = False
                    return
            answer = self._answer(schema_id)
            with self._lock:
                self._is_away = answer is not None and isinstance(answer.error, RegistryError)
                self._remember(schema_id, answer)
                self._asked.pop(schema_id).set()

    def _remember(self, schema_id: int, answer: _Answer | None) -> None:
        """Keep the newest answer; what the registry once said of an id isn't replaced by its silence."""
        before = self._answers.pop(schema_id, None)
        if answer is None:
            return
        if self._is_away and before is not None and isinstance(before.error, SchemaError):
            answer = _Answer(before.error, answer.until)
        self._answers[schema_id] = answer
        while len(self._answers) > _MOST_REMEMBERED:
            self._answers.popitem(last=False)

    def _answer(self, schema_id: int) -> _Answer | None:
        """Ask the registry for an id; None where it has a schema, which is known then."""
        try:
            self._known[schema_id] = self._look_up(schema_id)
        except NotRegisteredError:
            error: SchemaError | RegistryError = UnknownSchemaError(f"the registry has no schema of id {schema_id}")
        except SchemaError as refused:
            error = refused
        except RegistryError as away:
            return _Answer(away, time.monotonic() + _ASK_AGAIN_SECONDS)
        except Exception as failure:
            # The thread must live: whoever waits for an answer would wait for one that never comes.
            broken = RegistryError(f"schema id {schema_id}: {type(failure).__name__}: {failure}")
            return _Answer(broken, time.monotonic() + _ASK_AGAIN_SECONDS)
        else:
            return None
        return _Answer(error, time.monotonic() + self._unknown_seconds)


def schema_lookup(registry: Registry) -> Callable[[int], Any]:
    """Return what gives a decoder schemas by asking the registry and waiting for it: right for whoever reads a whole topic.

    Args:
        registry: is asked; its errors pass through, but for those that a message is to blame for.
    """

    def look_up(schema_id: int) -> Any:
        try:
            return registry.avro_schema(schema_id)
        except NotRegisteredError as error:
            raise UnknownSchemaError(f"schema id {schema_id!r} is not registered") from error

    return look_up
