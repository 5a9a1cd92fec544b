"""The alerts, to filter and to search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from nicegui import ui

from heartwatch.web import tables, views
from heartwatch.web.alerts import AlertFilter, Episode
from heartwatch.web.board import Snapshot
from heartwatch.web.live import View
from heartwatch.web.pages.components import CROSS_ICON, DOWN_ICON, card, csv_button
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.frame import frame

_LINKS_SECONDS = 300.0


class AlertsPage:
    """Shows the alerts that a viewer's filter matches."""

    def __init__(self, context: PageContext) -> None:
        """Take what all pages share."""
        self._context = context

    def show(self) -> None:
        """Lay out the page for a viewer."""
        wanted = AlertFilter()
        filtered = FilteredAlerts(wanted, self._filtered_html)

        def make(snapshot: Snapshot) -> str:
            return str(self._context.shared["episodes"](snapshot)) if wanted.matches_all else filtered.html(snapshot)

        with frame(self._context, "/alerts", "Alerts") as view, card("Active and recent alerts"):
            with ui.element("div").classes("filters").props("role=search aria-label=Alerts"):
                self._filters(view, wanted)
                csv_button("alerts", lambda: tables.episodes_csv(self._matching(wanted), self._context.definition))
            view.panel(make)

    def _filters(self, view: View, wanted: AlertFilter) -> None:
        def change(name: str, value: Any) -> None:
            setattr(wanted, name, value or "")
            view.again()
            # Announced when somebody searches, not with each alert that arrives.
            status.set_content(f"{len(self._matching(wanted)):,} alerts found")

        area = self._context.definition.area_title
        ui.input(f"Person or {area}", on_change=lambda event: change("text", event.value)).props(
            f'outlined dense clearable debounce=250 clear-icon="{CROSS_ICON}"'
        ).classes("filter")
        episodes = self._context.live.snapshot.alerts.episodes
        areas = sorted({episode.last.area for episode in episodes if episode.last.area})
        options = {"": "any", **{name: name for name in areas}}
        ui.select(
            options, label=area.capitalize(), value="", on_change=lambda event: change("area", event.value)
        ).props(f'outlined dense options-dense dropdown-icon="{DOWN_ICON}"').classes("filter narrow")
        ui.checkbox("Hide ended alerts", on_change=lambda event: change("hide_ended", event.value))
        status = ui.html("", sanitize=False).props("role=status aria-live=polite").classes("hidden")

    def _matching(self, wanted: AlertFilter) -> list[Episode]:
        snapshot = self._context.live.snapshot
        return wanted.matching(snapshot.alerts.episodes, snapshot.now_ms)

    def _filtered_html(self, snapshot: Snapshot, found: Sequence[Episode]) -> str:
        every = len(snapshot.alerts.episodes)
        return views.episodes(found, every, snapshot, self._context.tokens, self._context.definition)


class FilteredAlerts:
    """The alerts that one viewer's filter matches."""

    def __init__(self, wanted: AlertFilter, make: Callable[[Snapshot, Sequence[Episode]], str]) -> None:
        """Begin without any.

        Args:
            wanted: the viewer's filter; it may change.
            make: makes HTML of the alerts found.
        """
        self._wanted, self._make = wanted, make
        self._kept: tuple[Any, str] = (None, "")

    def html(self, snapshot: Snapshot) -> str:
        """Return the alerts, made again when they or the filter change, and before their links expire."""
        links = snapshot.at // _LINKS_SECONDS
        key = (snapshot.alerts.version, snapshot.now_ms, snapshot.is_live, links, *astuple(self._wanted))
        if self._kept[0] != key:
            found = self._wanted.matching(snapshot.alerts.episodes, snapshot.now_ms)
            self._kept = (key, self._make(snapshot, found))
        return self._kept[1]
