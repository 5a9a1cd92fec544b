"""Send events: cut a run into shards, run each on a worker of the producers' pool, look after them, count what was sent.

Requires: Kafka with the pipeline's topics, the schema registry, workers of the producers' pool. Stops within five seconds when
the variable `producer_run` is set to 0.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from heartwatch.produce.reports import ProduceReport
from heartwatch.produce.spec import Distribution, SourceName
from heartwatch.settings import load_settings
from tasks.produce import allow_producers, dispatch_shards, plan_run, publish_producers


@flow(name="produce")
def produce(
    source: SourceName = "simulator",
    distribution: Distribution = "share",
    machines: Annotated[int | None, Field(ge=1, le=256)] = None,
    processes_per_machine: Annotated[int | None, Field(ge=1, le=256)] = None,
    events: Annotated[int, Field(ge=1)] = 1_100_000,
    people: Annotated[int, Field(ge=1, le=2_147_483_647)] = 20_000,
    seed: Annotated[int, Field(ge=0)] = 1,
    faults: bool = True,
    repeat: Annotated[int, Field(ge=0)] = 1,
    events_per_second: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None,
    speed: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None,
    path: str | None = None,
    hold_position: bool = False,
    stagger_ms: Annotated[int, Field(ge=0)] = 0,
    ranges: str | None = None,
    start: datetime | None = None,
) -> ProduceReport:
    """Send events from the workers of the producers' pool.

    Args:
        source: Where the events come from: `simulator` (people who rest, walk, train, sleep and fall ill), `uniform` (random
            users, places and rates), `recordings` (FIT, GPX and TCX files) or `file` (JSON lines, CSV or Parquet).
        distribution: `share`: each process sends its own partitions. `whole`: each process sends everything, with the present
            time as event time.
        machines: Number of producer machines. Empty: the machines of the settings.
        processes_per_machine: Producer processes on each machine. Empty: as the settings say.
        events: Number of events of one pass over the source, all processes together (simulator and uniform).
        people: Number of people (simulator, uniform and recordings).
        seed: Random seed: which people there are and what happens to them. The same seed gives the same events.
        faults: Whether some events come late, twice or malformed (simulator).
        repeat: Number of passes over the source. 0: until the producers are stopped.
        events_per_second: Limit of the rate, events/s, all processes together. Empty: no limit.
        speed: Seconds of event time per second; 1 is real time. Empty: as fast as possible.
        path: File of events, or file or folder of recordings, on each producer machine (file and recordings).
        hold_position: Whether everybody stays where the recording begins (recordings).
        stagger_ms: Longest time by which a person begins later than the first one, ms (recordings).
        ranges: File of personal ranges for the simulator's people, on each producer machine. Empty: ranges from the seed.
        start: First event time, with a time zone. Empty: now, but after all events that were sent before.

    Returns:
        what was sent, shard by shard.

    Raises:
        ProduceError: a shard could not be sent.
    """
    producer = load_settings().producer
    allow_producers()
    spec = plan_run(
        run_id=str(flow_run.id or "local"),
        source=source,
        distribution=distribution,
        processes=(machines or max(1, len(producer.machines)))
        * (processes_per_machine or producer.processes_per_machine),
        events=events,
        people=people,
        seed=seed,
        faults=faults,
        repeat=repeat,
        events_per_second=events_per_second,
        speed=speed,
        path=path,
        hold_position=hold_position,
        stagger_ms=stagger_ms,
        ranges=ranges,
        batch_events=producer.batch_events,
        transaction_interval_ms=producer.transaction_interval_ms,
        start=start,
    )
    shards = dispatch_shards(spec)
    publish_producers(spec.run_id, shards)
    return ProduceReport.of(spec, shards)
