"""What a part of the platform is."""

from __future__ import annotations

import os
import signal
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import httpx

from heartwatch.errors import HeartWatchError
from heartwatch.platform.elsewhere import Elsewhere
from heartwatch.platform.packages import Packages
from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.state import PlatformState, load_accounts, load_secrets


class NotHealthyError(HeartWatchError):
    """A part doesn't answer as it should (yet); the message says what it did instead."""


def client(context: Context) -> httpx.Client:
    """Return the HTTP client for the parts, which on a secured platform knows their authority."""
    return _client(context.certificate("ca").read_text(encoding="ascii") if context.secured else None)


@cache
def _client(authority: str | None) -> httpx.Client:
    """Return a client; making one costs more than many requests.

    Proxies are for addresses beyond this machine.
    """
    verify = ssl.create_default_context(cadata=authority) if authority else True
    return httpx.Client(timeout=10, trust_env=False, verify=verify)


@dataclass(frozen=True)
class Context:
    """What a part may know of the platform it belongs to.

    Attributes:
        home: folder of the platform's data.
        brokers: number of Kafka brokers.
        identity: random hex that tells this platform from others.
        ports: port by name.
        secrets: passwords, shaped as the settings.
        packages: the JVM packages.
        secured: whether all parts speak TLS and ask for a login.
        accounts: passwords of the components, by service and account; only a secured platform has them.
        elsewhere: the servers that are used instead of parts of its own; None without such.
    """

    home: Path
    brokers: int
    identity: str
    ports: Mapping[str, int]
    secrets: Mapping[str, Mapping[str, str]]
    packages: Packages
    secured: bool = False
    accounts: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    elsewhere: Elsewhere | None = None

    def login(self, account: str) -> dict[str, str]:
        """Return the environment variables with which a component logs in as itself, not as the operator."""
        if not self.secured:
            return {}
        names = {
            "kafka": ("SASL_USERNAME", "SASL_PASSWORD"),
            "registry": ("USER", "PASSWORD"),
            "ksqldb": ("USER", "PASSWORD"),
        }
        variables: dict[str, str] = {}
        for service, (user, password) in names.items():
            # An account that a service doesn't know gets in nowhere by it.
            known = self.accounts[service].get(account, "")
            variables |= {f"HEARTWATCH_{service.upper()}__{user}": account if known else ""}
            variables |= {f"HEARTWATCH_{service.upper()}__{password}": known}
        return variables

    def data(self, name: str) -> Path:
        """Return the data folder of a part."""
        return self.home / "data" / name

    def log(self, name: str) -> Path:
        """Return the log file of a part."""
        return self.home / "logs" / f"{name}.log"

    def address(self, name: str) -> str:
        """Return ``host:port`` of a named port."""
        return f"{LOOPBACK}:{self.ports[name]}"

    def certificate(self, name: str, kind: str = "pem") -> Path:
        """Return a file of the secured platform's certificates: "ca", or a part's, as "pem", "key", "both.pem"."""
        return self.home / "tls" / f"{name}.{kind}"

    @property
    def bootstrap_servers(self) -> str:
        """Return the brokers' addresses."""
        if self.elsewhere is not None:
            return self.elsewhere.bootstrap_servers
        return ",".join(self.address(f"kafka-{number}") for number in range(1, self.brokers + 1))


def platform_context(home: Path, state: PlatformState) -> Context:
    """Return what the parts of a home's platform may know of it; its secrets are made where they are missing."""
    return Context(
        home=home,
        brokers=state.brokers,
        identity=state.identity,
        ports=state.ports,
        secrets=load_secrets(home, state.secured),
        packages=Packages(),
        secured=state.secured,
        accounts=load_accounts(home) if state.secured else {},
        elsewhere=state.elsewhere,
    )


@dataclass(frozen=True)
class Account:
    """A system user that a part runs as."""

    uid: int
    gid: int


