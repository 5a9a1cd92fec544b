"""The pinned JVM packages: resolved once into a lock file, downloaded and checked into a cache that checkouts share.

``packages.toml`` names the versions, ``packages.lock`` every file of them with its SHA-256 and size. The cache
(``$XDG_CACHE_HOME/heartwatch``, or ``~/.cache/heartwatch``) holds each file once under ``artifacts/`` and, per state of the lock,
the folders that the servers use. Files are renamed into place only after their hash was checked, so an interrupted
download leaves nothing wrong behind and goes on with the files that are missing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tarfile
import tempfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stamina

from heartwatch.platform.errors import PackageError

Report = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all."""

MANIFEST = Path(__file__).with_name("packages.toml")
LOCK = Path(__file__).with_name("packages.lock")
_PARALLEL_DOWNLOADS = 12
_TIMEOUT_SECONDS = 60
_HEADER = (
    "# Written by `heartwatch packages lock`: set, group:artifact:version:packaging[:classifier], SHA-256, bytes.\n"
)


@dataclass(frozen=True, order=True)
class Coordinate:
    """One file of a Maven repository."""

    group: str
    artifact: str
    version: str
    packaging: str = "jar"
    classifier: str = ""

    @classmethod
    def parse(cls, text: str) -> Coordinate:
        """Read ``group:artifact:version[:packaging[:classifier]]``.

        Raises:
            PackageError: the text has another shape.
        """
        parts = text.split(":")
        if not 3 <= len(parts) <= 5:
            raise PackageError(f"{text!r} is not a coordinate; write group:artifact:version[:packaging[:classifier]]")
        return cls(*parts)

    def __str__(self) -> str:
        return ":".join([self.group, self.artifact, self.version, self.packaging, self.classifier]).rstrip(":")

    @property
    def filename(self) -> str:
        """Name of the file in a repository."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{suffix}.{self.packaging}"

    @property
    def path(self) -> Path:
        """Path of the file inside a repository."""
        return Path(*self.group.split("."), self.artifact, self.version, self.filename)


@dataclass(frozen=True)
class LockedFile:
    """A line of the lock."""

    set_name: str
    coordinate: Coordinate
    sha256: str
    size: int


@dataclass(frozen=True)
class PackageSet:
    """What one folder of the cache is made of: a tree of jars, or an archive."""

    name: str
    artifacts: tuple[Coordinate, ...] = ()
    archive: Coordinate | None = None
    managed: bool = False
    exclude: tuple[str, ...] = ()
    services: dict[str, str] = field(default_factory=dict)


def read_manifest(path: Path = MANIFEST) -> dict[str, PackageSet]:
    """Read the package sets, their versions filled in."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _package_set(name, table, values["versions"]) for name, table in values["sets"].items()}


def _package_set(name: str, table: dict[str, Any], versions: dict[str, str]) -> PackageSet:
    def coordinate(text: str) -> Coordinate:
        return Coordinate.parse(text.format(**versions))

    return PackageSet(
        name=name,
        artifacts=tuple(coordinate(text) for text in table.get("artifacts", [])),
        archive=coordinate(table["archive"]) if "archive" in table else None,
        managed=table.get("managed", False),
        exclude=tuple(table.get("exclude", [])),
        services=table.get("services", {}),
    )


def read_lock(path: Path = LOCK) -> list[LockedFile]:
    """Read the lock.

    Raises:
        PackageError: the file is missing or a line has another shape.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise PackageError(f"{str(path)!r} is missing; restore it, or run `heartwatch packages lock`") from error
    return [_locked_file(line, path) for line in lines if line and not line.startswith("#")]


def _locked_file(line: str, path: Path) -> LockedFile:
    try:
        set_name, coordinate, sha256, size = line.split()
        return LockedFile(set_name, Coordinate.parse(coordinate), sha256, int(size))
    except ValueError as error:
        raise PackageError(f"{str(path)!r} has a wrong line {line!r}; run `heartwatch packages lock`") from error


def cache_root() -> Path:
    """Return the folder that all checkouts of this user share."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "heartwatch"


