"""The panels of the page: pure functions from a snapshot to HTML; every text from outside is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Generic, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from heartwatch.analytic import PageDefinition
from heartwatch.clusters.prices import PRICES, Prices, cost_rows
from heartwatch.clusters.spec import ClusterSpec
from heartwatch.connect import TaskStatus
from heartwatch.settings import Settings
from heartwatch.web.access import PersonTokens
from heartwatch.web.alerts import Episode, EpisodeState, state_of
from heartwatch.web.board import Snapshot
from heartwatch.web.operations import Answer
from heartwatch.web.readings.prefect import FlowRun
from heartwatch.web.readings.traces import Trace

_MOST_ROWS = 100
_RUN_STATES = {"COMPLETED": "ok", "RUNNING": "busy", "FAILED": "bad", "CRASHED": "bad"}
_EPISODE_STATES = {EpisodeState.ACTIVE: "bad", EpisodeState.SILENT: "warn", EpisodeState.ENDED: "idle"}
_SHARES_OUTSIDE = 0.5
NOTHING, TO = "\N{EN DASH}", "\N{EN DASH}"

Source = TypeVar("Source")
Shown = TypeVar("Shown")


class Once(Generic[Source, Shown]):
    """Makes something from a source once, however many viewers ask for it; equal results stay the same object."""

    def __init__(self, make: Callable[[Source], Shown]) -> None:
        """Take the function that makes it."""
        self._make = make
        self._of: Source | None = None
        self._made: Shown | None = None

    def __call__(self, source: Source) -> Shown:
        """Return what is made from the source."""
        if self._of is not source or self._made is None:
            made = self._make(source)
            if made != self._made:
                self._made = made
            self._of = source
        assert self._made is not None  # noqa: S101 - made above
        return self._made


@cache
def _panels() -> Any:
    environment = Environment(
        loader=PackageLoader("heartwatch.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("panels.html").module


def clock(moment: datetime | float | None) -> str:
    """Return a time of day, UTC, with the date unless it is today."""
    if moment is None:
        return "not yet"
    at = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    today = at.date() == datetime.now(UTC).date()
    return f"{at:%H:%M:%S}" if today else f"{at:%d %b %H:%M:%S}"


def number(value: float | None) -> str:
    """Return a number as people read it; a dash for None."""
    if value is None:
        return NOTHING
    shown = f"{value:,.0f}" if abs(value) >= 10 else f"{value:,.1f}"
    return shown.removesuffix(".0")


def duration(seconds: float) -> str:
    """Return a duration as people read it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60:02} min"


def _state(kind: str, text: str) -> Markup:
    return Markup(_panels().state(kind, text))  # noqa: S704 - the template escapes the text


def empty(title: str, text: str) -> str:
    """Return a panel that says that there is nothing to show, and what to do about it."""
    return str(_panels().empty(title, text))


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """Return a table; its first column names the rows."""
    return str(_panels().table(caption, headings, list(rows), numbers))


def last_known(part: str, make: Callable[[Snapshot], str]) -> Callable[[Snapshot], str]:
    """Return a panel that, while its part doesn't answer, says that it shows the last known state."""

    def made(snapshot: Snapshot) -> str:
        html = make(snapshot)
        away = any(health.part == part for health in snapshot.away)
        # The panel escaped what comes from outside.
        return str(_panels().last_known(part, Markup(html))) if away else html  # noqa: S704

    return made


# ---------------------------------------------------------------------------------------------------------- overview
def pill(snapshot: Snapshot) -> str:
    """Return the state of all parts in a few words."""
    return str(_panels().pill(snapshot.away, snapshot.starting, snapshot.overdue))


def banner(snapshot: Snapshot) -> str:
    """Return which parts don't answer and which checks don't complete, and since when; nothing while all is well."""
    return str(_panels().banner(snapshot.away, snapshot.starting, clock, snapshot.overdue, duration)).strip()


def parts(snapshot: Snapshot) -> str:
    """Return the state of each part."""
    return str(_panels().parts(snapshot.health, clock))


def first_stream(snapshot: Snapshot) -> str:
    """Return the original's figures of the first stream: rate, total, failed."""
    if not snapshot.deployed:
        return _not_deployed(snapshot)
    rate = snapshot.stream_rate
    statistics = snapshot.ksql.stream if snapshot.ksql else None
    facts = [
        ("total", number(statistics.consumed if statistics else None)),
        ("failed", number(statistics.failed if statistics else None)),
        ("late", number(statistics.late if statistics else None)),
        ("windows lost", number(statistics.let_go if statistics else None)),
        ("last message", clock(statistics.last_message) if statistics else NOTHING),
    ]
    return str(_panels().figure(number(rate.events_per_second if rate else None), "events/s", facts))


