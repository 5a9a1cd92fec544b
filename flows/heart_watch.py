"""Everything in order: historical data, pipeline, producers; then the proof of what came out.

Requires: Kafka, the schema registry, Connect, a KSQL server, Postgres, S3, workers of the producers' pool. Safe to run again: a
run is distinguished from those before by where the topics ended when it began, and by its event times, which follow on theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.deploy_pipeline import deploy_pipeline
from flows.generate_historical import generate_historical
from flows.load_historical import load_historical
from flows.produce import produce
from flows.verify_detections import verify_detections
from flows.verify_sink import verify_sink
from heartwatch.analytic import Analytic
from heartwatch.monitoring import Monitoring
from heartwatch.produce.spec import SourceName
from heartwatch.run_report import HeartWatchReport, monitored_run, report_run
from heartwatch.settings import load_settings
from heartwatch.verify.measure import measure_run
from heartwatch.verify.stages import Recorder
from tasks.result import publish_result, write_result
from tasks.throughput import publish_rates
from tasks.verify import note_offsets, wait_for_table


@flow(name="heart-watch")
def heart_watch(
    people: Annotated[int, Field(ge=1, le=2_147_483_647)] = 20_000,
    events: Annotated[int, Field(ge=1)] = 1_100_000,
    seed: Annotated[int, Field(ge=0)] = 1,
    faults: bool = True,
    source: SourceName = "simulator",
    path: str | None = None,
    hold_position: bool = False,
    ranges: str | None = None,
    deadline_seconds: Annotated[float, Field(gt=0, le=900)] = 150,
) -> HeartWatchReport:
    """Watch hearts from end to end.

    Args:
        people: Number of people (simulator, uniform and recordings).
        events: Number of events, all people together (simulator and uniform).
        seed: Random seed: which people there are and what happens to them. The same seed gives the same events.
        faults: Whether some events come late, twice or malformed (simulator).
        source: Where the events come from: `simulator` (people who rest, walk, train, sleep and fall ill), `uniform` (random
            users, places and rates), `recordings` (FIT, GPX and TCX files) or `file` (JSON lines, CSV or Parquet).
        path: File of events, or file or folder of recordings, on each producer machine (file and recordings).
        hold_position: Whether everybody stays where the recording begins (recordings).
        ranges: File of personal ranges, on the machines of the workers. Empty: ranges from the seed.
        deadline_seconds: Longest time that the personal ranges, the results and the sink may each take to be complete, s.

    Returns:
        what the run did and found.

    Raises:
        DetectionError: the results are not those of the batch computation.
        SinkIncompleteError: the sink does not hold what Kafka holds.
    """
    settings = load_settings()
    analytic = Analytic.of(settings.pipeline)
    load_ranges(people, seed, ranges)
    deploy_pipeline()
    rows = wait_for_table(deadline_seconds)
    offsets = note_offsets([analytic.stream, analytic.results])
    with Recorder(settings) as recorder:
        sent = produce(
            source=source,
            events=events,
            people=people,
            seed=seed,
            faults=faults,
            path=path,
            hold_position=hold_position,
            ranges=ranges,
        )
        alerts = verify_detections(run=sent.spec, offsets=offsets, deadline_seconds=deadline_seconds)
        assert alerts is not None  # noqa: S101 - it is None only without a run
    sinks = verify_sink(deadline_seconds=deadline_seconds, from_offsets=offsets)
    assert isinstance(sinks, list)  # noqa: S101 - given offsets are checked beside other runs
    figures = measure_run(recorder, settings, settings.pipeline.variables)
    publish_rates(figures.rates, "; ".join(figures.missed) or "all objectives are met")
    report = report_run(settings, str(flow_run.id or "local"), rows, sent, alerts, sinks, figures)
    if run := monitored_run(report, figures):
        Monitoring(settings.postgres, settings.pipeline).add_run(run)
    write_result(report.run_id, report.model_dump(mode="json"))
    publish_result(report.run_id, report.summary, alerts.rows)
    return report


def load_ranges(people: int, seed: int, ranges: str | None) -> None:
    """Bring people's personal ranges into the database, from a file or from the simulator's people.

    Args:
        people: number of people of the simulator.
        seed: which people of the simulator.
        ranges: file of ranges; None for those of the simulator's people.
    """
    if ranges is None:
        generate_historical(people=people, seed=seed)
        load_historical()
    else:
        load_historical(source="file", path=Path(ranges))
