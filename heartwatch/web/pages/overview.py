"""The overview: the pipeline at a glance."""

from __future__ import annotations

from nicegui import ui

from heartwatch.web import tables, views
from heartwatch.web.live import View
from heartwatch.web.pages.components import card, csv_button, image_button
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.frame import frame


class OverviewPage:
    """Shows the pipeline."""

    def __init__(self, context: PageContext) -> None:
        """Take what all pages share."""
        self._context = context

    def show(self) -> None:
        """Lay out the page for a viewer."""
        with frame(self._context, "/", "Pipeline") as view, ui.element("div").classes("overview"):
            with ui.element("div").classes("grid figures"):
                with card("First stream", "tall"):
                    self._panel(view, "stream")
                    self._chart(view, "throughput", "First stream")
                with card("Final table", "tall"):
                    self._panel(view, "table")
                    self._chart(view, "alerts_per_minute", "Final table")
            with ui.element("div").classes("grid thirds"):
                self._panel_card(view, "Throughput", "objective")
                self._panel_card(view, "Latest measurement", "measured")
                self._panel_card(view, "Sink verification", "verified")
            # Changing content comes first: a phone shows one column below the other, a wall display more columns in this order.
            with ui.element("div").classes("grid halves columns"):
                self._parts(view)
                self._runs_and_sizes(view)

    def _parts(self, view: View) -> None:
        with ui.element("div").classes("stack"):
            with card("Stages"):
                self._panel(view, "stages")
                csv_button("stages", lambda: tables.stages_csv(self._context.live.snapshot))
            self._panel_card(view, "Parts", "parts")
            with card("Connectors and queries"):
                self._panel(view, "connectors")
                self._panel(view, "queries")
            self._panel_card(view, "Brokers and partitions", "brokers")
            self._panel_card(view, "Workers", "workers")

    def _runs_and_sizes(self, view: View) -> None:
        with ui.element("div").classes("stack"):
            self._panel_card(view, "Latest flow runs", "runs")
            self._panel_card(view, "Deployment size", "sizes")
            with card("Clusters and cost"):
                least = self._context.settings.objectives.min_events_per_second
                ui.html(views.clusters(max(1.0, least)), sanitize=False)

    def _panel_card(self, view: View, title: str, name: str) -> None:
        with card(title):
            self._panel(view, name)

    def _panel(self, view: View, name: str) -> None:
        view.panel(self._context.shared[name])

    def _chart(self, view: View, name: str, title: str) -> None:
        chart = view.chart(self._context.shared[name])
        with ui.element("div").classes("actions"):
            image_button(chart, title)
            csv_button("events", lambda: tables.series_csv(self._context.live.snapshot))