@dataclass
class Part(ABC):
    """One server: how it is prepared, started, checked and stopped.

    Attributes:
        name: its name in logs and status.
        group: name under which it is asked for; several parts may share one.
        depends_on: groups that must be healthy before it starts.
        follows: groups that it starts after and stops before, where they are wanted too.
        port_names: names of the ports it needs; the first one is shown as its address.
        memory_mib: what it takes at most, roughly.
        package_sets: JVM packages it needs.
        stop_signal: signal that asks it to end.
        stop_seconds: how long it may take to end before it is killed.
        start_seconds: how long it may take to become healthy.
        keeps_children: whether its child processes live on when it dies and is restarted.
    """

    name: str
    group: str
    depends_on: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    port_names: tuple[str, ...] = ()
    memory_mib: int = 100
    package_sets: tuple[str, ...] = ()
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 20.0
    start_seconds: float = 240.0
    keeps_children: bool = False
    scheme: ClassVar[str] = ""

    def prepare(self, context: Context) -> None:  # noqa: B027  most parts have nothing to prepare
        """Write what the server needs before it starts; safe to run again."""

    @abstractmethod
    def command(self, context: Context) -> list[str]:
        """Return the command line; it must hold no secret."""

    def stop_limit(self, context: Context) -> float:
        """Return how long it may take to end now, in seconds."""
        return self.stop_seconds

    def stopped(self, context: Context) -> None:  # noqa: B027  most parts leave nothing to do
        """Do what is to be done after it ended by itself."""

    def environment(self, context: Context) -> dict[str, str]:
        """Return the environment of the process."""
        return dict(os.environ)

    def account(self, context: Context) -> Account | None:
        """Return the system user to run as; None for the present one."""
        return None

    def folder(self, context: Context) -> Path:
        """Return the working folder of the process; one that every account can enter."""
        return Path("/")

    def paths_outside(self, context: Context) -> list[Path]:
        """Return files and folders that it leaves outside the home."""
        return []

    @abstractmethod
    def check(self, context: Context) -> None:
        """Ask the server whether it is well.

        Raises:
            NotHealthyError: it isn't, or not yet.
        """

    def configure(self, context: Context) -> None:  # noqa: B027  most parts have nothing to configure
        """Set up a healthy server (databases, buckets, …); safe to run again."""

    def settle(self, context: Context, running: Set[str]) -> None:  # noqa: B027  most parts have nothing to settle
        """Put an end to what an earlier start left half done; safe to run again.

        Args:
            context: the platform.
            running: groups of which a part runs now.
        """

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return its addresses, shaped as the settings."""
        return {}

    def client_variables(self, context: Context) -> dict[str, str]:
        """Return environment variables that programs need to use it."""
        return {}

    def address(self, context: Context) -> str:
        """Return the address that the status shows."""
        return self.scheme + context.address(self.port_names[0]) if self.port_names else ""


@dataclass
class HttpPart(Part):
    """A part whose health is a request over HTTP.

    Attributes:
        health_path: path that answers 2xx when it is well.
        speaks_tls: whether it does on a secured platform.
    """

    speaks_tls: ClassVar[bool] = True
    health_path: str = field(default="/", kw_only=True)

    def url(self, context: Context) -> str:
        """Return the address of its first port, with the scheme."""
        return f"{'https' if context.secured and self.speaks_tls else 'http'}://{context.address(self.port_names[0])}"

    def address(self, context: Context) -> str:
        """Return the address that the status shows."""
        return self.url(context)

    def credentials(self, context: Context) -> tuple[str, str] | None:
        """Return the user and the password that the health path asks for, if it does."""
        return None

    def check(self, context: Context) -> None:
        """Ask the health path."""
        try:
            response = client(context).get(self.url(context) + self.health_path, auth=self.credentials(context))
        except httpx.HTTPError as error:
            raise NotHealthyError(f"no answer ({type(error).__name__})") from error
        if not response.is_success:
            raise NotHealthyError(f"HTTP {response.status_code}")