def final_table(snapshot: Snapshot) -> str:
    """Return the original's figures of the final table: rate, total, failed."""
    if not snapshot.deployed:
        return _not_deployed(snapshot)
    statistics = snapshot.ksql.table if snapshot.ksql else None
    last_minute = next((value for value in reversed(snapshot.series.alerts_per_minute) if value is not None), None)
    facts = [
        ("events/s", number(statistics.produced_per_second if statistics else None)),
        ("total", number(statistics.produced if statistics else None)),
        ("failed", number(snapshot.alerts.rejected)),
    ]
    return str(_panels().figure(number(last_minute), "alerts in the last minute", facts))


def _not_deployed(snapshot: Snapshot) -> str:
    if snapshot.kafka is None:
        return str(_panels().loading())
    return empty("The pipeline is not deployed", "Run heart-watch or deploy-pipeline to create its topics and queries.")


def objective(snapshot: Snapshot, settings: Settings) -> str:
    """Return the throughput compared with its objective."""
    least, rate = settings.objectives.min_events_per_second, snapshot.stream_rate
    now = rate.events_per_second if rate else 0.0
    verdict, kind = (
        ("no run", "idle") if now < 1 else ("objective met", "ok") if now >= least else ("below objective", "bad")
    )
    share = min(100, round(100 * now / least)) if least else 100
    most = max((value for value in snapshot.series.arriving if value is not None), default=None)
    return str(_panels().objective(number(now), number(least), verdict, kind, share, number(most)))


