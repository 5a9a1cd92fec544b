"""Content that is the same for all viewers: made once for each snapshot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from heartwatch.analytic import PageDefinition
from heartwatch.settings import Settings
from heartwatch.web import charts, views
from heartwatch.web.access import PersonTokens
from heartwatch.web.alerts import by_area
from heartwatch.web.board import Snapshot
from heartwatch.web.live import options_once
from heartwatch.web.readings.prefect import FlowRun
from heartwatch.web.views import Once

_RECENT_MS = 600_000


def shared_content(
    settings: Settings, definition: PageDefinition, tokens: PersonTokens, prefect_url: str
) -> dict[str, Callable[[Snapshot], Any]]:
    """Return what makes the panels (HTML) and the charts (options as JSON), by name.

    Args:
        settings: objectives and sizes.
        definition: what the pages show of the analytic.
        tokens: stand for people in addresses.
        prefect_url: address of Prefect's UI, without a slash at its end.
    """
    html = {**_pipeline_panels(settings, prefect_url), **_people_panels(definition, tokens)}
    options: dict[str, Callable[[Snapshot], dict[str, Any]]] = {
        "throughput": lambda snapshot: charts.throughput(snapshot.series),
        "alerts_per_minute": lambda snapshot: charts.alerts_per_minute(snapshot.series),
        "density": lambda snapshot: charts.density(
            snapshot.areas.areas, people_with_recent_alerts(snapshot), definition.area_title
        ),
    }
    return {name: Once(make) for name, make in html.items()} | {
        name: options_once(make) for name, make in options.items()
    }


def _pipeline_panels(settings: Settings, prefect_url: str) -> dict[str, Callable[[Snapshot], str]]:
    return {
        "pill": views.pill,
        "banner": views.banner,
        "parts": views.parts,
        "stream": views.first_stream,
        "table": views.final_table,
        "objective": partial(views.objective, settings=settings),
        "verified": lambda snapshot: views.check(
            _latest_run(snapshot, "verify-sink"),
            prefect_url,
            "verified",
            "not verified",
            "verify-sink runs every five minutes.",
            views.verified(snapshot),
        ),
        "measured": lambda snapshot: views.check(
            _latest_run(snapshot, "verify-throughput"),
            prefect_url,
            "no objective missed",
            "objective missed",
            "verify-throughput runs every minute.",
            views.measured(snapshot),
        ),
        "stages": views.last_known("Kafka", views.stages),
        "brokers": views.last_known("Kafka", BrokersPanel()),
        "connectors": views.last_known("Connect", views.connectors),
        "queries": views.last_known("KSQL", views.queries),
        "workers": views.last_known("Prefect", views.workers),
        "runs": views.last_known("Prefect", partial(views.runs, url=prefect_url)),
        "sizes": partial(views.sizes, settings=settings),
    }


def _people_panels(definition: PageDefinition, tokens: PersonTokens) -> dict[str, Callable[[Snapshot], str]]:
    return {
        "areas": lambda snapshot: views.areas(snapshot, people_with_recent_alerts(snapshot), definition.area_title),
        "episodes": lambda snapshot: views.episodes(
            snapshot.alerts.episodes, len(snapshot.alerts.episodes), snapshot, tokens, definition
        ),
    }


class BrokersPanel:
    """Makes the panel of the brokers; a broker that was up at any time stays in it."""

    def __init__(self) -> None:
        """Begin without brokers."""
        self._seen: set[str] = set()

    def __call__(self, snapshot: Snapshot) -> str:
        """Return the panel's HTML."""
        if snapshot.kafka is not None:
            self._seen |= set(snapshot.kafka.brokers)
        return views.brokers(snapshot, self._seen)


def people_with_recent_alerts(snapshot: Snapshot) -> dict[str, int]:
    """Return the number of people with an alert in the last ten minutes of event time, by area."""
    since = snapshot.now_ms - _RECENT_MS
    return dict(by_area(episode for episode in snapshot.alerts.episodes if episode.last.end_ms >= since))


def _latest_run(snapshot: Snapshot, flow: str) -> FlowRun | None:
    return snapshot.prefect.checks.get(flow) if snapshot.prefect else None
