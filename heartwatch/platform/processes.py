"""Processes of the platform: told apart from others by pid and start time, and by a mark in their environment."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from kafkakit.waiting import wait_until

MARK = "HEARTWATCH_PLATFORM_PART"
"""Environment variable ``<home>|<part>`` that every process of a part has, and that its descendants inherit."""

# Start times are computed from the machine's boot time, which moves a little when the clock is corrected.
_POLL_SECONDS = 0.05
_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class ProcessId:
    """A process that no later process with the same pid is taken for."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a running process; None if it has ended."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def process(self) -> psutil.Process | None:
        """Return the process if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def mark(home: Path, part: str) -> dict[str, str]:
    """Return the mark of a part's processes."""
    return {MARK: f"{home}|{part}"}


def marked(home: Path, part: str | None = None) -> list[psutil.Process]:
    """Return the running processes with the mark of this home and, if given, of this part.

    Postgres overwrites its environment; its processes are found through their parent instead.
    """
    wanted = f"{home}|{part}" if part else f"{home}|"
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK, "")
            if (value == wanted if part else value.startswith(wanted)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return the process and all its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def send(process: psutil.Process, number: int) -> None:
    """Send a signal; a process that has ended is not an error (psutil never signals a later process with its pid)."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def stop(process: psutil.Process, number: int, grace_seconds: float) -> bool:
    """Ask a process to end, and after the grace time kill it with all its descendants.

    Returns:
        Whether it ended by itself.
    """
    members = tree(process)
    send(process, number)
    _, alive = psutil.wait_procs(members[:1], timeout=grace_seconds)
    kill(members)
    return not alive


def kill(processes: Iterable[psutil.Process], timeout_seconds: float = 5.0) -> None:
    """Kill processes and wait for their end."""
    alive = list(processes)
    for process in alive:
        send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=timeout_seconds)


def wait_until_gone(identity: ProcessId, timeout_seconds: float) -> bool:
    """Wait for a process that needn't be a child; tell whether it has ended."""
    return wait_until(lambda: identity.process() is None, timeout_seconds, _POLL_SECONDS)
