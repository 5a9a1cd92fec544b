from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from heartwatch.platform import processes
from heartwatch.platform.errors import PlatformError
from heartwatch.platform.platform import clean
from heartwatch.platform.processes import ProcessId
from heartwatch.platform.services import all_parts
from heartwatch.platform.state import PartRecord, PartState, PlatformState, load_secrets, read_state, write_state
from heartwatch.platform.supervisor import stop_leftovers

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def test_the_state_reads_back_as_written(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    state = PlatformState(
        brokers=3,
        ports={"kafka-1": 11_000},
        supervisor=ProcessId(1, 2.5),
        parts={"kafka-1": PartRecord(PartState.RESTARTING, ProcessId(7, 8.25), 2, "why"), "s3": PartRecord()},
    )
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"parts": {}}', '{"parts": {"a": {}}, "supervisor": null}'])
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(PlatformError, match=r"state\.json' is damaged"):
        read_state(tmp_path)


def test_a_home_with_a_damaged_state_is_cleaned(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "state.json").write_text("{")
    with start(home, "kafka-1") as process:
        assert clean(home) == home
        process.wait(10)
    assert not home.exists()


@pytest.mark.parametrize("files", [("letters.txt",), ("letters.txt", "state.json")])
def test_a_folder_that_holds_more_than_a_platform_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]
) -> None:
    write_state(tmp_path, PlatformState())
    (tmp_path / "letters.txt").touch()
    if "state.json" in files:
        monkeypatch.setenv("HOME", str(tmp_path))
    else:
        (tmp_path / "state.json").unlink()
    with pytest.raises(PlatformError, match="isn't a platform's alone"):
        clean(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(files)


def test_secrets_are_made_once_and_only_for_their_owner(tmp_path: Path) -> None:
    first = load_secrets(tmp_path)
    assert load_secrets(tmp_path) == first
    assert load_secrets(tmp_path / "other") != first
    assert stat.S_IMODE((tmp_path / "secrets.toml").stat().st_mode) == 0o600


def start(home: Path, part: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **processes.mark(home, part)}
    process = subprocess.Popen(SLEEPER, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    return process


def test_a_later_process_with_the_same_pid_is_not_taken_for_the_earlier(tmp_path: Path) -> None:
    with start(tmp_path, "kafka-1") as process:
        identity = ProcessId.of(process.pid)
        assert identity
        assert identity.process() is not None
        assert ProcessId(process.pid, identity.created - 60).process() is None
        process.kill()
        process.wait()
    assert identity.process() is None


def test_marked_processes_are_those_of_this_home_and_part(tmp_path: Path) -> None:
    with (
        start(tmp_path / "a", "kafka-1") as one,
        start(tmp_path / "a", "s3") as two,
        start(tmp_path / "ab", "s3") as other,
    ):
        assert {process.pid for process in processes.marked(tmp_path / "a")} == {one.pid, two.pid}
        assert {process.pid for process in processes.marked(tmp_path / "a", "s3")} == {two.pid}
        for process in (one, two, other):
            process.kill()


def test_leftovers_are_stopped_and_strangers_are_not(tmp_path: Path) -> None:
    with (
        start(tmp_path, "registry") as recorded,
        start(tmp_path, "s3") as marked,
        subprocess.Popen(SLEEPER) as stranger,
    ):
        state = PlatformState(
            parts={
                "registry": PartRecord(PartState.RUNNING, ProcessId.of(recorded.pid)),
                # A pid that another program has by now.
                "s3": PartRecord(PartState.RUNNING, ProcessId(stranger.pid, time.time() - 3600)),
            }
        )
        assert stop_leftovers(tmp_path, all_parts(), state) == ["registry"]
        assert not psutil.pid_exists(recorded.pid)
        assert not psutil.pid_exists(marked.pid)
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        assert not processes.stop(psutil.Process(process.pid), 15, 0.2)
        assert not psutil.pid_exists(process.pid)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
