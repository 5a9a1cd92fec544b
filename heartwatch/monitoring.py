"""What the scheduled checks remember, in Postgres: the schema `monitoring`, made by `deployments/postgres/monitoring/`.

The rows are there for later checks, for the live page and for people with an SQL client; the migrations' comments say what
each column is. `pipeline` is analytic and version, as in the resources' names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg2 import sql

from heartwatch.postgres import execute, insert, migrate, transaction
from heartwatch.settings import ROOT, PipelineSettings, PostgresSettings

SCHEMA = "monitoring"
_MIGRATIONS = ROOT / "deployments" / "postgres" / SCHEMA
_BY_TIME = {
    "stage_samples": "at",
    "stage_rates": "at",
    "latencies": "at",
    "runs": "ended_at",
    "sink_checks": "at",
    "detection_checks": "at",
}


@dataclass(frozen=True)
class Sample:
    """Where every stage was at one moment.

    Attributes:
        at: seconds since the epoch.
        positions: by stage, the sum of its positions over the partitions.
        heads: by stage, the sum of the ends of the topic that it reads; a stage that writes a topic has none.
    """

    at: float
    positions: Mapping[str, int]
    heads: Mapping[str, int]


@dataclass(frozen=True)
class StageRate:
    """What samples say of one stage.

    Attributes:
        stage: its name.
        events_per_second: mean rate between the first and the last sample.
        peak_events_per_second: largest rate between two samples.
        lag_events: how far it is behind now; None for a stage that writes a topic.
        lag_seconds: how long ago the head was there; at least that long when it was before the first sample.
    """

    stage: str
    events_per_second: float
    peak_events_per_second: float
    lag_events: int | None
    lag_seconds: float | None


@dataclass(frozen=True)
class Latency:
    """How late one result was.

    Attributes:
        partition: where it stands in the results' topic.
        offset: the same.
        at: when a read_committed reader could see it, seconds since the epoch.
        since_closing_ms: time since the event that closed its window could be seen; None where that isn't known.
        since_window_end_ms: time since its window's end by the events' clock; None where that clock ran ahead of ours.
    """

    partition: int
    offset: int
    at: float
    since_closing_ms: float | None
    since_window_end_ms: float | None


@dataclass(frozen=True)
class Run:
    """A whole run of heart-watch: the columns of the table `runs`; times in seconds since the epoch."""

    run_id: str
    began_at: float
    ended_at: float
    events: int
    events_per_second: float
    steady_seconds: float | None
    steady_events_per_second: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    alerts: int
    exact: bool
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class SinkCheck:
    """What a check of a topic's sink found.

    Attributes:
        topic: Kafka topic.
        at: its end, seconds since the epoch.
        proven_rows: rows of the sink that are proven, by this check and before.
        wrong: records left out, lost or changed, and rows that are there twice or that Kafka never had.
        dead_letters: all of the topic.
        waiting_seconds: how long records have been waiting for the sink at least.
    """

    topic: str
    at: float
    proven_rows: int
    wrong: int
    dead_letters: int
    waiting_seconds: float


@dataclass(frozen=True)
class DetectionCheck:
    """What a check of the detections found.

    Attributes:
        at: its end, seconds since the epoch.
        alerts: that were compared.
        wrong: of these or of those that should be there, which differ from the batch computation's.
        recall: share of the alerts that had to come that came; None where nobody knows the truth.
        precision: share of the alerts that were right; None alike.
    """

    at: float
    alerts: int
    wrong: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class ConnectorRestarts:
    """How often a connector's failed tasks were restarted since it last ran calmly, and when the last time was."""

    restarts: int
    last_at: datetime


