"""The pages that are shown instead of others: not found, and failed."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from nicegui import Client, ui
from nicegui.page import page as page_of

from heartwatch.web import views
from heartwatch.web.pages.components import card
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.frame import frame

_NOT_FOUND = 404


class ErrorPages:
    """Answers requests for pages that don't exist or can't be shown."""

    def __init__(self, context: PageContext) -> None:
        """Take what all pages share."""
        self._context = context

    async def not_found(self, request: Request, _: Exception) -> Response:
        """Answer a request for something that doesn't exist."""
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"detail": "not found"}, _NOT_FOUND)
        with Client(page_of("", title="Not found · HeartWatch"), request=request) as client:
            self._show("Page not found", "The address is wrong, or the page no longer exists.")
        return client.build_response(request, _NOT_FOUND)

    def failed(self, error: Exception) -> None:
        """Show that a page can't be made; the framework logs why."""
        self._show("This page cannot be shown", f"{type(error).__name__}: see the web server's log for the details.")

    def _show(self, title: str, text: str) -> None:
        with frame(self._context, "", title), card("What to do"):
            ui.html(views.empty(text, "Choose one of the sections above."), sanitize=False)