def check(
    run: FlowRun | None, url: str, good: str, bad: str, nothing: str, facts: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the latest outcome of a scheduled check, with further facts."""
    return str(_panels().check(run, url, clock, good, bad, nothing, facts))


def verified(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what is verified of each sink."""
    facts = []
    for proof in snapshot.memory.proofs if snapshot.memory else ():
        broken = f"{proof.broken:,} broken segments" if proof.broken else ""
        waiting = f"records waiting since {clock(proof.waiting_since)}" if proof.waiting_since else ""
        texts = (f"{proof.rows:,} rows", broken, waiting, clock(proof.checked_at))
        facts.append((proof.topic, ", ".join(text for text in texts if text)))
    return facts


def measured(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return the latest measurement of the stages."""
    memory = snapshot.memory
    if memory is None or memory.measured is None:
        return []
    facts = [("first stream", f"{number(memory.measured)} events/s, {clock(memory.measured_at)}")]
    if memory.latency_ms is not None:
        shown = " / ".join(duration(ms / 1000) if ms >= 1_000 else f"{ms:.0f} ms" for ms in memory.latency_ms)
        facts.append(("latency of the results, p50 / p95 / p99", shown))
    return facts


def stages(snapshot: Snapshot) -> str:
    """Return rate and lag of each stage."""
    if not snapshot.rates:
        return _not_deployed(snapshot) if not snapshot.deployed else str(_panels().loading())
    rows = [
        (
            rate.stage,
            number(rate.events_per_second),
            number(rate.lag_events),
            NOTHING if rate.lag_seconds is None else duration(rate.lag_seconds),
        )
        for rate in snapshot.rates
    ]
    return table("Rate and lag of each stage", ("Stage", "Events/s", "Lag, events", "Lag, time"), rows, (1, 2, 3))


def brokers(snapshot: Snapshot, seen: Iterable[str]) -> str:
    """Return the brokers and partitions; `seen` are the brokers that were up at any time."""
    if snapshot.kafka is None:
        return str(_panels().loading())
    up = set(snapshot.kafka.brokers) if _is_up(snapshot, "Kafka") else set()
    hosts = [(host, _state("ok", "up") if host in up else _state("bad", "down")) for host in sorted({*seen, *up})]
    topics = [
        (
            topic.name,
            topic.partitions,
            _state("bad", f"{topic.leaderless} without leader")
            if topic.leaderless
            else _state("warn", f"{topic.under_replicated} under-replicated")
            if topic.under_replicated
            else _state("ok", "all in sync"),
        )
        for topic in snapshot.kafka.topics
    ]
    return table("Brokers", ("Broker", "State"), hosts) + table(
        "Topics", ("Topic", "Partitions", "State"), topics, (1,)
    )


def connectors(snapshot: Snapshot) -> str:
    """Return the connectors and their tasks."""
    if snapshot.connectors is None:
        return str(_panels().loading())
    if not snapshot.connectors:
        return empty("No connectors", "deploy-pipeline creates them.")
    rows = [
        (connector.name, _run_state(connector.state, connector.running), _tasks(connector.tasks))
        for connector in snapshot.connectors
    ]
    return table("Connectors", ("Connector", "State", "Tasks"), rows)


def _tasks(tasks: Iterable[TaskStatus]) -> str:
    """Return the states of tasks: ``1 running``, ``1 failed, 2 running``."""
    counts = Counter(task.state.lower() for task in tasks)
    return ", ".join(f"{counts[state]} {state}" for state in sorted(counts)) or "none"


def _run_state(state: str, good: bool) -> Markup:
    return _state(
        "ok" if good else "bad" if "FAIL" in state or state in {"RUNNING", "ERROR"} else "warn", state.lower()
    )


def queries(snapshot: Snapshot) -> str:
    """Return the persistent queries."""
    if snapshot.ksql is None:
        return str(_panels().loading())
    if not snapshot.ksql.queries:
        return empty("No queries", "deploy-pipeline creates them.")
    rows = [
        (query.query_id, _run_state(query.state, query.state == "RUNNING"), ", ".join(query.sink_topics))
        for query in snapshot.ksql.queries
    ]
    return table("Persistent queries", ("Query", "State", "Writes"), rows)


def workers(snapshot: Snapshot) -> str:
    """Return the workers."""
    if snapshot.prefect is None:
        return str(_panels().loading())
    if not snapshot.prefect.workers:
        return empty("No workers", "heartwatch up starts them.")
    rows = [
        (
            worker.name,
            worker.pool,
            _state("ok", "online") if worker.online else _state("bad", "offline"),
            clock(worker.heartbeat),
        )
        for worker in snapshot.prefect.workers
    ]
    return table("Workers", ("Worker", "Work pool", "State", "Heartbeat"), rows)


def runs(snapshot: Snapshot, url: str) -> str:
    """Return the latest flow runs with links into Prefect's UI."""
    if snapshot.prefect is None:
        return str(_panels().loading())
    if not snapshot.prefect.runs:
        return empty("No runs yet", "Start a run under Operate, or with prefect deployment run.")
    link = Markup('<a href="{}/runs/flow-run/{}">{}</a><span class="reason">{}</span>')
    rows = [
        (
            link.format(url, run.run_id, run.name, run.flow),
            _state(_RUN_STATES.get(run.state, "warn"), run.state.lower()),
            clock(run.began),
            duration(run.seconds),
        )
        for run in snapshot.prefect.runs
    ]
    return table("Latest flow runs", ("Run", "State", "Started", "Duration"), rows, (3,))


def sizes(snapshot: Snapshot, settings: Settings) -> str:
    """Return the size of the deployment: producer processes, partitions, brokers, people."""
    machines = max(1, len(settings.producer.machines))
    partitions = {topic.name: topic.partitions for topic in snapshot.kafka.topics} if snapshot.kafka else {}
    running = f", of which {number(snapshot.prefect.producers)} running" if snapshot.prefect else ""
    rows = [
        ("Producer processes", f"{machines * settings.producer.processes_per_machine}{running}"),
        ("Partitions per input topic", next(iter(partitions.values()), settings.kafka.partitions)),
        ("Replicas per partition", settings.kafka.replication_factor),
        ("Brokers", len(snapshot.kafka.brokers) if snapshot.kafka else NOTHING),
        ("KSQL servers", len(settings.ksqldb.urls)),
        ("People with a personal range", number(snapshot.memory.people if snapshot.memory else None)),
        ("Analytic", f"{settings.pipeline.analytic}, version {settings.pipeline.version}"),
    ]
    return table("Deployment size", ("Item", "Size"), rows)


@cache
def clusters(events_per_second: float) -> str:
    """Return the machines of the default clusters and their cost, at the objective's rate."""
    prices = Prices.load()
    found = cost_rows(ClusterSpec().machines(), prices, events_per_second)
    rows = [(row["role"], row["machines"], row["type"], row["USD an hour"]) for row in found]
    note = f"Default clusters, at the prices of {prices.date:%d %B %Y} in {PRICES.name}."
    shown = table("Clusters", ("Role", "Machines", "Type", f"{prices.currency} per hour"), rows, (1, 3))
    return shown + str(Markup('<p class="note">{}</p>').format(note))


def _is_up(snapshot: Snapshot, part: str) -> bool:
    return any(health.up for health in snapshot.health if health.part == part)


# ------------------------------------------------------------------------------------------------------------ alerts
def episodes(
    found: Sequence[Episode], every: int, snapshot: Snapshot, tokens: PersonTokens, page: PageDefinition
) -> str:
    """Return the alerts, at most the newest 100 of those found.

    Args:
        found: what the viewer asked for, newest first.
        every: number of alerts with and without a filter.
        snapshot: gives the time of the events.
        tokens: gives the tokens of the links.
        page: says what is measured, in which unit, and what an area is called.
    """
    if not every:
        return empty("No alerts", "Nobody's average has left their personal range while at rest.")
    if not found:
        return empty("No matches", f"None of the {every:,} alerts matches the filter.")
    rows = [_episode_row(episode, snapshot, tokens) for episode in found[:_MOST_ROWS]]
    total = f"{every:,} alert{'' if every == 1 else 's'}"
    total = total if len(found) == every else f"{len(found):,} of {total}"
    shown = f"The newest {_MOST_ROWS} are shown; the CSV file contains all of them." if len(found) > _MOST_ROWS else ""
    silent = any(row["silent"] for row in rows)
    return str(_panels().episodes(rows, page.area_title.capitalize(), page.unit, total, shown, silent))


def _episode_row(episode: Episode, snapshot: Snapshot, tokens: PersonTokens) -> dict[str, Any]:
    last = episode.last
    state = state_of(episode, snapshot.now_ms, snapshot.is_live)
    left, width, mark = band(last.average, last.low, last.high)
    return {
        "token": tokens.token(episode.subject),
        "subject": episode.subject,
        "state": _state(_EPISODE_STATES[state], state),
        "silent": state is EpisodeState.SILENT,
        "area": last.area or NOTHING,
        "since": f"{datetime.fromtimestamp(episode.since_ms / 1000, UTC):%d %b %H:%M:%S}",
        "lasted": duration(episode.seconds),
        "average": f"{last.average:.1f}",
        "low": number(last.low),
        "high": number(last.high),
        "left": left,
        "width": width,
        "mark": mark,
    }


def band(average: float, low: float, high: float) -> tuple[int, int, int]:
    """Return where a range begins, how wide it is and where an average lies, in percent of a strip.

    The strip shows half of the range's width on both sides; an average farther away is drawn at its end.
    """
    width = max(high - low, 1.0)
    begin, whole = low - _SHARES_OUTSIDE * width, (1 + 2 * _SHARES_OUTSIDE) * width
    share = (average - begin) / whole
    return (
        round(100 * _SHARES_OUTSIDE * width / whole),
        round(100 * width / whole),
        round(100 * min(1.0, max(0.0, share))),
    )


def person(trace: Trace, mine: Sequence[Episode], page: PageDefinition, snapshot: Snapshot) -> str:
    """Return the facts about a person."""
    state = state_of(mine[0], snapshot.now_ms, snapshot.is_live) if mine else None
    low, high = trace.personal_range or ((mine[0].last.low, mine[0].last.high) if mine else (None, None))
    at, latest = trace.points[-1] if trace.points else (None, None)
    facts = [
        (page.measure_title, f"{number(latest)} {page.unit}"),
        ("personal range", f"{number(low)}{TO}{number(high)} {page.unit}"),
        (page.area_title, trace.area or (mine[0].last.area if mine else NOTHING)),
        ("latest alert", _state(_EPISODE_STATES[state], state) if state else "none recently"),
        ("latest sample", "none recently" if at is None else clock(at / 1000)),
    ]
    return str(_panels().person(facts))


def areas(snapshot: Snapshot, with_alerts: dict[str, int], title: str) -> str:
    """Return people and people with an alert by area."""
    rows = [(area.name, number(area.people), number(with_alerts.get(area.name, 0))) for area in snapshot.areas.areas]
    if not rows:
        return empty("Nobody seen yet", "People appear as soon as their devices send events.")
    return table(f"People by {title}", (title.capitalize(), "People", "With an alert"), rows, (1, 2))


def answer(found: Answer) -> str:
    """Return what KSQL answered."""
    note = str(Markup('<p class="note" role="status">{}</p>').format(found.sentence))
    return note + (table("Answer", found.names, found.rows) if found.rows else "")
