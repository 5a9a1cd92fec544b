"""What a producer run sends: one description that every shard of the run gets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SourceName = Literal["simulator", "uniform", "recordings", "file"]
Distribution = Literal["share", "whole"]


class RunSpec(BaseModel):
    """A producer run.

    The same description gives the same events in every process and after every restart, so that a shard can go on where it
    ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="names the run in transactions and groups")
    ]
    source: Annotated[SourceName, Field(description="where the events come from")] = "simulator"
    distribution: Annotated[
        Distribution, Field(description="share: each process its partitions; whole: each process everything")
    ] = "share"
    processes: Annotated[int, Field(ge=1, le=4_096, description="producer processes, all machines together")] = 2
    partitions: Annotated[int, Field(ge=1, le=10_000, description="partitions of the topic of the events")] = 8
    people: Annotated[int, Field(ge=1, le=2_147_483_647, description="people of the simulator")] = 20_000
    seed: Annotated[int, Field(ge=0, description="which people, and what happens to them")] = 1
    events: Annotated[
        int, Field(ge=1, description="events of one pass of a generated source, all processes together")
    ] = 1_000_000
    sample_interval_ms: Annotated[
        int, Field(ge=1, le=3_600_000, description="time between two samples of a person, ms")
    ] = 2_000
    faults: Annotated[bool, Field(description="whether some simulated events come late, twice or malformed")] = True
    start_ms: Annotated[int, Field(ge=0, description="first event time, ms since the epoch")] = 0
    waits: Annotated[bool, Field(description="whether no batch is sent before all of it has happened")] = False
    path: Annotated[str | None, Field(description="file of events, or folder of recordings")] = None
    hold_position: Annotated[bool, Field(description="recordings: everybody stays where the recording begins")] = False
    stagger_ms: Annotated[int, Field(ge=0, description="recordings: people begin this much later at most, ms")] = 0
    ranges: Annotated[str | None, Field(description="file of personal ranges that the simulator's people get")] = None
    repeat: Annotated[int, Field(ge=0, description="passes over the source; 0 until stopped")] = 1
    events_per_second: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="limit of the rate, events/s, all processes together; None: none"),
    ] = None
    speed: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="seconds of event time per second; 1 is real time, None as fast as possible",
        ),
    ] = None
    close_after_ms: Annotated[
        int,
        Field(
            ge=0, description="so much later than the last event come a few that close all windows, ms; 0 sends none"
        ),
    ] = 0
    batch_events: Annotated[int, Field(ge=1, le=1_000_000, description="events encoded at once")] = 20_000
    transaction_interval_ms: Annotated[int, Field(ge=10, le=60_000, description="longest open transaction, ms")] = 200
