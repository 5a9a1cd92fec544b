"""What the page shows of what the reader knows: pure functions from a snapshot to HTML; every text from outside is escaped."""

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
from heartwatch.verify.stages import REALTIME
from heartwatch.web.access import People
from heartwatch.web.alerts import Episode, State, state_of
from heartwatch.web.board import Snapshot
from heartwatch.web.operations import Answer
from heartwatch.web.parts import FlowRun
from heartwatch.web.people import Trace

_MOST_ROWS = 100
_RUN_STATES = {"COMPLETED": "ok", "RUNNING": "busy", "FAILED": "bad", "CRASHED": "bad"}
_EPISODE_STATES = {State.NOW: "bad", State.SILENT: "warn", State.OVER: "idle"}
_SHARES_OUTSIDE = 0.5
NOTHING, TO = "\N{EN DASH}", "\N{EN DASH}"

Source = TypeVar("Source")
Shown = TypeVar("Shown")


class Once(Generic[Source, Shown]):
    """Makes something of a source once, however many viewers ask for it; equal results stay the same object."""

    def __init__(self, make: Callable[[Source], Shown]) -> None:
        """Take what makes it."""
        self._make = make
        self._of: Source | None = None
        self._made: Shown | None = None

    def __call__(self, source: Source) -> Shown:
        """Return what is made of the source."""
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
    """Return a time of day, UTC; with the date where it isn't today's."""
    if moment is None:
        return "not yet"
    at = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    today = at.date() == datetime.now(UTC).date()
    return f"{at:%H:%M:%S}" if today else f"{at:%d %b %H:%M:%S}"


def number(value: float | None) -> str:
    """Return a number as people read it; a dash where there is none."""
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
    """Return what stands where there is nothing to show, and what to do about it."""
    return str(_panels().empty(title, text))


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """Return a table; its first column names the rows."""
    return str(_panels().table(caption, headings, list(rows), numbers))


def last_known(part: str, make: Callable[[Snapshot], str]) -> Callable[[Snapshot], str]:
    """Return what makes a panel that says so where its part is away: what it shows may no longer be so."""

    def made(snapshot: Snapshot) -> str:
        html = make(snapshot)
        away = any(one.part == part for one in snapshot.away)
        # The panel escaped what comes from outside.
        return str(_panels().last_known(part, Markup(html))) if away else html  # noqa: S704

    return made


# ---------------------------------------------------------------------------------------------------------- overview
def pill(snapshot: Snapshot) -> str:
    """Return the state of everything in a word."""
    return str(_panels().pill(snapshot.away, snapshot.starting))


def banner(snapshot: Snapshot) -> str:
    """Return which parts are away and since when; nothing while all answer."""
    return str(_panels().banner(snapshot.away, snapshot.starting, clock)).strip()


def parts(snapshot: Snapshot) -> str:
    """Return the state of each part."""
    return str(_panels().parts(snapshot.health, clock))


def first_stream(snapshot: Snapshot) -> str:
    """Return the original's figure of the first stream: rate, total, failed."""
    if not snapshot.deployed:
        return _not_deployed(snapshot)
    rate = snapshot.rate(REALTIME)
    statistics = snapshot.ksql.stream if snapshot.ksql else None
    facts = [
        ("total", number(statistics.consumed if statistics else None)),
        ("failed", number(statistics.failed if statistics else None)),
        ("last message", clock(statistics.last_message) if statistics else NOTHING),
    ]
    return str(_panels().figure(number(rate.events_per_second if rate else None), "events/s", facts))


def final_table(snapshot: Snapshot) -> str:
    """Return the original's figure of the final table: rate, total, failed."""
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
    return empty("The pipeline isn't deployed", "Run heart-watch or deploy-pipeline to make its topics and queries.")


def objective(snapshot: Snapshot, settings: Settings) -> str:
    """Return the throughput beside its objective."""
    least, rate = settings.objectives.min_events_per_second, snapshot.rate(REALTIME)
    now = rate.events_per_second if rate else 0.0
    verdict, kind = ("no run", "idle") if now < 1 else ("met", "ok") if now >= least else ("below", "bad")
    share = min(100, round(100 * now / least)) if least else 100
    most = max((value for value in snapshot.series.arriving if value is not None), default=None)
    return str(_panels().objective(number(now), number(least), verdict, kind, share, number(most)))


