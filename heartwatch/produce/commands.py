"""``heartwatch heartbeat``: keep the windows of quiet partitions from waiting."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from heartwatch.produce.heartbeat import is_alive, send_heartbeats
from heartwatch.settings import load_settings


def heartbeat(*, check: bool = False) -> None:
    """Send quiet partitions of the stream the events that close their windows, until the process is told to end.

    Args:
        check: only say, by the exit code, whether the process that uses the same home has given a sign of life lately.
    """
    settings = load_settings()
    if check:
        sys.exit(0 if is_alive(settings.home) else 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    send_heartbeats(settings, ended)
