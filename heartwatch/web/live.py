"""What is on viewers' pages, and how news gets there: everything is made once and handed to all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
from nicegui import ui

from heartwatch.web.board import Board, Snapshot
from heartwatch.web.views import Once

logger = logging.getLogger(__name__)

_FALLBACK_SECONDS = 2.0
_YIELD_EVERY = 20


class View:
    """One viewer's page: its elements, and what each shows of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Begin empty.

        Args:
            snapshot: what new elements show at once.
        """
        self._snapshot = snapshot
        self._shown: list[tuple[Callable[[Snapshot], Any], Callable[[Any], None], list[Any]]] = []

    def panel(self, make: Callable[[Snapshot], str], classes: str = "", live: bool = False) -> ui.html:
        """Add a piece of HTML.

        Args:
            make: makes it; what it makes is trusted: it must escape what comes from outside.
            classes: CSS classes.
            live: whether screen readers speak its changes.
        """
        element = ui.html("", sanitize=False).classes(classes)
        if live:
            element.props("role=status aria-live=polite")
        self._add(make, lambda content: _set(element, content))
        return element

    def chart(self, make: Callable[[Snapshot], bytes], classes: str = "chart") -> ui.echart:
        """Add a chart.

        Args:
            make: makes ECharts' options, as JSON.
            classes: CSS classes.
        """
        element = ui.echart({}, renderer="svg").classes(classes)

        def show(options: bytes) -> None:
            # Encoded once for all viewers.
            element.props["options"] = orjson.Fragment(options)
            element.update()

        self._add(make, show)
        return element

    def _add(self, make: Callable[[Snapshot], Any], show: Callable[[Any], None]) -> None:
        made = make(self._snapshot)
        show(made)
        self._shown.append((make, show, [made]))

    def show(self, snapshot: Snapshot) -> None:
        """Bring the page up to date; what stays the same is not sent again."""
        self._snapshot = snapshot
        for make, show, before in self._shown:
            made = make(snapshot)
            if made is not before[0] and made != before[0]:
                before[0] = made
                show(made)

    def again(self) -> None:
        """Show the same snapshot again: the viewer asked for something else of it."""
        self.show(self._snapshot)


def _set(element: ui.html, content: str) -> None:
    element.content = content


def options_once(make: Callable[[Snapshot], dict[str, Any]]) -> Once[Snapshot, bytes]:
    """Return what makes a chart's options once for all viewers, as JSON."""
    return Once(lambda snapshot: orjson.dumps(make(snapshot), option=orjson.OPT_SERIALIZE_NUMPY))


class Live:
    """Hands every snapshot to every viewer."""

    def __init__(self, board: Board) -> None:
        """Begin without viewers.

        Args:
            board: the reader.
        """
        self.board = board
        self.snapshot = board.snapshot()
        self._views: set[View] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read and to hand out; called in the event loop."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(self._news.set)

        self.board.start(tell)
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop both."""
        self.board.stop()
        if self._task is not None:
            self._task.cancel()

    def view(self) -> View:
        """Return a new page's view; it gets news once it is connected."""
        # A snapshot of five seconds ago is as old as what nobody looks at.
        self.board.set_watched(True)
        view = View(self.snapshot)
        client = ui.context.client
        client.on_connect(lambda: self._join(view))
        client.on_delete(lambda: self._leave(view))
        return view

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._views)

    def _join(self, view: View) -> None:
        self._views.add(view)
        self.board.set_watched(True)
        view.show(self.snapshot)

    def _leave(self, view: View) -> None:
        self._views.discard(view)
        self.board.set_watched(bool(self._views))

    async def _run(self) -> None:
        while True:
            # Where Kafka hangs the others have news all the same.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _FALLBACK_SECONDS)
            self._news.clear()
            try:
                self.snapshot = self.board.snapshot()
            except Exception:
                logger.exception("no snapshot could be made; the next one may do")
                continue
            for number, view in enumerate(list(self._views)):
                try:
                    view.show(self.snapshot)
                except Exception:
                    logger.exception("a page could not be brought up to date")
                if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)
