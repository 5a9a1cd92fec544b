"""What the platform remembers in its home: the state file (addresses, processes) and the secrets."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from heartwatch.platform.elsewhere import Elsewhere
from heartwatch.platform.errors import DamagedStateError, PlatformError
from heartwatch.platform.processes import ProcessId
from heartwatch.platform.rights import OPERATOR, SERVICES

AUTHORITY = "heartwatch"
"""Beginning of the names in a secured platform's certificates."""

TRUST_PASSWORD = "authority"  # noqa: S105 - Java wants one; an authority's certificate is no secret


class PartState(StrEnum):
    """Where a part is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass
class PartRecord:
    """What is known of one part."""

    state: PartState = PartState.STOPPED
    process: ProcessId | None = None
    restarts: int = 0
    error: str = ""


@dataclass
class PlatformState:
    """The content of ``state.json``; only the supervisor writes it."""

    brokers: int = 1
    secured: bool = False
    elsewhere: Elsewhere | None = None
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    ports: dict[str, int] = field(default_factory=dict)
    supervisor: ProcessId | None = None
    control: str = ""
    parts: dict[str, PartRecord] = field(default_factory=dict)


def read_state(home: Path) -> PlatformState | None:
    """Read the state file; None when there is none yet.

    Raises:
        DamagedStateError: the file is damaged.
    """
    path = home / "state.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: _part_record(record) for name, record in values.pop("parts").items()}
        elsewhere = Elsewhere(**values["elsewhere"]) if values.get("elsewhere") else None
        supervisor = _process_id(values["supervisor"])
        return PlatformState(**{**values, "elsewhere": elsewhere, "supervisor": supervisor, "parts": parts})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedStateError(
            f"{str(path)!r} is damaged ({error}); run `heartwatch clean` and start again"
        ) from error


def _process_id(values: Mapping[str, Any] | None) -> ProcessId | None:
    return ProcessId(**values) if values else None


def _part_record(values: Mapping[str, Any]) -> PartRecord:
    return PartRecord(**{**values, "state": PartState(values["state"]), "process": _process_id(values["process"])})


def write_state(home: Path, state: PlatformState) -> None:
    """Write the state file; readers see the old or the new one, never a part."""
    write_atomically(home / "state.json", json.dumps(asdict(state), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file, which only its owner may read, under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readable by its owner only.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_toml(path: Path, values: Mapping[str, Any], comment: str) -> None:
    """Write a TOML file with a comment on top."""
    import tomli_w  # noqa: PLC0415  of the extra `local`: what only reads a state does without it

    write_atomically(path, f"# {comment}\n{tomli_w.dumps(values)}")


def load_secrets(home: Path, secured: bool = False) -> dict[str, dict[str, str]]:
    """Return the platform's passwords, shaped as the settings; made at random the first time they are missing, and kept.

    Raises:
        PlatformError: the file can't be read.
    """
    return _kept(home / "secrets.toml", {**_new_secrets(), **(_operators(load_accounts(home)) if secured else {})})


def load_accounts(home: Path) -> dict[str, dict[str, str]]:
    """Return the passwords of a secured platform's components, by service and account; made at random the first time, and kept.

    Each service has passwords of its own: one that is told a password can't log in to another one with it.

    Raises:
        PlatformError: the file can't be read.
    """
    new = {service: {one: secrets.token_urlsafe(24) for one in accounts} for service, accounts in SERVICES.items()}
    return _kept(home / "accounts.toml", new)


def _kept(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Return what a file has, and of what it hasn't the new values, which it gets."""
    try:
        kept = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise PlatformError(f"{str(path)!r} can't be read ({error}); fix it, or run `heartwatch clean`") from error
    values = {**new, **kept}
    if values.keys() != kept.keys():
        write_toml(path, values, "Made by `heartwatch up`; only its owner may read it.")
    return values


def _operators(accounts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return what the operator logs in with, as the settings have it."""
    names = {"kafka": "sasl_password", "ksqldb": "password", "registry": "password"}
    return {service: {name: accounts[service][OPERATOR]} for service, name in names.items()}


def _new_secrets() -> dict[str, dict[str, str]]:
    return {
        "postgres": {"password": secrets.token_urlsafe(24)},
        "s3": {"access_key_id": secrets.token_hex(10), "secret_access_key": secrets.token_urlsafe(30)},
        "connect": {"password": secrets.token_urlsafe(24)},
        "web": {"secret": secrets.token_urlsafe(18)},
        "prefect": {"auth_string": f"heartwatch:{secrets.token_urlsafe(18)}"},
    }