class Packages:
    """The packages of one lock in one cache."""

    def __init__(self, cache: Path | None = None, lock: Path = LOCK, manifest: Path = MANIFEST) -> None:
        self.cache = cache or cache_root()
        self._sets = read_manifest(manifest)
        self.files = read_lock(lock)
        digest = hashlib.sha256(lock.read_bytes() + manifest.read_bytes()).hexdigest()
        self.folder = self.cache / digest[:16]

    @property
    def installed(self) -> bool:
        """Whether every set is there."""
        return self.folder.is_dir()

    def path(self, set_name: str) -> Path:
        """Return the folder of a set."""
        return self.folder / set_name

    def jars(self, set_name: str) -> list[Path]:
        """Return the jars of a set, in a stable order."""
        return sorted(self.path(set_name).glob("*.jar"))

    def install(self, report: Report = lambda _done, _total: None) -> None:
        """Download what is missing, check it and lay out the sets' folders; costs nothing when it is all there.

        Raises:
            PackageError: no network, no room, or a file that isn't the pinned one; the message says what to do.
        """
        if self.installed:
            return
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with _exclusive(self.cache / "lock"):
                if not self.installed:
                    _check_room(self.cache, self.files)
                    download(self.files, self.cache / "artifacts", report)
                    self._lay_out()
        except OSError as error:
            raise _disk_error(error, self.cache) from error

    def _lay_out(self) -> None:
        """Build the sets' folders beside their final place and rename them into it at once."""
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=self.cache))
        try:
            for package_set in self._sets.values():
                folder = building / package_set.name
                folder.mkdir(parents=True, exist_ok=True)
                for file in self.files:
                    if file.set_name == package_set.name:
                        _place(self.cache / "artifacts" / file.coordinate.path, file.coordinate, folder)
                if package_set.services:
                    write_services_jar(folder / "services.jar", package_set.services)
            building.chmod(0o755)
            building.rename(self.folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _place(source: Path, coordinate: Coordinate, folder: Path) -> None:
    if coordinate.packaging == "tar.gz":
        with tarfile.open(source) as archive:
            archive.extractall(folder)  # noqa: S202  the archive is pinned by its hash
        return
    # Artifacts of two groups may share a file name.
    os.link(source, folder / f"{coordinate.group}.{coordinate.filename}")


def write_services_jar(path: Path, services: dict[str, str]) -> None:
    """Write a jar that names implementations for Java's ServiceLoader.

    Args:
        path: the jar.
        services: interface name to implementation name.
    """
    with zipfile.ZipFile(path, "w") as jar:
        for interface, implementation in services.items():
            jar.writestr(f"META-INF/services/{interface}", f"{implementation}\n")


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it is released even when the process is killed."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_room(cache: Path, files: list[LockedFile]) -> None:
    # Archives are kept beside their extracted content.
    needed = 2 * sum(file.size for file in files)
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise PackageError(
            f"{str(cache)!r} has {free >> 20} MiB free and the packages need {needed >> 20} MiB; "
            "make room or set XDG_CACHE_HOME to a folder on another disk"
        )


def _disk_error(error: OSError, cache: Path) -> PackageError:
    if error.errno == errno.ENOSPC:
        return PackageError(
            f"the disk of {str(cache)!r} is full; make room or set XDG_CACHE_HOME to another disk's folder"
        )
    return PackageError(
        f"{error.filename or str(cache)!r} can't be written: {error.strerror}; check its owner and mode"
    )


def download(files: list[LockedFile], artifacts: Path, report: Report) -> None:
    """Bring all files into `artifacts`, several at once, each checked before it gets its final name.

    Raises:
        PackageError: no network, or a file that isn't the pinned one.
    """
    unique = {file.coordinate: file for file in files}
    missing = [file for file in unique.values() if not _is_right(artifacts / file.coordinate.path, file)]
    total = sum(file.size for file in unique.values())
    meter = _Meter(total - sum(file.size for file in missing), total, report)
    artifacts.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".partial-", dir=artifacts) as partial,
        ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as executor,
    ):
        # The largest first: the last one to end is then a small one.
        largest_first = sorted(missing, key=lambda file: -file.size)
        futures = [executor.submit(_fetch, file, Path(partial), artifacts, meter) for file in largest_first]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            meter.stopped = True
            executor.shutdown(wait=False, cancel_futures=True)
            raise


