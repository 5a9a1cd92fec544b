"""Everything in order: historical data, pipeline, producers; then the proof of what came out.

Requires: Kafka, the schema registry, Connect, a KSQL server, Postgres, S3, workers of the producers' pool. Safe to run again: a
run is told from those before by where the topics ended when it began, and by its event times, which follow on theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from flows.deploy_pipeline import deploy_pipeline
from flows.generate_historical import generate_historical
from flows.load_historical import load_historical
from flows.produce import produce
from flows.verify_detections import verify_detections
from flows.verify_sink import verify_sink
from heartwatch.analytic import Analytic
from heartwatch.monitoring import Monitoring, Run
from heartwatch.produce.reports import ProduceReport
from heartwatch.produce.spec import SourceName
from heartwatch.proof.report import SinkReport
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.detections import AlertsReport, missed_objectives
from heartwatch.verify.latency import describe_latency
from heartwatch.verify.measure import Figures, measure_run
from heartwatch.verify.stages import Recorder, stream_stage
from tasks.result import publish_result, write_result
from tasks.throughput import publish_rates
from tasks.verify import note_offsets, wait_for_table


class HeartWatchReport(BaseModel):
    """What a run did and found.

    Attributes:
        run_id: the flow run.
        people: rows of the historical table.
        sent: what the producers sent.
        alerts: the results, compared with the batch computation and the truth.
        sinks: what was found of the sinks.
        events_per_second: the original's figure, from the first event to the last result.
        peak_events_per_second: largest rate into the first stream between two samples.
        steady_events_per_second: rate of the slowest of first stream and queries in the steady state; None for a short run.
        steady_seconds: how long that was.
        latency_ms: 50th, 95th and 99th percentile of the time from a window's closing event to its result, ms.
        missed: objectives that the run missed, one sentence each.
        summary: the same for people, as short texts.
    """

    run_id: str
    people: int
    sent: ProduceReport
    alerts: AlertsReport
    sinks: list[SinkReport]
    events_per_second: float
    peak_events_per_second: float
    steady_events_per_second: float | None
    steady_seconds: float | None
    latency_ms: tuple[float, float, float] | None
    missed: list[str]
    summary: dict[str, str] = Field(default_factory=dict)


@flow(name="heart-watch")
def heart_watch(
    people: Annotated[int, Field(ge=1, le=2_147_483_647, description="people of the simulator")] = 20_000,
    events: Annotated[int, Field(ge=1, description="events, all people together")] = 1_100_000,
    seed: Annotated[int, Field(ge=0, description="which people, and what happens to them")] = 1,
    faults: Annotated[bool, Field(description="whether some events come late, twice or malformed")] = True,
    source: Annotated[SourceName, Field(description="where the events come from")] = "simulator",
    path: Annotated[str | None, Field(description="file of events, or folder of recordings")] = None,
    hold_position: Annotated[bool, Field(description="recordings: everybody stays where the recording begins")] = False,
    ranges: Annotated[
        str | None, Field(description="file of personal ranges; None: those of the simulator's people")
    ] = None,
    deadline_seconds: Annotated[
        float, Field(gt=0, le=900, description="how long results and sink may take after the last event")
    ] = 150,
) -> HeartWatchReport:
    """Watch hearts from end to end.

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
    stage = stream_stage(analytic)
    publish_rates(figures.rates, "; ".join(figures.missed) or "all objectives are met")
    report = HeartWatchReport(
        run_id=str(flow_run.id or "local"),
        people=rows,
        sent=sent,
        alerts=alerts,
        sinks=sinks,
        events_per_second=figures.headline.events_per_second if figures.headline else 0.0,
        peak_events_per_second=next(rate.peak_events_per_second for rate in figures.rates if rate.stage == stage),
        steady_events_per_second=figures.steady.events_per_second if figures.steady else None,
        steady_seconds=figures.steady.seconds if figures.steady else None,
        latency_ms=figures.latency_ms,
        missed=[*figures.missed, *missed_objectives(alerts, settings.objectives)],
    )
    remember(settings, report, figures)
    report = report.model_copy(update={"summary": summarize(report)})
    write_result(report.run_id, report.model_dump(mode="json"))
    publish_result(report.run_id, report.summary, alerts.rows)
    return report


def remember(settings: Settings, report: HeartWatchReport, figures: Figures) -> None:
    """Keep a run's figures beside those of earlier runs, unless nothing moved."""
    if figures.headline is None:
        return
    p50, p95, p99 = figures.latency_ms or (None, None, None)
    run = Run(
        run_id=report.run_id,
        began_at=figures.headline.began_at,
        ended_at=figures.headline.ended_at,
        events=figures.headline.events,
        events_per_second=figures.headline.events_per_second,
        steady_seconds=report.steady_seconds,
        steady_events_per_second=report.steady_events_per_second,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        alerts=report.alerts.alerts,
        exact=report.alerts.exact,
        recall=report.alerts.recall,
        precision=report.alerts.precision,
    )
    Monitoring(settings.postgres, settings.pipeline).add_run(run)


def load_ranges(people: int, seed: int, ranges: str | None) -> None:
    """Bring people's personal ranges into the database, from a file or from the simulator's people."""
    if ranges is None:
        generate_historical(people=people, seed=seed)
        load_historical()
    else:
        load_historical(source="file", path=Path(ranges))


def summarize(report: HeartWatchReport) -> dict[str, str]:
    """Return what a person wants to know of a run, as short texts."""
    alerts, sent = report.alerts, report.sent
    found = {
        "events sent": f"{sent.delivered:,} by {len(sent.shards)} producers, {sent.failed:,} of them sent again",
        "people": f"{report.people:,} with their personal range",
        "alerts": f"{alerts.alerts:,}; against the batch computation: {alerts.sentence}",
        "records that are no events": f"{alerts.rejected:,}",
        "rows proven in the sink": f"{sum(sink.rows for sink in report.sinks):,} of {len(report.sinks)} topics",
        "events/s": f"{report.events_per_second:,.0f} from the first event to the last result",
    }
    if report.steady_events_per_second is not None and report.steady_seconds is not None:
        found["events/s, steady state"] = (
            f"{report.steady_events_per_second:,.0f} over {report.steady_seconds:.0f} s, warm-up and run-out cut off"
        )
    if report.latency_ms is not None:
        found["latency"] = f"{describe_latency(report.latency_ms)} from a window's closing event to its alert"
    if alerts.recall is not None and alerts.precision is not None:
        found["recall"] = f"{alerts.recall:.3f} ({alerts.misses:,} missed)"
        found["precision"] = f"{alerts.precision:.3f} ({alerts.false_alarms:,} false alarms)"
    if alerts.unknown_events:
        found["without historical row"] = f"{alerts.unknown_events:,} events of {alerts.unknown_users:,} users"
    if report.missed:
        found["objectives missed"] = "; ".join(report.missed)
    return found
