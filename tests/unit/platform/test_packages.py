from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import requests
import stamina

from heartwatch.platform import packages
from heartwatch.platform.errors import PackageError
from heartwatch.platform.packages import Coordinate, LockedFile, Packages

CONTENT = b"a jar"
JAR = Coordinate("org.example", "thing", "1.0")
LOCKED = LockedFile("set", JAR, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "packages.toml"
    path.write_text(
        '[versions]\nthing = "1.0"\n[sets.set]\nartifacts = ["org.example:thing:{thing}"]\nservices = {a = "b"}\n'
    )
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "packages.lock"
    path.write_text(f"# comment\nset {JAR} {LOCKED.sha256} {LOCKED.size}\n")
    return path


def test_the_lock_has_every_artifact_that_the_manifest_names() -> None:
    locked = {(file.set_name, file.coordinate) for file in packages.read_lock()}
    named = {
        (package_set.name, coordinate)
        for package_set in packages.read_manifest().values()
        for coordinate in (package_set.artifacts or (package_set.archive,))
    }
    assert named <= locked
    assert {name for name, _ in locked} == set(packages.read_manifest())


def test_the_lock_names_no_address() -> None:
    assert "://" not in packages.LOCK.read_text(encoding="utf-8")
    assert all(len(file.sha256) == 64 and file.size > 0 for file in packages.read_lock())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("g.h:a:1", "g/h/a/1/a-1.jar"),
        ("g.h:a:1:tar.gz:plugin", "g/h/a/1/a-1-plugin.tar.gz"),
        ("g.h:a:1:jar", "g/h/a/1/a-1.jar"),
    ],
)
def test_a_coordinate_tells_its_place_and_reads_back(text: str, path: str) -> None:
    coordinate = Coordinate.parse(text)
    assert coordinate.path == Path(path)
    assert Coordinate.parse(str(coordinate)) == coordinate


@pytest.mark.parametrize("text", ["a:b", "a", "a:b:1:jar:c:d"])
def test_a_wrong_coordinate_is_named(text: str) -> None:
    with pytest.raises(PackageError, match=f"'{text}' is not a coordinate"):
        Coordinate.parse(text)


def test_a_wrong_line_of_the_lock_is_named(tmp_path: Path) -> None:
    path = tmp_path / "packages.lock"
    path.write_text("set a:b:1 hash\n")
    with pytest.raises(PackageError, match="wrong line 'set a:b:1 hash'"):
        packages.read_lock(path)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[Coordinate]:
    """Let the registry give this content; return what is asked of it."""
    asked = []

    def resolve(coordinate: Coordinate, folder: Path, meter: packages._Meter) -> Path:
        asked.append(coordinate)
        path = folder / coordinate.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        with meter.download(coordinate.filename, len(content)) as add:
            add(len(content))
        return path

    monkeypatch.setattr(packages, "_resolve", resolve)
    return asked


def test_install_lays_out_the_sets_once(
    tmp_path: Path, lock: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, CONTENT)
    pinned = Packages(tmp_path / "cache", lock, manifest)
    assert not pinned.installed
    reports: list[tuple[int, int]] = []
    pinned.install(lambda done, total: reports.append((done, total)))
    assert reports == [(0, len(CONTENT)), (len(CONTENT), len(CONTENT))]
    assert [path.name for path in pinned.jars("set")] == ["org.example.thing-1.0.jar", "services.jar"]
    with zipfile.ZipFile(pinned.path("set") / "services.jar") as jar:
        assert jar.read("META-INF/services/a") == b"b\n"
    pinned.install()
    assert asked == [JAR]


def test_a_file_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, lock: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, b"not a")
    pinned = Packages(tmp_path / "cache", lock, manifest)
    with pytest.raises(PackageError, match=r"'org.example:thing:1.0:jar' has SHA-256 .*, pinned is"):
        pinned.install()
    assert not pinned.installed
    assert list((tmp_path / "cache" / "artifacts").rglob("*.jar")) == []


def test_a_corrupted_file_in_the_cache_is_fetched_again(
    tmp_path: Path, lock: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, CONTENT)
    damaged = tmp_path / "cache" / "artifacts" / JAR.path
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"a jam")
    Packages(tmp_path / "cache", lock, manifest).install()
    assert asked == [JAR]
    assert damaged.read_bytes() == CONTENT


def test_an_interrupted_install_goes_on_with_what_is_missing(
    tmp_path: Path, lock: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "cache" / "artifacts" / JAR.path
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT)
    asked = serve(monkeypatch, CONTENT)
    Packages(tmp_path / "cache", lock, manifest).install()
    assert asked == []


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(requests, "request", refuse)
    stamina.set_testing(True, attempts=1)
    try:
        with pytest.raises(PackageError, match=r"can't be reached for .*check the network"):
            packages.download([LOCKED], tmp_path, lambda _done, _total: None)
    finally:
        stamina.set_testing(False)


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, lock: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages, "download", full)
    with pytest.raises(PackageError, match=r"the disk of .* is full; make room"):
        Packages(tmp_path / "cache", lock, manifest).install()


def test_too_little_room_is_noticed_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"MiB free and the packages need \d+ MiB"):
        packages._check_room(tmp_path, [LockedFile("set", JAR, "", 1 << 60)])