class _Meter:
    """Adds up what the downloads bring, and ends them when one of them failed or the user interrupts."""

    def __init__(self, done: int, total: int, report: Report) -> None:
        self.stopped = False
        self._done, self._total, self._report = done, total, report
        self._lock = threading.Lock()
        report(done, total)

    @contextmanager
    def download(self, _filename: str, _size: int) -> Iterator[Callable[[int], None]]:
        """Meter one download (jgo's interface for progress displays)."""
        yield self._add

    def _add(self, count: int) -> None:
        if self.stopped:
            raise PackageError("the download was interrupted; run the same command again: what was downloaded is kept")
        with self._lock:
            self._done += count
            self._report(self._done, self._total)


def _is_right(path: Path, file: LockedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256


def _fetch(file: LockedFile, partial: Path, artifacts: Path, meter: _Meter) -> None:
    path = _resolve(file.coordinate, partial, meter)
    found = sha256(path)
    if found != file.sha256:
        raise PackageError(
            f"{str(file.coordinate)!r} has SHA-256 {found}, pinned is {file.sha256}; "
            "what the registry gave is not the pinned file: try again, and if it stays so, don't use it"
        )
    target = artifacts / file.coordinate.path
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)


def _resolve(coordinate: Coordinate, folder: Path, meter: _Meter | None = None) -> Path:
    """Download one file into `folder` with jgo, without its dependencies."""
    import requests  # noqa: PLC0415  slow to import, and only needed for a download
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    resolver = PythonResolver(progress_callback=meter.download if meter else None)
    context = MavenContext(resolver, repo_cache=folder, timeout=_TIMEOUT_SECONDS)
    project = context.project(coordinate.group, coordinate.artifact)
    artifact = project.at_version(coordinate.version).artifact(coordinate.classifier, coordinate.packaging)
    try:
        for attempt in stamina.retry_context(on=requests.RequestException, attempts=4, timeout=120):
            with attempt:
                (folder / coordinate.path).unlink(missing_ok=True)
                return Path(artifact.resolve())
    except requests.RequestException as error:
        raise PackageError(
            f"the Maven registry can't be reached for {str(coordinate)!r} ({type(error).__name__}); "
            "check the network, then run the same command again: what was downloaded is kept"
        ) from error
    except RuntimeError as error:
        raise PackageError(f"the Maven registry doesn't have {str(coordinate)!r}; correct {MANIFEST.name}") from error
    raise AssertionError("unreachable: an attempt returns or raises")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_lock(lock: Path = LOCK, manifest: Path = MANIFEST) -> list[LockedFile]:
    """Resolve the manifest's sets with all they depend on, and write the lock.

    Raises:
        PackageError: no network, or the registry lacks a file.
    """
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary)
        pairs = [
            (package_set.name, coordinate)
            for package_set in read_manifest(manifest).values()
            for coordinate in sorted(_tree(package_set, repository))
        ]
        with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as executor:
            unique = sorted({coordinate for _, coordinate in pairs})
            paths = dict(zip(unique, executor.map(lambda item: _resolve(item, repository), unique), strict=True))
        files = [LockedFile(name, item, sha256(paths[item]), paths[item].stat().st_size) for name, item in pairs]
    text = "".join(f"{file.set_name} {file.coordinate} {file.sha256} {file.size}\n" for file in files)
    lock.write_text(_HEADER + text, encoding="utf-8")
    return files


def _tree(package_set: PackageSet, repository: Path) -> set[Coordinate]:
    """Return the files of a set: its archive, or its artifacts with their dependencies."""
    from jgo.maven import MavenContext  # noqa: PLC0415

    if package_set.archive is not None:
        return {package_set.archive}
    context = MavenContext(repo_cache=repository, timeout=_TIMEOUT_SECONDS)
    # jgo takes each artifact for a bill of materials as well, unless "!" says otherwise.
    mark = "" if package_set.managed else "!"
    dependencies = [
        context.create_dependency(f"{item.group}:{item.artifact}:{item.version}{mark}")
        for item in package_set.artifacts
    ]
    inputs, transitive = context.resolver.resolve(dependencies)
    found = {
        Coordinate(item.groupId, item.artifactId, item.version, item.type, item.classifier)
        for item in inputs + transitive
    }
    return {item for item in found if not _excluded(item, package_set.exclude)}


def _excluded(coordinate: Coordinate, exclude: tuple[str, ...]) -> bool:
    return coordinate.group in exclude or f"{coordinate.group}:{coordinate.artifact}" in exclude
