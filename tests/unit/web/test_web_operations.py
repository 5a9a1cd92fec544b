"""What who is signed in may ask of KSQL, against a server that answers as ksqlDB does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from heartwatch.settings import Settings, load_settings
from heartwatch.web import operations


class Ksql(BaseHTTPRequestHandler):
    """A topic with one record, and then an empty line whenever there is none: how ksqlDB finds out who has gone."""

    left = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"KsqlServerInfo": {"version": "0.29.0"}}')

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"key: 7, value: 1\n")
        for _ in range(200):
            time.sleep(0.02)
            try:
                self.wfile.write(b"\n")
            except OSError:
                self.left.set()
                return

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def settings() -> Iterator[Settings]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Ksql) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = load_settings()
        urls = [f"http://127.0.0.1:{server.server_port}"]
        yield settings.model_copy(update={"ksqldb": settings.ksqldb.model_copy(update={"urls": urls})})
        server.shutdown()


def test_a_topic_that_falls_silent_is_printed_for_some_seconds_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_QUERY_SECONDS", 0.3)
    answer = operations.KsqlConsole(settings).run("PRINT 'a_topic';")
    assert (answer.rows, "cut off" in answer.sentence) == ((("key: 7, value: 1",),), True)
    assert Ksql.left.wait(10), "the console left before the server ended"


@pytest.mark.parametrize(("people", "events", "missing"), [(None, 5, "people"), (5, None, "events"), (5, 0, "events")])
def test_an_empty_field_starts_no_run(people: float | None, events: float | None, missing: str) -> None:
    with pytest.raises(operations.OrderError, match=missing):
        operations.order_of(True, people, events, None)
    assert operations.order_of(False, 5.0, 7.0, 10) == operations.Order(False, 5, 7, 10)
