"""A person: samples over time, the personal range, the alerts, the places."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from nicegui import ui

from heartwatch.analytic import PageDefinition
from heartwatch.web import charts, views
from heartwatch.web.alerts import Episode
from heartwatch.web.board import Snapshot
from heartwatch.web.pages.components import LOADING, card, image_button
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.frame import frame
from heartwatch.web.readings.traces import Trace, Traces

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 5.0


class PersonPage:
    """Shows the person that a token stands for."""

    def __init__(self, context: PageContext, traces: Traces) -> None:
        """Take what all pages share.

        Args:
            context: what all pages share.
            traces: reads people's samples.
        """
        self._context, self._traces = context, traces
        # A thread of its own: while Kafka hangs, viewed people must not occupy the threads that stop the producers.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="people")

    def stop(self) -> None:
        """Stop reading."""
        self._reading.shutdown(wait=False, cancel_futures=True)

    async def show(self, token: str) -> None:
        """Lay out the page for a viewer and keep it up to date."""
        subject = self._context.tokens.subject(token)
        if subject is None:
            self._show_expired()
            return
        panels = PersonPanels(self._context.definition, subject)
        self._lay_out(panels)
        await ui.context.client.connected()
        await self.refresh(panels)
        ui.timer(_REFRESH_SECONDS, lambda: self.refresh(panels), immediate=False)

    def _show_expired(self) -> None:
        with frame(self._context, "", "A person"), card("Link expired"):
            remedy = "Links to people are valid for 30 minutes. Open the person again from the alerts."
            ui.html(views.empty("This link is no longer valid", remedy), sanitize=False)

    def _lay_out(self, panels: PersonPanels) -> None:
        context, definition = self._context, self._context.definition

        def alerts(snapshot: Snapshot) -> str:
            mine = panels.mine(snapshot)
            return views.episodes(mine, len(mine), snapshot, context.tokens, definition)

        with frame(context, "", f"Person {panels.subject}") as view, ui.element("div").classes("grid person"):
            with card("Now"):
                panels.facts = ui.html(LOADING, sanitize=False)
            with card(f"{definition.measure_title.capitalize()}, {definition.unit}", "wide"):
                panels.trace = ui.echart({}, renderer="svg").classes("chart large")
                with ui.element("div").classes("actions"):
                    image_button(panels.trace, "Trace")
            with card("Places"):
                panels.places = ui.echart({}, renderer="svg").classes("chart square")
            with card("Alerts", "wide"):
                view.panel(alerts)

    async def refresh(self, panels: PersonPanels) -> None:
        """Read the person's latest samples and show them; the previous ones stay if they can't be read."""
        snapshot = self._context.live.snapshot
        mine = panels.mine(snapshot)
        around = mine[0].since_ms if mine else snapshot.now_ms
        try:
            run = asyncio.get_running_loop().run_in_executor
            found = await run(self._reading, self._traces.trace, panels.subject, around)
        except Exception as error:
            # The log must not say which person is viewed.
            logger.warning("a person's samples can't be read: %s", type(error).__name__)
            panels.show_unreadable()
            return
        panels.show(found, mine, snapshot)


class PersonPanels:
    """One viewer's panels about a person."""

    facts: ui.html
    trace: ui.echart
    places: ui.echart

    def __init__(self, definition: PageDefinition, subject: str) -> None:
        """Begin without elements; the page sets them."""
        self.subject = subject
        self._definition = definition
        self._shown: Any = None
        self._mine: tuple[int, list[Episode]] = (-1, [])

    def mine(self, snapshot: Snapshot) -> list[Episode]:
        """Return the person's alerts, newest first."""
        if self._mine[0] != snapshot.alerts.version:
            found = [episode for episode in snapshot.alerts.episodes if episode.subject == self.subject]
            self._mine = (snapshot.alerts.version, found)
        return self._mine[1]

    def show(self, found: Trace, mine: list[Episode], snapshot: Snapshot) -> None:
        """Show a person's samples if there are new ones."""
        key = (found.next_offset, len(mine), mine[0].last if mine else None, snapshot.is_live)
        if key == self._shown:
            return
        self._shown = key
        self.facts.set_content(views.person(found, mine, self._definition, snapshot))
        for chart, options in (
            (self.trace, charts.trace(found, mine, self._definition.unit, self._definition.measure_title)),
            (self.places, charts.places(found)),
        ):
            chart.props["options"] = orjson.Fragment(orjson.dumps(options, option=orjson.OPT_SERIALIZE_NUMPY))
            chart.update()

    def show_unreadable(self) -> None:
        """Say that the samples can't be read at the moment, unless earlier ones are shown."""
        if self._shown is None:
            reason = "Kafka, the schema registry or Postgres is not responding. Retrying."
            self.facts.set_content(views.empty("Samples cannot be read at the moment", reason))
