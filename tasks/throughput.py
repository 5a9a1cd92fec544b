"""Tasks that sample the stages of the pipeline."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from heartwatch.analytic import Analytic
from heartwatch.kafka import GroupOffset, KafkaAdmin, KafkaClientError, OffsetReader
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.throughput import Sample, StageRate, behind
from heartwatch.verify.topics import read_ranges
from tasks.artifacts import publish_table
from tasks.sink import sink_topics

REALTIME, QUERY, ALERTS = "realtime topic", "query", "alerts topic"
_QUERY_GROUP = "_confluent-ksql-"
_MOST_MARKERS = 1_000
_REMEMBERED = 60


@dataclass(frozen=True)
class _Reader:
    """A stage that reads a topic: its name, the topic and its consumer groups."""

    stage: str
    topic: str
    groups: tuple[str, ...]


class Sampler:
    """Takes samples of all stages: ends of topics, and the positions of the query's and the connectors' consumer groups."""

    def __init__(self, settings: Settings) -> None:
        """Find out which stages there are."""
        analytic = Analytic.of(settings.pipeline)
        self._kafka = settings.kafka
        self._admin = KafkaAdmin(settings.kafka, timeout_seconds=10)
        self._offsets = OffsetReader(settings.kafka)
        self._realtime, self._alerts = analytic.topic("realtime"), analytic.topic("alerts")
        # Every query's group is looked at; those that don't read the topic have no position in it.
        self._readers = [_Reader(QUERY, self._realtime, tuple(self._admin.groups(_QUERY_GROUP)))]
        for resource in sink_topics(analytic):
            group = f"connect-{analytic.name(resource + '_sink')}"
            self._readers.append(_Reader(f"{resource} sink", analytic.topic(resource), (group,)))

    @property
    def deployed(self) -> bool:
        """Whether the pipeline's topics are there."""
        return len(self._admin.describe([self._realtime, self._alerts])) == 2

    def sample(self, settled: bool = False) -> Sample:
        """Take a sample.

        Args:
            settled: look whether there are records at all between a stage and its topic's end: the last offsets of a topic
                are markers of transactions, which nobody commits.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        ends = self._offsets.ends([self._realtime, self._alerts])
        heads = {
            topic: {partition: end for (name, partition), end in ends.items() if name == topic}
            for topic in (self._realtime, self._alerts)
        }
        positions = {REALTIME: sum(heads[self._realtime].values()), ALERTS: sum(heads[self._alerts].values())}
        behind_heads = {}
        for reader in self._readers:
            found = self._positions(reader)
            if settled:
                found = self._past_markers(reader.topic, found, heads[reader.topic])
            positions[reader.stage], behind_heads[reader.stage] = behind(found, heads[reader.topic])
        return Sample(time.time(), positions, behind_heads)

    def _past_markers(self, topic: str, found: dict[int, int], ends: dict[int, int]) -> dict[int, int]:
        """Return the positions, moved to the end where no record lies between."""
        left = {partition: (found.get(partition, 0), end) for partition, end in ends.items()}
        near = {partition: span for partition, span in left.items() if 0 < span[1] - span[0] <= _MOST_MARKERS}
        waiting = {int(one) for part in read_ranges(self._kafka, topic, near) for one in np.unique(part.partition)}
        return found | {partition: end for partition, (_, end) in near.items() if partition not in waiting}

    def _positions(self, reader: _Reader) -> dict[int, int]:
        """Return a reader's position in each partition, the furthest of its groups."""
        positions: dict[int, int] = {}
        for group in reader.groups:
            for (_, partition), committed in self._offsets.committed(group, reader.topic).items():
                positions[partition] = max(positions.get(partition, 0), _position(committed))
        return positions


def _position(committed: GroupOffset) -> int:
    """Return how far a group has come: the embedded engine commits what open windows still need, and beside it where it is."""
    with suppress(ValueError, TypeError):
        body = json.loads(committed.metadata or "")
        if isinstance(body, Mapping) and isinstance(body.get("position"), int):
            return int(body["position"])
    return committed.offset


class Recorder:
    """Samples in a thread of its own while something else runs; use it as a context manager."""

    def __init__(self, settings: Settings, interval_seconds: float = 0.5) -> None:
        """Prepare.

        Args:
            settings: where the brokers are.
            interval_seconds: time between two samples.
        """
        self.samples: list[Sample] = []
        self._sampler, self._interval = Sampler(settings), interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="throughput-samples", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while True:
            # Brokers that are away leave a hole in the samples, no more.
            with suppress(KafkaClientError):
                self.samples.append(self._sampler.sample())
            if self._ended.wait(self._interval):
                return


@task(cache_policy=NO_CACHE)
def sample_stages(seconds: float, interval_seconds: float) -> list[Sample] | None:
    """Take samples for some time; None where the pipeline isn't deployed.

    Args:
        seconds: how long.
        interval_seconds: time between two samples.

    Raises:
        KafkaClientError: the brokers could not be asked.
    """
    sampler = Sampler(load_settings())
    if not sampler.deployed:
        return None
    samples = [sampler.sample()]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(interval_seconds, max(0.0, deadline - time.monotonic())))
        samples.append(sampler.sample())
    return [*samples, sampler.sample(settled=True)]


@task(cache_policy=NO_CACHE)
def remember_samples(samples: list[Sample]) -> list[Sample]:
    """Keep one sample for later checks and return those of earlier ones, oldest first.

    They are kept in a file under the settings' home, an hour's worth at one check a minute.
    """
    path = load_settings().home / "results" / "throughput.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines()[-_REMEMBERED:] if path.exists() else []
    earlier = []
    for line in lines:
        # A line that was cut off by a full disk or a killed process is worth nothing, and costs nothing.
        with suppress(ValueError, TypeError):
            earlier.append(Sample(**json.loads(line)))
    kept = [json.dumps(asdict(sample)) for sample in [*earlier, samples[0]]]
    written = path.with_suffix(".new")
    written.write_text("\n".join(kept) + "\n", encoding="utf-8")
    written.replace(path)
    return earlier


def publish_rates(rates: Sequence[StageRate], sentence: str) -> None:
    """Show the stages' rates and lags."""
    rows = [
        {
            "stage": rate.stage,
            "events/s": round(rate.events_per_second),
            "peak events/s": round(rate.peak_events_per_second),
            "lag, events": rate.lag_events,
            "lag, s": None if rate.lag_seconds is None else round(rate.lag_seconds, 1),
        }
        for rate in rates
    ]
    publish_table("throughput", rows, f"{sentence}.")