def check(
    run: FlowRun | None, url: str, good: str, bad: str, nothing: str, facts: Sequence[tuple[str, str]] = ()
) -> str:
    """Return what a scheduled check found last, and what is known besides."""
    return str(_panels().check(run, url, clock, good, bad, nothing, facts))


def proven(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what is proven of each sink."""
    facts = []
    for proof in snapshot.memory.proofs if snapshot.memory else ():
        trouble = f"{proof.broken:,} ranges broken" if proof.broken else ""
        waiting = f"records wait since {clock(proof.waiting_since)}" if proof.waiting_since else ""
        said = ", ".join(text for text in (f"{proof.rows:,} rows", trouble, waiting) if text)
        facts.append((proof.topic, f"{said}, {clock(proof.checked_at)}"))
    return facts


def measured(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what the last measurement of the stages found."""
    memory = snapshot.memory
    if memory is None or memory.measured is None:
        return []
    facts = [("first stream", f"{number(memory.measured)} events/s, {clock(memory.measured_at)}")]
    if memory.latency_ms is not None:
        shown = " / ".join(duration(one / 1000) if one >= 1_000 else f"{one:.0f} ms" for one in memory.latency_ms)
        facts.append(("results come after, p50 / p95 / p99", shown))
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
    return table("Rate and lag of each stage", ("Stage", "Events/s", "Behind", "Behind by"), rows, (1, 2, 3))


def brokers(snapshot: Snapshot, seen: Iterable[str]) -> str:
    """Return the brokers and partitions; `seen` are the brokers that ever were there."""
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
            else _state("warn", f"{topic.under_replicated} short of copies")
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
        return empty("No connectors", "deploy-pipeline makes them.")
    rows = [
        (
            one.name,
            _run_state(one.state, one.running),
            _tasks(one.tasks),
        )
        for one in snapshot.connectors
    ]
    return table("Connectors", ("Connector", "State", "Tasks"), rows)


def _tasks(tasks: Iterable[TaskStatus]) -> str:
    """Say in which states tasks are: ``1 running``, ``1 failed, 2 running``."""
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
        return empty("No queries", "deploy-pipeline makes them.")
    rows = [
        (one.query_id, _run_state(one.state, one.state == "RUNNING"), ", ".join(one.sink_topics))
        for one in snapshot.ksql.queries
    ]
    return table("Persistent queries", ("Query", "State", "Writes"), rows)


def workers(snapshot: Snapshot) -> str:
    """Return the workers and how many producers are at work."""
    if snapshot.prefect is None:
        return str(_panels().loading())
    if not snapshot.prefect.workers:
        return empty("No workers", "heartwatch up starts them.")
    rows = [
        (one.name, one.pool, _state("ok", "online") if one.online else _state("bad", "offline"), clock(one.heartbeat))
        for one in snapshot.prefect.workers
    ]
    return table("Workers", ("Worker", "Work pool", "State", "Heartbeat"), rows)


def runs(snapshot: Snapshot, url: str) -> str:
    """Return the last flow runs with links into Prefect's UI."""
    if snapshot.prefect is None:
        return str(_panels().loading())
    if not snapshot.prefect.runs:
        return empty("No runs yet", "Start one under Operate, or with prefect deployment run.")
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
    return table("Last flow runs", ("Run", "State", "Began", "Took"), rows, (3,))


def sizes(snapshot: Snapshot, settings: Settings) -> str:
    """Return what runs here: producer processes, partitions, brokers, people."""
    machines = max(1, len(settings.producer.machines))
    partitions = {topic.name: topic.partitions for topic in snapshot.kafka.topics} if snapshot.kafka else {}
    running = snapshot.prefect.producers if snapshot.prefect else None
    rows = [
        (
            "Producer processes",
            f"{machines * settings.producer.processes_per_machine}, of them {number(running)} at work",
        ),
        ("Partitions of an input topic", next(iter(partitions.values()), settings.kafka.partitions)),
        ("Copies of each partition", settings.kafka.replication_factor),
        ("Brokers", len(snapshot.kafka.brokers) if snapshot.kafka else NOTHING),
        ("KSQL servers", len(settings.ksqldb.urls)),
        ("People with their own range", number(snapshot.memory.people if snapshot.memory else None)),
        ("Analytic", f"{settings.pipeline.analytic}, version {settings.pipeline.version}"),
    ]
    return table("Sizes", ("What", "How many"), rows)


@cache
def clusters(events_per_second: float) -> str:
    """Return what the clusters of the default specification are and cost, at the objective's rate."""
    prices = Prices.load()
    found = cost_rows(ClusterSpec().machines(), prices, events_per_second)
    rows = [(row["role"], row["machines"], row["type"], row["USD an hour"]) for row in found]
    note = f"The default clusters, by the price list of {prices.date:%d %B %Y} in {PRICES.name}."
    shown = table("Clusters", ("Role", "Machines", "Type", f"{prices.currency} an hour"), rows, (1, 3))
    return shown + str(Markup('<p class="note">{}</p>').format(note))


def _is_up(snapshot: Snapshot, part: str) -> bool:
    return any(one.up for one in snapshot.health if one.part == part)


# ------------------------------------------------------------------------------------------------------------ alerts
def episodes(found: Sequence[Episode], every: int, snapshot: Snapshot, people: People, page: PageDefinition) -> str:
    """Return the alerts, the first ones of those found.

    Args:
        found: what the viewer asked for, newest first.
        every: how many there are in all.
        snapshot: tells the time of the events.
        people: gives the tokens of the links.
        page: says what is watched, in which unit.
    """
    if not every:
        return empty("No alerts", "Nobody's average has left the own range while standing still.")
    if not found:
        return empty("Nothing matches", f"None of the {every:,} alerts is what you are looking for.")
    rows = [_episode_row(one, snapshot, people) for one in found[:_MOST_ROWS]]
    total = f"{every:,} alert{'' if every == 1 else 's'}"
    total = total if len(found) == every else f"{len(found):,} of {total}"
    shown = f"The newest {_MOST_ROWS} are shown; the CSV has all." if len(found) > _MOST_ROWS else ""
    silent = any(one["silent"] for one in rows)
    return str(_panels().episodes(rows, page.unit, total, shown, silent))


def _episode_row(one: Episode, snapshot: Snapshot, people: People) -> dict[str, Any]:
    last = one.last
    state = state_of(one, snapshot.now_ms, snapshot.is_live)
    left, width, mark = band(last.average, last.low, last.high)
    return {
        "token": people.token(one.subject),
        "subject": one.subject,
        "state": _state(_EPISODE_STATES[state], state),
        "silent": state is State.SILENT,
        "area": last.area or NOTHING,
        "since": f"{datetime.fromtimestamp(one.since_ms / 1000, UTC):%d %b %H:%M:%S}",
        "lasted": duration(one.seconds),
        "average": f"{last.average:.1f}",
        "low": number(last.low),
        "high": number(last.high),
        "left": left,
        "width": width,
        "mark": mark,
    }


def band(average: float, low: float, high: float) -> tuple[int, int, int]:
    """Return where a range begins, how wide it is and where an average stands, in percent of a strip.

    The strip shows half of the range's width on both sides; what is farther away stands at its end.
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
    """Return the facts of a person."""
    state = state_of(mine[0], snapshot.now_ms, snapshot.is_live) if mine else None
    low, high = trace.own or ((mine[0].last.low, mine[0].last.high) if mine else (None, None))
    at, latest = trace.points[-1] if trace.points else (None, None)
    facts = [
        (page.measure_title, f"{number(latest)} {page.unit}"),
        ("own range", f"{number(low)}{TO}{number(high)} {page.unit}"),
        (page.area_title, trace.area or (mine[0].last.area if mine else NOTHING)),
        ("last alert", _state(_EPISODE_STATES[state], state) if state else "none lately"),
        ("last sample", "none lately" if at is None else clock(at / 1000)),
    ]
    return str(_panels().person(facts))


def areas(snapshot: Snapshot, with_alerts: dict[str, int], title: str) -> str:
    """Return people and people with an alert by area."""
    rows = [(one.name, number(one.people), number(with_alerts.get(one.name, 0))) for one in snapshot.areas.areas]
    if not rows:
        return empty("Nobody was seen yet", "People appear as soon as they send.")
    return table(f"People by {title}", (title.capitalize(), "People", "With an alert"), rows, (1, 2))


def answer(found: Answer) -> str:
    """Return what KSQL answered."""
    note = str(Markup('<p class="note" role="status">{}</p>').format(found.sentence))
    return note + (table("Answer", found.names, found.rows) if found.rows else "")
