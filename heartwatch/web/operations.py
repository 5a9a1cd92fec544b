"""What a signed-in viewer may do: run and stop through Prefect's deployments, and send statements to KSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx

from heartwatch.errors import HeartWatchError
from heartwatch.produce.supervision import PRODUCER_RUN
from heartwatch.settings import Settings
from heartwatch.web.prefect_api import PrefectApi, PrefectError
from kafkakit.security import http_options
from ksqlengine.client.rest_client import Ksqldb

_NOT_FOUND = 404
_MOST_ROWS = 200
_QUERY_SECONDS = 10.0


@dataclass(frozen=True)
class Order:
    """What to run.

    Attributes:
        whole: the whole pipeline (`heart-watch`), or the producers alone (`produce`).
        people: number of people in the simulation.
        events: number of events of all people together.
        events_per_second: limit of the rate; None: as fast as possible. For the producers alone.
    """

    whole: bool
    people: int
    events: int
    events_per_second: float | None = None


class OrderError(HeartWatchError):
    """The form is not filled in correctly; the message says what is missing."""


def order_of(whole: bool, people: float | None, events: float | None, events_per_second: float | None) -> Order:
    """Return the order that a form states.

    Args:
        whole: the whole pipeline, or the producers alone.
        people: from the form; None where the field is empty.
        events: from the form; None where the field is empty.
        events_per_second: from the form; None for no limit.

    Raises:
        OrderError: a number is missing or too small.
    """
    for name, value in (("people", people), ("events", events)):
        if value is None or value < 1:
            raise OrderError(f"Enter the number of {name}: at least 1.")
    assert people is not None and events is not None  # noqa: S101, PT018 - checked above
    return Order(whole, int(people), int(events), events_per_second)


def run_of(order: Order) -> tuple[str, dict[str, Any]]:
    """Return the deployment that an order runs, as ``flow/deployment``, and its parameters."""
    parameters: dict[str, Any] = {"people": order.people, "events": order.events}
    if order.whole:
        return "heart-watch/heart-watch", parameters
    return "produce/produce", {**parameters, "events_per_second": order.events_per_second}


class Operations:
    """Runs and stops through Prefect's API."""

    def __init__(self, prefect: PrefectApi) -> None:
        """Take the API."""
        self._prefect = prefect

    def run(self, order: Order) -> tuple[str, str]:
        """Start a flow run.

        Returns:
            its name, and its address in Prefect's UI.

        Raises:
            PrefectError: the deployment doesn't exist, or Prefect refused.
        """
        name, parameters = run_of(order)
        deployment = self._prefect.ask("GET", f"/deployments/name/{name}", allowed=(_NOT_FOUND,))
        if deployment is None:
            raise PrefectError(f"there is no deployment {name!r}; run `prefect --no-prompt deploy --all`")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED", "message": "Started on the live page"}}
        run = self._prefect.ask("POST", f"/deployments/{deployment['id']}/create_flow_run", body)
        return run["name"], f"{self._prefect.ui_url}/runs/flow-run/{run['id']}"

    def stop_producers(self) -> None:
        """Have every producer flush and stop; a new run lets them send again.

        Raises:
            PrefectError: Prefect refused.
        """
        path = f"/variables/name/{PRODUCER_RUN}"
        if self._prefect.ask("GET", path, allowed=(_NOT_FOUND,)) is None:
            self._prefect.ask("POST", "/variables/", {"name": PRODUCER_RUN, "value": "0"})
        else:
            self._prefect.ask("PATCH", path, {"value": "0"})


@dataclass(frozen=True)
class Answer:
    """What KSQL answered: rows under their headings, and a summary."""

    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    sentence: str


class _ImpatientTransport(httpx.HTTPTransport):
    """Gives up on an answer that stays silent or doesn't end, as that of a query without an end."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (httpx' interface)."""
        request.extensions = {
            **request.extensions,
            "timeout": {**request.extensions.get("timeout", {}), "read": _QUERY_SECONDS},
        }
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - httpx' transport returns that
        response.stream = _BoundedStream(response.stream)
        return response


class _BoundedStream(httpx.SyncByteStream):
    """An answer's body that times out some time after it began: ksqlDB sends empty lines while a topic has no records."""

    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body
        self._deadline = time.monotonic() + _QUERY_SECONDS

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            yield part
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout(f"the answer did not end within {_QUERY_SECONDS:g} s")

    def close(self) -> None:
        self._body.close()


class KsqlConsole:
    """Runs single statements; queries without an end are cut off after some rows or seconds."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings."""
        verify = http_options(settings.ksqldb, "the KSQL server").get("verify", True)
        self._ksqldb = Ksqldb(settings.ksqldb, retry_seconds=1, transport=_ImpatientTransport(verify=verify))

    def run(self, statement: str) -> Answer:
        """Run a statement.

        Raises:
            KsqldbError: KSQL refused it or doesn't answer.
        """
        word = statement.lstrip().split(None, 1)[:1]
        kind = word[0].upper() if word else ""
        if kind == "SELECT":
            return self._select(statement)
        if kind == "PRINT":
            with self._ksqldb.print_topic(statement) as lines:
                return _taken(("record",), ((line,) for line in lines))
        answers = self._ksqldb.entities(statement)
        return _of_entities(answers)

    def _select(self, statement: str) -> Answer:
        with self._ksqldb.select(statement) as result:
            return _taken(result.names, (tuple(row) for row in result.rows))


def _taken(names: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Answer:
    deadline, taken, ended = time.monotonic() + _QUERY_SECONDS, [], False
    with suppress(httpx.ReadTimeout):
        for row in islice(rows, _MOST_ROWS):
            taken.append(row)
            if time.monotonic() > deadline:
                break
        else:
            ended = len(taken) < _MOST_ROWS
    count = f"{len(taken):,} row{'' if len(taken) == 1 else 's'}"
    return Answer(names, tuple(taken), f"{count}." if ended else f"The first {count}; the output was cut off.")


def _of_entities(answers: list[dict[str, Any]]) -> Answer:
    """Return answers as rows: the items of a list, or the fields of each answer."""
    rows: list[dict[str, Any]] = []
    for answer in answers:
        items = next((value for value in answer.values() if _is_list_of_objects(value)), None)
        with suppress(KeyError):
            items = items or [{"message": answer["commandStatus"]["message"]}]
        rows += items if items is not None else [_flat(answer)]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Answer(
        names,
        tuple(tuple(row.get(name, "") for name in names) for row in rows),
        f"{len(rows):,} result{'' if len(rows) == 1 else 's'}.",
    )


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    inner = next((value for value in answer.values() if isinstance(value, dict)), answer)
    return {name: value for name, value in inner.items() if value not in (None, "", [], {})}
