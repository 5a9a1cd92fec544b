"""The process that owns the platform's parts: starts them in order, restarts those that die, stops them.

``heartwatch up`` starts one per home, detached from the terminal. It is told what to do over a Unix socket (one JSON object
each way) and writes all it knows into ``state.json``; a SIGTERM stops the parts and ends it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import psutil

from heartwatch.platform import ports, processes
from heartwatch.platform import services as catalog
from heartwatch.platform.elsewhere import Elsewhere
from heartwatch.platform.errors import PartError, PlatformError
from heartwatch.platform.processes import ProcessId
from heartwatch.platform.services import Context, Part
from heartwatch.platform.services.base import NotHealthyError, platform_context
from heartwatch.platform.state import (
    AUTHORITY,
    PartRecord,
    PartState,
    PlatformState,
    read_state,
    write_state,
    write_toml,
)
from heartwatch.settings import merge
from kafkakit.waiting import wait_until

logger = logging.getLogger("heartwatch.supervisor")

RESTARTS = 5
"""Restarts within `RESTART_WINDOW_SECONDS` after which a part is given up."""
RESTART_WINDOW_SECONDS = 300.0

_IDLE_SECONDS = 30.0
_POLL_SECONDS = 0.25
_LOG_BYTES = 20 << 20


class Supervisor:
    """Owner of one platform's processes."""

    def __init__(
        self, home: Path, brokers: int, producers: int, secured: bool = False, elsewhere: Elsewhere | None = None
    ) -> None:
        self.home = home
        self._state = read_state(home) or PlatformState(brokers=brokers, secured=secured, elsewhere=elsewhere)
        self._parts = catalog.all_parts(
            brokers, producers, self._state.secured, elsewhere=self._state.elsewhere is not None
        )
        # Makes the secrets, before anybody else looks for them.
        self._context()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._deaths: dict[str, list[float]] = {}
        # Set when a part that is being started is no longer wanted.
        self._halts: dict[str, threading.Event] = {}
        # One command at a time; the second lock keeps the records and the file together.
        self._command = threading.RLock()
        self._records = threading.RLock()
        self._ended = threading.Event()

    # --- life -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM, or until nothing was started for a while."""
        stop_leftovers(self.home, self._parts, self._state)
        if self._state.secured:
            self._renew_certificates()
        with tempfile.TemporaryDirectory(prefix="heartwatch-") as folder:
            listener = Listener(str(Path(folder) / "control"), family="AF_UNIX", backlog=16)
            with self._change() as state:
                state.supervisor = ProcessId.of(os.getpid())
                state.control = str(listener.address)
                state.parts = {}
            threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
            try:
                self._watch()
            finally:
                listener.close()
                with self._command:
                    self._stop(list(self._state.parts))
                with self._change() as state:
                    state.supervisor, state.control = None, ""

    def _renew_certificates(self) -> None:
        """Make the secured platform's authority and certificates anew; nothing runs yet that has the earlier ones."""
        from heartwatch.platform.certificates import SHORT, write_certificates  # noqa: PLC0415  only secured ones need it

        names = dict.fromkeys(part.group for part in self._parts.values())
        write_certificates(self.home / "tls", AUTHORITY, names, SHORT)

    def end(self, *_: Any) -> None:
        """Make `run` stop everything and return."""
        self._ended.set()

    def _watch(self) -> None:
        """Notice parts that died, and restart them."""
        started = time.monotonic()
        while not self._ended.wait(_POLL_SECONDS):
            for name, halt in self._died().items():
                threading.Thread(target=self._revive, args=(name, halt), daemon=True).start()
            idle = not self._state.parts and time.monotonic() - started > _IDLE_SECONDS
            if idle:
                return

    def _died(self) -> dict[str, threading.Event]:
        with self._records:
            dead = [
                name
                for name, record in self._state.parts.items()
                if record.state is PartState.RUNNING and self._processes[name].poll() is not None
            ]
            for name in dead:
                self._state.parts[name].state = PartState.RESTARTING
            return {name: self._halts[name] for name in dead}

    def _revive(self, name: str, halt: threading.Event) -> None:
        """Start a part that died, after a pause that grows with its recent deaths; give up after too many."""
        now = time.monotonic()
        deaths = [moment for moment in self._deaths.get(name, []) if now - moment < RESTART_WINDOW_SECONDS]
        self._deaths[name] = [*deaths, now]
        code = self._processes[name].returncode
        logger.warning("%s ended with code %s, %d recent deaths", name, code, len(deaths))
        if len(deaths) >= RESTARTS:
            self._fail(
                name, f"it ended {len(deaths) + 1} times within {RESTART_WINDOW_SECONDS:.0f} s, last with code {code}"
            )
            return
        # The first restart comes at once.
        if not halt.wait((2.0 ** len(deaths) - 1) / 2) and not self._ended.is_set():
            self._restart(name, halt)

    def _restart(self, name: str, halt: threading.Event) -> None:
        """Start a part again, unless somebody stops it meanwhile: then it is theirs, and they may have started it again."""
        with self._change() as state:
            record = state.parts[name]
            if record.state is not PartState.RESTARTING or halt.is_set():
                return
            record.restarts += 1
        try:
            self._clear(name)
            self._launch(name, halt, PartState.RESTARTING)
        except Exception as error:
            # Whatever went wrong: a part that nobody tries to start any more would be waited for without end.
            logger.warning("%s can't be restarted: %s", name, error)
            with self._records:
                process = None if halt.is_set() else self._processes[name]
            if process is not None:
                self._terminate(name, process)
            with self._change():
                if not halt.is_set():
                    # A part that doesn't come up counts as dead once more.
                    record.state, record.error = PartState.RUNNING, str(error)

    def _clear(self, name: str) -> None:
        """End what a dead part left running, unless its children are meant to live on."""
        if not self._parts[name].keeps_children:
            processes.kill(processes.marked(self.home, name))

    def _fail(self, name: str, reason: str) -> None:
        message = f"{name} can't be kept running: {reason}; see {str(self._context().log(name))!r}"
        logger.error("%s", message)
        with self._change() as state:
            state.parts[name].state, state.parts[name].error = PartState.FAILED, message

    # --- commands ---------------------------------------------------------------------------------------------------

    def _serve(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection[bytes, bytes]) -> None:
        with connection:
            try:
                request = json.loads(connection.recv_bytes())
                self._do(request["do"], request["parts"])
                answer = {}
            except PlatformError as error:
                answer = {"error": str(error)}
            except Exception as error:
                logger.exception("request failed")
                answer = {"error": f"the supervisor failed ({type(error).__name__}: {error}); see its log"}
            try:
                connection.send_bytes(json.dumps(answer).encode())
            except OSError:
                logger.info("who asked didn't wait for the answer")

    def _do(self, what: str, names: list[str]) -> None:
        with self._command:
            if what == "start":
                self._start(catalog.closure(self._parts, names))
            elif what == "stop":
                self._stop(catalog.members(self._parts, names))
            elif what == "restart":
                chosen = catalog.members(self._parts, names)
                self._stop(chosen)
                self._start(chosen)
            else:
                raise PlatformError(f"{what!r} is not a command of the supervisor")

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start(self, names: list[str]) -> None:
        """Start parts in the order of their dependencies, those that don't depend on each other at the same time.

        Raises:
            PartError: one can't be started; those that were started for it are stopped again.
        """
        self._wait_for_restarts(names)
        new = [name for name in names if self._state.parts.get(name, PartRecord()).state is not PartState.RUNNING]
        if not new:
            return
        self._choose_ports(new)
        self._halts |= {name: threading.Event() for name in new}
        sorter = TopologicalSorter(catalog.dependencies(self._parts, new))
        sorter.prepare()
        try:
            self._start_sorted(sorter, len(new))
        except BaseException:
            self._stop(new)
            with self._change() as state:
                for name in new:
                    state.parts.pop(name, None)
            raise

    def _wait_for_restarts(self, names: list[str]) -> None:
        records = [record for name in names if (record := self._state.parts.get(name)) is not None]
        while any(record.state is PartState.RESTARTING for record in records) and not self._ended.wait(_POLL_SECONDS):
            pass

    def _start_sorted(self, sorter: TopologicalSorter[str], count: int) -> None:
        with ThreadPoolExecutor(count) as executor:
            running: dict[Future[None], str] = {}
            while sorter.is_active():
                running |= {executor.submit(self._launch, name, self._halts[name]): name for name in sorter.get_ready()}
                finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in finished:
                    name = running.pop(future)
                    try:
                        future.result()
                    except BaseException:
                        for other in running.values():
                            self._halts[other].set()
                        raise
                    sorter.done(name)

    def _choose_ports(self, names: list[str]) -> None:
        wanted = [port for name in names for port in self._parts[name].port_names]
        with self._change() as state:
            known = dict(state.ports)
            state.ports = ports.choose(wanted, known)
        for port_name in wanted:
            port = self._state.ports[port_name]
            if port_name in known and not ports.is_free(port):
                raise PartError(
                    f"port {port} of {port_name} is taken by another program; stop that program, "
                    "or run `heartwatch clean` to start afresh on other ports"
                )
        self._write_endpoints(names)

    def _write_endpoints(self, names: list[str]) -> None:
        context = self._context()
        values: dict[str, Any] = {}
        for name in [*self._state.parts, *names]:
            values = merge(values, self._parts[name].endpoints(context))
        if context.elsewhere is not None:
            values = merge(values, context.elsewhere.endpoints())
        write_toml(self.home / "endpoints.toml", values, "Written by `heartwatch up`.")

    def _context(self) -> Context:
        return platform_context(self.home, self._state)

    def _launch(self, name: str, halt: threading.Event, state_meanwhile: PartState = PartState.STARTING) -> None:
        """Start one part and wait until it is healthy.

        Args:
            name: the part.
            halt: set when this start is no longer wanted; a later start of the part has another one.
            state_meanwhile: the part's state until then.

        Raises:
            PartError: it ended, or didn't become healthy in time.
        """
        part, context = self._parts[name], self._context()
        with self._change() as state:
            self._check_wanted(name, halt)
            record = state.parts.setdefault(name, PartRecord())
            record.state, record.error, record.process = state_meanwhile, "", None
        part.prepare(context)
        process = self._spawn(part, context, halt)
        self._wait_until_healthy(part, context, process, halt)
        part.configure(context)
        part.settle(context, self._running_groups())
        with self._change() as state:
            self._check_wanted(name, halt)
            state.parts[name].state = PartState.RUNNING

    def _running_groups(self) -> set[str]:
        """Return the groups of which a part runs, or did so until a moment ago."""
        alive = (PartState.RUNNING, PartState.RESTARTING)
        with self._records:
            return {self._parts[name].group for name, record in self._state.parts.items() if record.state in alive}

    def _spawn(self, part: Part, context: Context, halt: threading.Event) -> subprocess.Popen[bytes]:
        log = context.log(part.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        account = part.account(context)
        user: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        # A stop that comes meanwhile either prevents the process or finds it.
        with log.open("ab") as output, self._change() as state:
            self._check_wanted(part.name, halt)
            try:
                process = subprocess.Popen(
                    part.command(context),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=part.folder(context),
                    env={**part.environment(context), **processes.mark(self.home, part.name)},
                    start_new_session=True,
                    **user,
                )
            except OSError as error:
                raise PartError(f"{part.name} can't be started: {error}") from error
            self._processes[part.name] = process
            state.parts[part.name].process = ProcessId.of(process.pid)
        return process

    def _wait_until_healthy(
        self, part: Part, context: Context, process: subprocess.Popen[bytes], halt: threading.Event
    ) -> None:
        reason, log = "", str(context.log(part.name))

        def healthy() -> bool:
            nonlocal reason
            self._check_wanted(part.name, halt)
            if process.poll() is not None:
                raise PartError(f"{part.name} ended with code {process.returncode}; see {log!r}")
            try:
                part.check(context)
            except NotHealthyError as error:
                reason = str(error)
                return False
            return True

        wait_until(
            healthy,
            part.start_seconds,
            _POLL_SECONDS,
            lambda: PartError(f"{part.name} wasn't healthy after {part.start_seconds:.0f} s ({reason}); see {log!r}"),
            pause=halt.wait,
        )

    def _check_wanted(self, name: str, halt: threading.Event) -> None:
        if self._ended.is_set() or halt.is_set():
            raise PartError(f"the start of {name} was interrupted")

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self, names: list[str]) -> None:
        """Stop parts in the reverse order of their dependencies, those that don't depend on each other at the same time."""
        chosen = [name for name in names if name in self._state.parts]
        for level in levels(self._parts, chosen):
            with ThreadPoolExecutor(len(level)) as executor:
                list(executor.map(self._stop_one, level))

    def _stop_one(self, name: str) -> None:
        with self._change() as state:
            self._halts[name].set()
            state.parts[name].state = PartState.STOPPING
        self._terminate(name, self._processes.get(name))
        processes.kill(processes.marked(self.home, name))
        with self._change() as state:
            state.parts[name].state, state.parts[name].process = PartState.STOPPED, None

    def _terminate(self, name: str, process: subprocess.Popen[bytes] | None) -> None:
        if process is None or process.poll() is not None:
            return
        part, context = self._parts[name], self._context()
        limit = part.stop_limit(context)
        try:
            gentle = processes.stop(psutil.Process(process.pid), part.stop_signal, limit)
        except psutil.NoSuchProcess:
            gentle = True
        process.wait()
        if gentle:
            part.stopped(context)
        else:
            logger.warning("%s was killed: it didn't end within %.0f s", name, limit)

    # --- records ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[PlatformState]:
        with self._records:
            yield self._state
            write_state(self.home, self._state)


