"""The platform's commands: ``heartwatch up | down | status | logs | kill | restart | clean | packages``."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections import deque
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from heartwatch.extras import require
from heartwatch.platform.errors import PartError
from heartwatch.platform.packages import Packages, write_lock
from heartwatch.platform.platform import PartStatus, Platform, StartProgress
from heartwatch.platform.platform import clean as clean_home
from heartwatch.platform.state import PartRecord, PartState
from heartwatch.settings import ROOT, load_settings

_STYLES = {
    PartState.STARTING: "yellow",
    PartState.RUNNING: "green",
    PartState.RESTARTING: "yellow",
    PartState.STOPPING: "yellow",
    PartState.STOPPED: "dim",
    PartState.FAILED: "bold red",
}

# A retry is not news to a user; what it ends with is.
logging.getLogger("stamina").addHandler(logging.NullHandler())

packages = App(name="packages", help="The pinned JVM packages.")


def up(*, parts: str = "", brokers: int | None = None, producers: int = 2, secured: bool | None = None) -> None:
    """Start the platform; what runs already stays as it is.

    Args:
        parts: names, with commas between, of the parts to start, with what they depend on; all of them by default.
        brokers: Kafka brokers, 1 or 3; fixed by the first start.
        producers: workers of the producers' work pool.
        secured: TLS on every port and a login for everything, with accounts of least rights for each component on the brokers;
            fixed by the first start.
    """
    require("local")
    platform = Platform(load_settings().home, _names(parts), brokers, producers, secured)
    console = Console()
    with _Display(console) as display:
        platform.up(display)
    _print_status(console, [status for status in platform.status() if status.name in platform.wanted])


def demo() -> None:
    """Run the whole pipeline and print what was found.

    The platform stays up afterwards; one that was started for a demo that failed or was interrupted is stopped again.
    """
    platform = Platform(load_settings().home)
    fresh = not platform.running()
    up()
    try:
        # Prefect and the analytic's code are none of this package's imports.
        code = subprocess.run(
            [sys.executable, "-m", "flows.demo"], cwd=ROOT, env=platform.environment(), check=False
        ).returncode
    except KeyboardInterrupt:
        if fresh:
            platform.down()
        raise
    if code:
        if fresh:
            platform.down()
        sys.exit(code)


def down() -> None:
    """Stop the platform; its data stays."""
    with Console().status("stopping"):
        names = Platform(load_settings().home).down()
    print(f"stopped {', '.join(names)}" if names else "nothing was running")


def status() -> None:
    """Show each part: state, address, health, process, memory, restarts."""
    _print_status(Console(), Platform(load_settings().home).status())


def logs(part: str, /, *, lines: int = 50) -> None:
    """Show the end of a part's log.

    Args:
        part: name of the part, or of a group.
        lines: how many lines.
    """
    for path in Platform(load_settings().home).log(part):
        if not path.exists():
            raise PartError(f"{path.stem} has no log yet; start it with `heartwatch up`")
        with path.open(encoding="utf-8", errors="replace") as file:
            print(f"==> {path} <==", *deque(file, maxlen=lines), sep="\n" if lines == 0 else "")


def kill(part: str, /, *, signal_name: Annotated[str, Parameter(name="--signal")] = "KILL") -> None:
    """Send a signal to a part, to see it restarted.

    Args:
        part: name of the part, or of a group.
        signal_name: KILL, TERM, STOP, CONT, …
    """
    try:
        number = signal.Signals[f"SIG{signal_name.upper().removeprefix('SIG')}"]
    except KeyError as error:
        raise PartError(f"{signal_name!r} is not a signal; use KILL, TERM, STOP or CONT") from error
    pids = Platform(load_settings().home).kill(part, number)
    print(f"sent {number.name} to {', '.join(map(str, pids))}")


def restart(part: str, /) -> None:
    """Stop and start a part.

    Args:
        part: name of the part, or of a group.
    """
    Platform(load_settings().home).restart(part)


def clean() -> None:
    """Stop the platform and remove all its data; downloaded packages stay."""
    print(f"removed {clean_home(load_settings().home)}")


@packages.command
def install() -> None:
    """Download the packages now; `heartwatch up` does it otherwise."""
    with _Display(Console()) as display:
        pinned = Packages()
        pinned.install(display.packages)
    print(pinned.folder)


@packages.command
def lock() -> None:
    """Resolve packages.toml again and write packages.lock."""
    files = write_lock()
    print(f"locked {len(files)} files, {sum(file.size for file in files) >> 20} MiB")


def _names(text: str) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] or None


class _Display(StartProgress):
    """Shows the progress of a start in place."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            TextColumn("packages"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("packages", visible=False)
        self._live = Live(self._bar, console=console, transient=True)

    def __enter__(self) -> _Display:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def packages(self, done: int, total: int) -> None:
        """Show the download."""
        self._bar.update(self._task, completed=done, total=total, visible=True)

    def parts(self, wanted: list[str], records: dict[str, PartRecord]) -> None:
        """Show the parts' states."""
        table = Table.grid(padding=(0, 2))
        for name in wanted:
            state = records[name].state if name in records else PartState.STOPPED
            label = "waiting" if state is PartState.STOPPED else str(state)
            table.add_row(name, f"[{_STYLES[state]}]{label}[/]")
        self._live.update(table)


def _print_status(console: Console, statuses: list[PartStatus]) -> None:
    # Fits into 80 columns.
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("part", "state", "address", "health", "pid", "memory", "restarts"):
        # A reason may be long; the rest must stay whole.
        table.add_column(heading, no_wrap=heading != "health", min_width=len(heading) + 1)
    for item in statuses:
        health = {True: "[green]healthy[/]", False: f"[red]{item.reason}[/]", None: item.reason}[item.healthy]
        table.add_row(
            item.name,
            f"[{_STYLES[item.state]}]{item.state}[/]",
            item.address,
            health,
            str(item.pid or ""),
            f"{item.memory_bytes >> 20} MiB" if item.memory_bytes else "",
            str(item.restarts),
        )
    console.print(table)
