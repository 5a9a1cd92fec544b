"""Run all benchmarks, on a small platform of their own: ``python -m benchmarks`` (``make bench``)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from heartwatch.platform.platform import Platform

_BENCHMARKS = (
    ["benchmarks.simulate", "--load"],
    ["benchmarks.engine_throughput"],
    ["benchmarks.engine_latency"],
    ["benchmarks.sink_proof"],
)
_OF_THE_WHOLE = (
    ["benchmarks.web_viewers", "--turns", "2", "--seconds", "10"],
    ["benchmarks.web_load"],
)


def main() -> None:
    """Start the parts that the benchmarks need, run each in a process of its own, and stop the parts again.

    The page's come last: they need all of them.
    """
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        platform = Platform(home, ("kafka", "registry", "postgres", "s3"))
        environment = {**os.environ, "HEARTWATCH_HOME": str(home), "HEARTWATCH_PROFILE": "local"}
        try:
            platform.up()
            for arguments in _BENCHMARKS:
                print(f"\n{arguments[0]}")
                subprocess.run([sys.executable, "-m", *arguments], env=environment, check=True)
            platform = Platform(home)
            platform.up()
            environment = {**platform.environment(), "HEARTWATCH_PROFILE": "local"}
            for arguments in _OF_THE_WHOLE:
                print(f"\n{arguments[0]}")
                subprocess.run([sys.executable, "-m", *arguments], env=environment, check=True)
        finally:
            platform.clean()


if __name__ == "__main__":
    main()
