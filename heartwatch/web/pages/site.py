"""All pages of the process: builds them, registers them with the framework, and starts and stops what they read."""

from __future__ import annotations

from typing import Any

from nicegui import app as framework
from nicegui import ui

from heartwatch.analytic import Analytic, AnalyticError
from heartwatch.settings import Settings
from heartwatch.web.access import Gate, PersonTokens
from heartwatch.web.board import Board
from heartwatch.web.live import Live
from heartwatch.web.operations import KsqlConsole, Operations
from heartwatch.web.outages import Crier
from heartwatch.web.pages.alerts import AlertsPage
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.errors import ErrorPages
from heartwatch.web.pages.frame import HEAD
from heartwatch.web.pages.operate import OperatePage
from heartwatch.web.pages.overview import OverviewPage
from heartwatch.web.pages.person import PersonPage
from heartwatch.web.pages.places import PlacesPage
from heartwatch.web.pages.shared import shared_content
from heartwatch.web.prefect_api import PrefectApi
from heartwatch.web.readings.traces import Traces


class Pages:
    """All pages of one process."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        """Build the pages; nothing is read before `start`.

        Args:
            settings: settings of the whole project.
            gate: keeps the sessions.

        Raises:
            AnalyticError: the analytic of the settings doesn't say what its page shows, or lacks a role.
        """
        analytic = Analytic.of(settings.pipeline)
        definition = analytic.page
        if definition is None:
            raise AnalyticError(
                f"analytic {analytic.analytic!r} has no [page] in its analytic.toml; add it and say there what to show"
            )
        prefect, tokens = PrefectApi(settings), PersonTokens()
        board = Board(settings, analytic, definition, prefect)
        self._live, self._crier = Live(board), Crier(PrefectApi(settings), board.snapshot)
        shared = shared_content(settings, definition, tokens, prefect.ui_url)
        context = PageContext(settings, definition, self._live, shared, tokens)
        self._overview, self._alerts, self._places = OverviewPage(context), AlertsPage(context), PlacesPage(context)
        self.person = PersonPage(context, Traces(settings, analytic, definition))
        self._operate = OperatePage(context, gate, Operations(prefect), KsqlConsole(settings))
        self._errors = ErrorPages(context)

    def start(self) -> None:
        """Begin to read the parts; called in the event loop."""
        self._live.start()
        self._crier.start()

    def stop(self) -> None:
        """Stop reading."""
        self._live.stop()
        self._crier.stop()
        self.person.stop()

    def state(self) -> dict[str, Any]:
        """Return the number of viewers, and which parts answer."""
        return {
            "viewers": self._live.viewers,
            "parts": {health.part: health.up for health in self._live.snapshot.health},
        }

    def register(self) -> None:
        """Register the pages with the framework."""
        ui.add_head_html(HEAD, shared=True)
        ui.page("/", title="Overview · HeartWatch")(self._overview.show)
        ui.page("/alerts", title="Alerts · HeartWatch")(self._alerts.show)
        ui.page("/places", title="Places · HeartWatch")(self._places.show)
        ui.page("/person/{token}", title="A person · HeartWatch")(self.person.show)
        ui.page("/operate", title="Operate · HeartWatch")(self._operate.show)
        framework.exception_handler(404)(self._errors.not_found)
        framework.on_page_exception(self._errors.failed)
