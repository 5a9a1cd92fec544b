"""The embedded platform, as seen from outside: start, stop, look at, kill and restart its parts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import orjson
import psutil

from heartwatch.platform import processes
from heartwatch.platform import services as catalog
from heartwatch.platform.elsewhere import Elsewhere
from heartwatch.platform.errors import DamagedStateError, PartError, PlatformError
from heartwatch.platform.packages import Packages
from heartwatch.platform.processes import ProcessId
from heartwatch.platform.services import Context
from heartwatch.platform.services.base import NotHealthyError, platform_context
from heartwatch.platform.services.kafka import BROKER_COUNTS
from heartwatch.platform.state import (
    PartRecord,
    PartState,
    PlatformState,
    read_state,
    write_atomically,
    write_state,
)
from heartwatch.platform.supervisor import stop_leftovers
from heartwatch.settings import DEFAULT_HOME, IS_CHECKOUT, ROOT
from kafkakit.waiting import wait_until

_POLL_SECONDS = 0.1
# It first stops what an earlier one left.
_SUPERVISOR_SECONDS = 120.0
_STOP_SECONDS = 150.0


@dataclass(frozen=True)
class PartStatus:
    """What `Platform.status` tells of a part.

    Attributes:
        name: the part.
        state: where it is in its life.
        address: its address; empty if it has none.
        healthy: whether it answers as it should; None if it doesn't run.
        reason: why it isn't healthy, or why it failed.
        pid: its process.
        memory_bytes: memory of the process and its descendants.
        restarts: how often it was restarted since the last `up`.
    """

    name: str
    state: PartState
    address: str
    healthy: bool | None
    reason: str
    pid: int | None
    memory_bytes: int
    restarts: int


class StartProgress:
    """What `Platform.up` tells while it works; this one keeps silent."""

    def packages(self, done: int, total: int) -> None:
        """`done` of `total` bytes of the packages are there."""

    def parts(self, wanted: list[str], records: dict[str, PartRecord]) -> None:
        """The parts are in these states; called again and again."""


class Platform:
    """The platform of one home.

    Args:
        home: folder of its data; made when it is missing.
        parts: names of parts or groups; with them comes what they depend on. None means all.
        brokers: Kafka brokers, 1 or 3; fixed by the first start.
        producers: workers of the producers' pool.
        secured: whether all parts speak TLS and ask for a login; fixed by the first start, None: as that was.
        elsewhere: servers that are used instead of Kafka, registry and engine of its own; fixed by the first start.

    Raises:
        PartError: there is no such part, or the home was made with another number of brokers, or secured otherwise.
    """

    def __init__(
        self,
        home: Path,
        parts: Iterable[str] | None = None,
        brokers: int | None = None,
        producers: int = 2,
        secured: bool | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.home = home.expanduser().resolve()
        state = read_state(self.home)
        made_with = state.brokers if state else None
        if brokers and made_with and brokers != made_with:
            raise PartError(
                f"the platform in {str(self.home)!r} was made with {made_with} broker(s), not {brokers}; "
                "run `heartwatch clean` first, or use another HEARTWATCH_HOME"
            )
        if secured is not None and state and secured != state.secured:
            raise PartError(
                f"the platform in {str(self.home)!r} was made {'' if state.secured else 'not '}secured; "
                "run `heartwatch clean` first, or use another HEARTWATCH_HOME"
            )
        self.secured = state.secured if state else bool(secured)
        self.brokers = made_with or brokers or 1
        self.producers = producers
        if self.brokers not in BROKER_COUNTS:
            raise PartError(f"{self.brokers!r} brokers are not supported; use one of {BROKER_COUNTS}")
        self.elsewhere = state.elsewhere if state else elsewhere
        self._parts = catalog.all_parts(self.brokers, producers, self.secured, elsewhere=self.elsewhere is not None)
        self.wanted = catalog.closure(self._parts, parts if parts is not None else list(self._parts))

    # --- up and down ------------------------------------------------------------------------------------------------

    def up(self, progress: StartProgress | None = None) -> None:
        """Start the wanted parts that don't run yet; return when all are healthy.

        Raises:
            PlatformError: one can't be started; what this call started is stopped again.
        """
        progress = progress or StartProgress()
        if self.running():
            return
        if any(self._parts[name].package_sets for name in self.wanted):
            Packages().install(progress.packages)
        self._check_memory()
        self._prepare_home()
        fresh = self._ensure_supervisor()
        try:
            self._ask("start", self.wanted, progress)
            self._write_dotenv()
        except BaseException:
            # Ctrl-C too leaves nothing behind.
            if fresh:
                self.down()
            raise

    def running(self) -> bool:
        """Tell whether a supervisor runs and has all wanted parts running."""
        state = self._live_state()
        records = [state.parts.get(name) for name in self.wanted] if state else [None]
        return all(record is not None and record.state is PartState.RUNNING for record in records)

    def down(self) -> list[str]:
        """Stop all parts and the supervisor, and what a supervisor that was killed left behind.

        Returns:
            The names of the parts that ran.

        Raises:
            PlatformError: the supervisor doesn't end.
        """
        state = read_state(self.home)
        if state is None:
            return []
        names = [name for name, record in state.parts.items() if record.process and record.process.process()]
        supervisor = state.supervisor.process() if state.supervisor else None
        if supervisor is None:
            stop_leftovers(self.home, self._parts, state)
            state.supervisor, state.parts = None, {}
            write_state(self.home, state)
            return names
        processes.send(supervisor, signal.SIGTERM)
        if not processes.wait_until_gone(ProcessId(supervisor.pid, supervisor.create_time()), _STOP_SECONDS):
            raise PlatformError(f"the supervisor (pid {supervisor.pid}) doesn't end; see {str(self._log())!r}")
        return names

    def clean(self) -> None:
        """Stop everything and remove the home with all data."""
        self.down()
        if not self.home.exists():
            return
        for part in self._parts.values():
            for path in part.paths_outside(self._context(read_state(self.home) or PlatformState())):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(self.home)
        if self._is_checkouts:
            (ROOT / ".env").unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """Return the environment of a program that uses the platform: this one's, with Prefect's address and the home."""
        return {**os.environ, **self._client_variables(), "HEARTWATCH_HOME": str(self.home)}

    # --- single parts -----------------------------------------------------------------------------------------------

    def kill(self, name: str, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to a part, or to each part of a group; the supervisor restarts what dies.

        Returns:
            The pids that got it.

        Raises:
            PartError: there is no such part, or it doesn't run.
        """
        state = self._live_state()
        pids = []
        for member in catalog.members(self._parts, [name]):
            record = state.parts.get(member) if state else None
            process = record.process.process() if record and record.process else None
            if process is None:
                raise PartError(f"{member} doesn't run; start it with `heartwatch up`")
            processes.send(process, number)
            pids.append(process.pid)
        return pids

    def restart(self, name: str) -> None:
        """Stop and start a part, or each part of a group; return when it is healthy.

        Raises:
            PlatformError: there is no such part, or it can't be restarted.
        """
        if self._live_state() is None:
            raise PlatformError("the platform doesn't run; start it with `heartwatch up`")
        self._ask("restart", catalog.members(self._parts, [name]), StartProgress())

    def wait_for(self, name: str, condition: Callable[[PartStatus], bool], timeout_seconds: float = 120.0) -> None:
        """Wait until a condition holds for a part, or for each part of a group.

        Raises:
            PartError: it doesn't hold in time.
        """
        names = catalog.members(self._parts, [name])
        wait_until(
            lambda: all(condition(self._status(member, self._live_state())) for member in names),
            timeout_seconds,
            _POLL_SECONDS,
            lambda: PartError(f"{name} isn't as expected after {timeout_seconds:.0f} s; see `heartwatch status`"),
        )

    def status(self) -> list[PartStatus]:
        """Look at every part, in the order of a start."""
        state = self._live_state()
        with ThreadPoolExecutor(len(self._parts)) as executor:
            return list(executor.map(lambda name: self._status(name, state), catalog.order(self._parts)))

    def log(self, name: str) -> list[Path]:
        """Return the log files of a part, or of each part of a group."""
        return [self.home / "logs" / f"{member}.log" for member in catalog.members(self._parts, [name])]

    def _status(self, name: str, state: PlatformState | None) -> PartStatus:
        record = state.parts.get(name, PartRecord()) if state else PartRecord()
        process = record.process.process() if record.process else None
        healthy, reason, address = None, record.error, ""
        if process is not None and state is not None:
            context = self._context(state)
            address = self._parts[name].address(context)
            try:
                self._parts[name].check(context)
                healthy = True
            except NotHealthyError as error:
                healthy, reason = False, str(error)
        return PartStatus(
            name=name,
            state=record.state,
            address=address,
            healthy=healthy,
            reason=reason,
            pid=process.pid if process else None,
            memory_bytes=_memory(process) if process else 0,
            restarts=record.restarts,
        )

    # --- the supervisor ---------------------------------------------------------------------------------------------

    def _live_state(self) -> PlatformState | None:
        """Return the state if its supervisor runs."""
        state = read_state(self.home)
        return state if state and state.supervisor and state.supervisor.process() else None

    def _log(self) -> Path:
        return self.home / "logs" / "supervisor.log"

    def _prepare_home(self) -> None:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            # People's ranges and events are in it, and the passwords of all parts.
            self.home.chmod(0o700)
            (self.home / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise PlatformError(
                f"{str(self.home)!r} can't be made ({error.strerror}); set HEARTWATCH_HOME to a folder of yours"
            ) from error

    def _ensure_supervisor(self) -> bool:
        """Start a supervisor unless one runs; tell whether it was started."""
        if self._live_state() is not None:
            return False
        command = [sys.executable, "-m", "heartwatch.platform.supervisor", "--home", str(self.home)]
        command += ["--brokers", str(self.brokers), "--producers", str(self.producers)]
        command += ["--secured"] if self.secured else []
        command += ["--elsewhere", json.dumps(asdict(self.elsewhere))] if self.elsewhere is not None else []
        # Each flow run is a Python process of its own: bytecode halves what its imports cost.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with self._log().open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

        def given_up() -> PlatformError:
            process.kill()
            return PlatformError(f"the supervisor doesn't start; see {str(self._log())!r}")

        def controllable() -> bool:
            state = self._live_state()
            if state is not None and state.control:
                return True
            # Exit code 0: another one was quicker.
            if process.poll():
                raise given_up()
            return False

        return wait_until(controllable, _SUPERVISOR_SECONDS, _POLL_SECONDS, given_up)

    def _ask(self, what: str, names: list[str], progress: StartProgress) -> None:
        """Have the supervisor do something, and wait for its answer.

        Raises:
            PlatformError: it couldn't.
        """
        state = self._live_state()
        if state is None:
            raise PlatformError("the supervisor doesn't run; run `heartwatch up`")
        try:
            with Client(state.control, family="AF_UNIX") as connection:
                connection.send_bytes(orjson.dumps({"do": what, "parts": names}))
                while not connection.poll(_POLL_SECONDS):
                    progress.parts(names, self._records())
                answer: dict[str, Any] = orjson.loads(connection.recv_bytes())
        except (OSError, EOFError) as error:
            raise PlatformError(f"the supervisor ended meanwhile; see {str(self._log())!r}") from error
        progress.parts(names, self._records())
        if "error" in answer:
            raise PlatformError(answer["error"])

    def _records(self) -> dict[str, PartRecord]:
        state = read_state(self.home)
        return state.parts if state else {}

    def _context(self, state: PlatformState) -> Context:
        return platform_context(self.home, state)

    # --- surroundings -----------------------------------------------------------------------------------------------

    def _check_memory(self) -> None:
        records = self._records()
        missing = [name for name in self.wanted if not (name in records and records[name].state is PartState.RUNNING)]
        needed = sum(self._parts[name].memory_mib for name in missing)
        available = psutil.virtual_memory().available >> 20
        if available < needed:
            raise PlatformError(
                f"{available} MiB of memory are available and {', '.join(missing)} need {needed} MiB; "
                "close other programs, or start fewer parts with --parts"
            )

    def _write_dotenv(self) -> None:
        """Give the `prefect` command the server's address; only for the home that belongs to this checkout."""
        if not self._is_checkouts:
            return
        lines = [f"{name}={value}\n" for name, value in self._client_variables().items()]
        if lines:
            write_atomically(ROOT / ".env", "# Written by `heartwatch up`.\n" + "".join(lines))

    @property
    def _is_checkouts(self) -> bool:
        return IS_CHECKOUT and self.home == DEFAULT_HOME

    def _client_variables(self) -> dict[str, str]:
        context = self._context(read_state(self.home) or PlatformState())
        return {
            name: value for part in self.wanted for name, value in self._parts[part].client_variables(context).items()
        }


def clean(home: Path) -> Path:
    """Stop the platform of a home and remove it with all data; one whose state is damaged too.

    Returns:
        the folder that is gone.

    Raises:
        PlatformError: the supervisor doesn't end, or the folder holds more than a platform.
    """
    folder = home.expanduser().resolve()
    _check_own(folder)
    try:
        platform = Platform(folder)
    except DamagedStateError:
        # What still runs is known by its mark alone.
        processes.kill(processes.marked(folder))
        write_state(folder, PlatformState())
        platform = Platform(folder)
    platform.clean()
    return folder


def _check_own(folder: Path) -> None:
    """Refuse to remove a folder that isn't a platform's alone."""
    holds_more = any(one.is_relative_to(folder) for one in (ROOT, Path.home().resolve()))
    is_made = any((folder / name).exists() for name in ("state.json", "supervisor.lock"))
    if holds_more or (folder.exists() and not is_made and folder != DEFAULT_HOME):
        raise PlatformError(
            f"{str(folder)!r} isn't a platform's alone: nothing was removed; see that HEARTWATCH_HOME names its folder"
        )


def _memory(process: psutil.Process) -> int:
    total = 0
    for member in processes.tree(process):
        try:
            # Shared memory counts in proportion: else Postgres' buffers would count once for each of its processes.
            info = member.memory_full_info()
            total += getattr(info, "pss", info.rss)
        except psutil.Error:
            continue
    return total
