"""Empty environments with the wheels in them: what a user gets who installs them, without this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heartwatch.settings import ROOT

UV = ROOT / ".cache/bootstrap/bin/uv"
LOCK = ROOT / "requirements/requirements.lock"


@dataclass(frozen=True)
class Environment:
    """An environment, and an empty folder and home to run its programs in."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "venv/bin/python"

    @property
    def variables(self) -> dict[str, str]:
        """The variables its programs see: none of the project's or of this checkout's."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HEARTWATCH_", "PREFECT_", "PYTHON", "XDG_DATA", "VIRTUAL_ENV"))
        }
        return {**kept, "XDG_DATA_HOME": str(self.folder / "data"), "PREFECT_HOME": str(self.folder / "prefect")}

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run one of its programs and return what it printed, errors too."""
        program = self.python.parent / str(command[0])
        done = subprocess.run(
            [program, *command[1:]],
            cwd=self.work,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start one of its programs; what it prints goes to `program.log` in its folder."""
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            program = self.python.parent / str(command[0])
            return subprocess.Popen([program, *command[1:]], cwd=self.work, env=self.variables, stdout=log, stderr=log)

    @property
    def work(self) -> Path:
        """The folder its programs run in."""
        return self.folder / "work"

    def modules(self, names: Sequence[str]) -> set[str]:
        """Return which of these modules are there."""
        text = f"import importlib.util as u; print(*[n for n in {list(names)!r} if u.find_spec(n)])"
        return set(self.run("python", "-c", text).split())


def build(folder: Path) -> dict[str, Path]:
    """Build the wheels, and return them by the name of their distribution."""
    options = ["--quiet", "--offline", "--no-build-isolation", "--python", sys.executable, "--wheel", "--all-packages"]
    subprocess.run([UV, "build", *options, "--out-dir", folder], cwd=ROOT, check=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def install(folder: Path, wheels: Sequence[Path], extra: str | None = None) -> Environment:
    """Make an environment with wheels in it and, in the versions of the lock, what they say that they need.

    Args:
        folder: of the environment.
        wheels: files; what they need of each other must be among them.
        extra: of the last one.
    """
    environment = _empty(folder)
    wanted = [
        *wheels[:-1],
        f"{wheels[-1].name.partition('-')[0]}{f'[{extra}]' if extra else ''} @ {wheels[-1].as_uri()}",
    ]
    options = ["--quiet", "--python", environment.python, "--constraint", LOCK]
    subprocess.run([UV, "pip", "install", *options, *wanted], check=True)
    return environment


def install_locked(folder: Path, wheels: Sequence[Path], lock: Path) -> Environment:
    """Make an environment as an image has it: what a lock file says, the wheels, and nothing that these say that they need."""
    environment = _empty(folder)
    options = ["--quiet", "--python", environment.python]
    subprocess.run([UV, "pip", "install", *options, "--require-hashes", "--requirement", lock], check=True)
    subprocess.run([UV, "pip", "install", *options, "--no-deps", *wheels], check=True)
    subprocess.run([UV, "pip", "check", *options], check=True)
    return environment


def _empty(folder: Path) -> Environment:
    environment = Environment(folder)
    environment.work.mkdir(parents=True)
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    return environment
