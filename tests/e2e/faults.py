"""Faults of the platform's parts that are more than a signal to one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from heartwatch.platform.platform import Platform


@contextmanager
def stopped(platform: Platform, part: str) -> Iterator[None]:
    """Stop a part and all that it has started, as a machine that hangs would; go on with it at the end."""
    (pid,) = (status.pid for status in platform.status() if status.name == part)
    assert pid is not None
    first = psutil.Process(pid)
    family = [first, *first.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()
