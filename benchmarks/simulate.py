"""How fast people, events and ranges are made, read and loaded.

Run it with ``python -m benchmarks.simulate``; with ``--load`` it also starts the embedded Postgres and loads two million ranges.
The generators use one core; rates are rows a second of wall time and of this process's CPU time.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psycopg2

from heartwatch.files.rejects import RejectFile
from heartwatch.files.samples import SCHEMA
from heartwatch.platform.platform import Platform
from heartwatch.ranges.generate import generate_ranges, write_ranges
from heartwatch.ranges.load import load_ranges
from heartwatch.ranges.read import read_ranges
from heartwatch.settings import ROOT, load_settings
from heartwatch.simulate.people import people_chunks
from heartwatch.simulate.replay import Replay
from heartwatch.simulate.simulation import FaultRates, Simulation
from heartwatch.simulate.truth import expected_windows, truth
from heartwatch.simulate.uniform import UniformGenerator

START = datetime(2026, 3, 4, 22, 30, tzinfo=UTC)
ROWS = 2_000_000
BATCH = 20_000


def measure(name: str, work: Callable[[], int]) -> None:
    """Print how many rows a second some work gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:<42} {rows:>10,} rows {wall:6.2f} s {rows / wall:>12,.0f}/s {rows / cpu:>12,.0f}/CPU s  peak {memory:,.0f} MiB"
    )


def simulated(simulation: Simulation) -> int:
    """Generate all events of a simulation."""
    return sum(batch.records.num_rows for batch in simulation.batches(BATCH))


def uniform() -> int:
    """Generate two million of the original's events."""
    schema = json.loads((ROOT / "schemas" / "heart_rate" / "realtime.avsc").read_text(encoding="utf-8"))
    generator = UniformGenerator(schema, 1)
    return sum(generator.batch(first, BATCH, 0).num_rows for first in range(0, ROWS, BATCH))


def replayed() -> int:
    """Replay an hour of samples for 500 people."""
    recording = pl.DataFrame({"event_time": pl.Series(range(3_600), dtype=pl.Int64) * 1_000}).with_columns(
        pl.col("event_time").cast(SCHEMA["event_time"]), latitude=40.7, longitude=-73.9, heart_rate=150
    )
    replay = Replay([recording], START, people=500, stagger_ms=600_000)
    return sum(batch.records.num_rows for batch in replay.batches(BATCH))


@contextmanager
def database(folder: Path) -> Iterator[None]:
    """Run the embedded Postgres."""
    platform = Platform(folder / "home", ("postgres",))
    platform.up()
    try:
        yield
    finally:
        platform.clean()


def load(folder: Path, file: Path) -> None:
    """Load two million ranges from a file: into an empty table, once more, and with each changed."""
    with database(folder):
        server = load_settings(home=folder / "home").postgres
        secret = server.password.get_secret_value()
        where = {"host": server.host, "port": server.port, "dbname": server.database, "user": server.user}

        def loaded(changed: int) -> int:
            with (
                RejectFile(folder / "rejects.jsonl") as rejects,
                closing(psycopg2.connect(password=secret, **where)) as connection,
            ):
                frames = (f.with_columns(pl.col("max_heart_rate") + changed) for f in read_ranges(file, rejects))
                return load_ranges(connection, frames, "benchmark", rejects=rejects).read

        for name, changed in (("new", 0), ("unchanged", 0), ("all changed", 1)):
            measure(f"read and load ranges, {name}", lambda changed=changed: loaded(changed))  # type: ignore[misc]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", action="store_true", help="load two million ranges into the embedded Postgres too")
    arguments = parser.parse_args()
    measure("people", lambda: sum(chunk.height for chunk in people_chunks(1, ROWS)))
    defaults = Simulation(seed=1, start=START)
    measure("simulator, 20,000 people", lambda: simulated(defaults))
    measure("simulator, without faults", lambda: simulated(Simulation(seed=1, start=START, faults=FaultRates.none())))
    measure("truth, intervals", lambda: truth(defaults).height)
    measure("truth, expected windows", lambda: expected_windows(defaults).height)
    measure("uniform", uniform)
    measure("recordings, 500 people", replayed)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "ranges.jsonl"
        measure("write ranges as JSON lines", lambda: write_ranges(generate_ranges(1, ROWS), file))
        with RejectFile(Path(name) / "rejects.jsonl") as rejects:
            measure("read ranges from JSON lines", lambda: sum(f.height for f in read_ranges(file, rejects)))
        if arguments.load:
            load(Path(name), file)


if __name__ == "__main__":
    main()