class Monitoring:
    """One pipeline's rows."""

    def __init__(self, postgres: PostgresSettings, pipeline: PipelineSettings) -> None:
        """Make the tables, unless they are there.

        Raises:
            PostgresError: Postgres could not be asked, or refused.
        """
        self._postgres, self._pipeline = postgres, f"{pipeline.analytic}_v{pipeline.version}"
        migrate(postgres, SCHEMA, _MIGRATIONS)

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Keep samples; those that are there already stay as they are."""
        rows = [
            (self._pipeline, stage, _time(sample.at), position, sample.heads.get(stage))
            for sample in samples
            for stage, position in sample.positions.items()
        ]
        insert(
            self._postgres,
            "INSERT INTO monitoring.stage_samples (pipeline, stage, at, position, head) VALUES %s ON CONFLICT DO NOTHING",
            rows,
        )

    def samples(self, since: float) -> list[Sample]:
        """Return the samples taken at `since` (seconds since the epoch) or later, in order of time."""
        rows = execute(
            self._postgres,
            "SELECT at, stage, position, head FROM monitoring.stage_samples WHERE pipeline = %s AND at >= %s ORDER BY at, stage",
            [self._pipeline, _time(since)],
        )
        found: dict[float, Sample] = {}
        for at, stage, position, head in rows:
            moment = at.timestamp()
            sample = found.setdefault(moment, Sample(moment, {}, {}))
            found[moment] = Sample(
                moment,
                {**sample.positions, stage: position},
                sample.heads if head is None else {**sample.heads, stage: head},
            )
        return list(found.values())

    def last_sample(self) -> Sample | None:
        """Return the newest sample; None before the first."""
        newest = execute(
            self._postgres, "SELECT max(at) FROM monitoring.stage_samples WHERE pipeline = %s", [self._pipeline]
        )[0][0]
        return None if newest is None else self.samples(newest.timestamp())[-1]

    def add_rates(self, at: float, seconds: float, rates: Sequence[StageRate]) -> None:
        """Keep what a check made of its samples.

        Args:
            at: the check's end, seconds since the epoch.
            seconds: how long it sampled.
            rates: of each stage.
        """
        rows = [
            (
                self._pipeline,
                rate.stage,
                _time(at),
                seconds,
                rate.events_per_second,
                rate.peak_events_per_second,
                rate.lag_events,
                rate.lag_seconds,
            )
            for rate in rates
        ]
        insert(
            self._postgres,
            "INSERT INTO monitoring.stage_rates (pipeline, stage, at, seconds, events_per_second, peak_events_per_second, "
            "lag_events, lag_seconds) VALUES %s ON CONFLICT DO NOTHING",
            rows,
        )

    def rates(self, since: float) -> list[tuple[float, StageRate]]:
        """Return the checks' rates with their times (seconds since the epoch), `since` or later, in order of time."""
        rows = execute(
            self._postgres,
            "SELECT at, stage, events_per_second, peak_events_per_second, lag_events, lag_seconds FROM monitoring.stage_rates "
            "WHERE pipeline = %s AND at >= %s ORDER BY at, stage",
            [self._pipeline, _time(since)],
        )
        return [(at.timestamp(), StageRate(*values)) for at, *values in rows]

    def add_latencies(self, latencies: Sequence[Latency]) -> None:
        """Keep results' latencies; a result that has one keeps it, but for another one in a topic that was made again."""
        rows = [
            (
                self._pipeline,
                latency.partition,
                latency.offset,
                _time(latency.at),
                latency.since_closing_ms,
                latency.since_window_end_ms,
            )
            for latency in latencies
        ]
        insert(
            self._postgres,
            "INSERT INTO monitoring.latencies AS kept (pipeline, kafka_partition, kafka_offset, at, since_closing_ms, "
            "since_window_end_ms) VALUES %s ON CONFLICT (pipeline, kafka_partition, kafka_offset) DO UPDATE SET "
            "at = excluded.at, since_closing_ms = excluded.since_closing_ms, since_window_end_ms = "
            "excluded.since_window_end_ms WHERE excluded.at > kept.at + interval '1 minute'",
            rows,
        )

    def latency_percentiles(self, since: float) -> dict[int, list[tuple[float, float]]]:
        """Return the 50th, 95th and 99th percentile of the time since the closing event for each minute, `since` or later.

        Returns:
            By percentile, minute (seconds since the epoch) and value (ms), in order of time.
        """
        rows = execute(
            self._postgres,
            "SELECT date_trunc('minute', at) AS minute, percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP "
            "(ORDER BY since_closing_ms) FROM monitoring.latencies WHERE pipeline = %s AND at >= %s AND since_closing_ms IS NOT "
            "NULL GROUP BY minute ORDER BY minute",
            [self._pipeline, _time(since)],
        )
        return {
            percent: [(minute.timestamp(), float(values[index])) for minute, values in rows]
            for index, percent in enumerate((50, 95, 99))
        }

    def add_run(self, run: Run) -> None:
        """Keep a run, or replace what is kept of it."""
        execute(
            self._postgres,
            "INSERT INTO monitoring.runs (run_id, pipeline, began_at, ended_at, events, events_per_second, steady_seconds, "
            "steady_events_per_second, latency_p50_ms, latency_p95_ms, latency_p99_ms, alerts, exact, recall, precision) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (run_id) DO UPDATE SET "
            "ended_at = excluded.ended_at, events = excluded.events, events_per_second = excluded.events_per_second, "
            "alerts = excluded.alerts, exact = excluded.exact, recall = excluded.recall, precision = excluded.precision",
            [
                run.run_id,
                self._pipeline,
                _time(run.began_at),
                _time(run.ended_at),
                run.events,
                run.events_per_second,
                run.steady_seconds,
                run.steady_events_per_second,
                run.latency_p50_ms,
                run.latency_p95_ms,
                run.latency_p99_ms,
                run.alerts,
                run.exact,
                run.recall,
                run.precision,
            ],
        )

    def add_sink_checks(self, checks: Sequence[SinkCheck]) -> None:
        """Keep what checks of sinks found."""
        rows = [
            (
                self._pipeline,
                check.topic,
                _time(check.at),
                check.proven_rows,
                check.wrong,
                check.dead_letters,
                check.waiting_seconds,
            )
            for check in checks
        ]
        insert(
            self._postgres,
            "INSERT INTO monitoring.sink_checks (pipeline, topic, at, proven_rows, wrong, dead_letters, waiting_seconds) "
            "VALUES %s ON CONFLICT DO NOTHING",
            rows,
        )

    def sink_checks(self, since: float) -> list[SinkCheck]:
        """Return the checks of sinks that ended at `since` (seconds since the epoch) or later, in order of time."""
        rows = execute(
            self._postgres,
            "SELECT topic, at, proven_rows, wrong, dead_letters, waiting_seconds FROM monitoring.sink_checks "
            "WHERE pipeline = %s AND at >= %s ORDER BY at, topic",
            [self._pipeline, _time(since)],
        )
        return [SinkCheck(topic, at.timestamp(), *values) for topic, at, *values in rows]

    def add_detection_check(self, check: DetectionCheck) -> None:
        """Keep what a check of the detections found."""
        insert(
            self._postgres,
            "INSERT INTO monitoring.detection_checks (pipeline, at, alerts, wrong, recall, precision) VALUES %s "
            "ON CONFLICT DO NOTHING",
            [(self._pipeline, _time(check.at), check.alerts, check.wrong, check.recall, check.precision)],
        )

    def detection_checks(self, since: float) -> list[DetectionCheck]:
        """Return the checks of the detections that ended at `since` (seconds since the epoch) or later, in order of time."""
        rows = execute(
            self._postgres,
            "SELECT at, alerts, wrong, recall, precision FROM monitoring.detection_checks "
            "WHERE pipeline = %s AND at >= %s ORDER BY at",
            [self._pipeline, _time(since)],
        )
        return [DetectionCheck(at.timestamp(), *values) for at, *values in rows]

    def mark(self, name: str) -> str | None:
        """Return what a check has noted for its next run; None before the first time."""
        rows = execute(
            self._postgres,
            "SELECT value FROM monitoring.marks WHERE pipeline = %s AND name = %s",
            [self._pipeline, name],
        )
        return rows[0][0] if rows else None

    def set_mark(self, name: str, value: str) -> None:
        """Note something for a check's next run."""
        execute(
            self._postgres,
            "INSERT INTO monitoring.marks (pipeline, name, value) VALUES (%s, %s, %s) "
            "ON CONFLICT (pipeline, name) DO UPDATE SET value = excluded.value, at = now()",
            [self._pipeline, name, value],
        )

    def connector_restarts(self) -> dict[str, ConnectorRestarts]:
        """Return the restarts of connectors that have not run calmly since, by connector."""
        rows = execute(self._postgres, "SELECT connector, restarts, last_at FROM monitoring.connector_restarts")
        return {connector: ConnectorRestarts(restarts, last_at) for connector, restarts, last_at in rows}

    def add_connector_restart(self, connector: str, restarts: int) -> bool:
        """Keep that a connector is restarted now, for the how manieth time.

        Returns:
            whether it is the caller that restarts it; False where a run beside it has counted this restart.
        """
        counted = execute(
            self._postgres,
            "INSERT INTO monitoring.connector_restarts AS kept (connector, restarts, last_at) VALUES (%s, %s, now()) "
            "ON CONFLICT (connector) DO UPDATE SET restarts = excluded.restarts, last_at = excluded.last_at "
            "WHERE kept.restarts = excluded.restarts - 1 RETURNING restarts",
            [connector, restarts],
        )
        return bool(counted)

    def forget_connector_restarts(self, connectors: Sequence[str]) -> None:
        """Forget the restarts of connectors that run calmly."""
        if connectors:
            execute(
                self._postgres,
                "DELETE FROM monitoring.connector_restarts WHERE connector = ANY(%s)",
                [list(connectors)],
            )

    def forget(self, retention_days: float) -> int:
        """Delete this pipeline's rows that are older than `retention_days`, and return how many."""
        before = datetime.now(UTC) - timedelta(days=retention_days)
        deleted = 0
        with transaction(self._postgres, "deleting old rows of schema 'monitoring'") as cursor:
            for table, column in _BY_TIME.items():
                statement = sql.SQL("DELETE FROM {} WHERE pipeline = %s AND {} < %s")
                cursor.execute(
                    statement.format(sql.Identifier(SCHEMA, table), sql.Identifier(column)), [self._pipeline, before]
                )
                deleted += cursor.rowcount
        return deleted


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