def levels(parts: dict[str, Part], names: list[str]) -> list[list[str]]:
    """Return the parts in the order of a stop: each list needs nothing of the lists after it to be up."""
    sorter = TopologicalSorter(catalog.dependencies(parts, names))
    sorter.prepare()
    found: list[list[str]] = []
    while sorter.is_active():
        ready = list(sorter.get_ready())
        found.append(ready)
        sorter.done(*ready)
    return found[::-1]


def stop_leftovers(home: Path, parts: dict[str, Part], state: PlatformState) -> list[str]:
    """Stop what an earlier supervisor that was killed left running.

    Returns:
        The names of the parts that still ran.
    """
    running = {
        name: process
        for name, record in state.parts.items()
        if name in parts and record.process is not None and (process := record.process.process()) is not None
    }
    for level in levels(parts, list(running)):
        with ThreadPoolExecutor(len(level)) as executor:
            list(executor.map(lambda name: _stop_leftover(running[name], parts[name]), level))
    processes.kill(processes.marked(home))
    return list(running)


def _stop_leftover(process: psutil.Process, part: Part) -> None:
    processes.stop(process, part.stop_signal, part.stop_seconds)


def main() -> None:
    """Run the supervisor of a home; a second one ends at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--brokers", type=int, required=True)
    parser.add_argument("--producers", type=int, required=True)
    parser.add_argument("--secured", action="store_true")
    parser.add_argument("--elsewhere", type=lambda text: Elsewhere(**json.loads(text)))
    arguments = parser.parse_args()
    # Data, logs and secrets of all parts: for their owner alone.
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # httpx logs every health check.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with (arguments.home / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(0)
        supervisor = Supervisor(
            arguments.home, arguments.brokers, arguments.producers, arguments.secured, arguments.elsewhere
        )
        signal.signal(signal.SIGTERM, supervisor.end)
        signal.signal(signal.SIGINT, supervisor.end)
        supervisor.run()


if __name__ == "__main__":
    main()
