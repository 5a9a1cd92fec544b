"""The places: how many people, and how many with an alert, are where."""

from __future__ import annotations

from markupsafe import Markup
from nicegui import ui

from heartwatch.web import tables
from heartwatch.web.pages.components import card, csv_button, image_button
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.frame import frame
from heartwatch.web.pages.shared import people_with_recent_alerts

_NOTE = "Areas at the positions of people's latest samples, north at the top; alerts of the last 10 minutes."


class PlacesPage:
    """Shows how many people, and how many with an alert, are in each area."""

    def __init__(self, context: PageContext) -> None:
        """Take what all pages share."""
        self._context = context

    def show(self) -> None:
        """Lay out the page for a viewer."""
        context, title = self._context, f"People and alerts by {self._context.definition.area_title}"
        with frame(context, "/places", "Places") as view, ui.element("div").classes("grid places"):
            with card(title, "wide"):
                ui.html(str(Markup('<p class="note">{}</p>').format(_NOTE)), sanitize=False)
                chart = view.chart(context.shared["density"], "chart map")
                with ui.element("div").classes("actions"):
                    image_button(chart, title)
            with card("Numbers"):
                view.panel(context.shared["areas"], "limited")
                csv_button("places", self._csv)

    def _csv(self) -> bytes:
        snapshot = self._context.live.snapshot
        return tables.areas_csv(snapshot, people_with_recent_alerts(snapshot), self._context.definition)
