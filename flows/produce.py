"""Send events: cut a run into shards, run each on a worker of the producers' pool, look after them, count what was sent.

Requires: Kafka with the pipeline's topics, the schema registry, workers of the producers' pool. Stops within five seconds when
the variable `producer_run` is set to 0.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from heartwatch.produce.spec import Distribution, RunSpec, SourceName
from heartwatch.settings import load_settings
from tasks.produce import ShardReport, allow_producers, dispatch_shards, plan_run, publish_producers


class ProduceReport(BaseModel):
    """What a run sent.

    Attributes:
        spec: the run.
        shards: what each shard sent.
        delivered: events committed.
        failed: events whose transaction was aborted and that were sent again.
        seconds: from the first shard's dispatch to the last one's end.
    """

    spec: RunSpec
    shards: list[ShardReport]
    delivered: int
    failed: int
    seconds: float


@flow(name="produce")
def produce(
    source: Annotated[SourceName, Field(description="where the events come from")] = "simulator",
    distribution: Annotated[
        Distribution,
        Field(description="share: each process its partitions; whole: each process everything, stamped now"),
    ] = "share",
    machines: Annotated[int | None, Field(ge=1, le=256, description="producer machines; None: the settings'")] = None,
    processes_per_machine: Annotated[
        int | None, Field(ge=1, le=256, description="producer processes a machine; None: the settings'")
    ] = None,
    events: Annotated[
        int, Field(ge=1, description="events of one pass of the simulator or the uniform generator")
    ] = 1_100_000,
    people: Annotated[int, Field(ge=1, le=2_147_483_647, description="people of the simulator")] = 20_000,
    seed: Annotated[int, Field(ge=0, description="which people, and what happens to them")] = 1,
    faults: Annotated[bool, Field(description="whether some simulated events come late, twice or malformed")] = True,
    repeat: Annotated[int, Field(ge=0, description="passes over the source; 0 until stopped")] = 1,
    events_per_second: Annotated[
        float | None, Field(gt=0, description="limit of the rate, events/s, all together")
    ] = None,
    speed: Annotated[float | None, Field(gt=0, description="seconds of event time a second; 1 is real time")] = None,
    path: Annotated[str | None, Field(description="file of events, or folder of recordings")] = None,
    hold_position: Annotated[bool, Field(description="recordings: everybody stays where the recording begins")] = False,
    stagger_ms: Annotated[int, Field(ge=0, description="recordings: people begin this much later at most, ms")] = 0,
    ranges: Annotated[str | None, Field(description="file of own ranges that the simulator's people get")] = None,
    start: Annotated[
        datetime | None, Field(description="first event time; None: now, after all that was sent before")
    ] = None,
) -> ProduceReport:
    """Send events over the producers' workers.

    Raises:
        ProduceError: a shard could not be sent.
    """
    settings = load_settings()
    producer = settings.producer
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
    report = ProduceReport(
        spec=spec,
        shards=shards,
        delivered=sum(shard.delivered for shard in shards),
        failed=sum(shard.failed for shard in shards),
        seconds=max(shard.seconds for shard in shards),
    )
    publish_producers(spec.run_id, shards)
    return report
