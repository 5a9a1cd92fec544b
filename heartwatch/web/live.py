"""What is on viewers' pages, and how news gets there: everything is made once and sent to all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from nicegui import Client, ui
from nicegui.element import Element

from heartwatch.web.board import Board, Snapshot
from heartwatch.web.framework import send_to_all
from heartwatch.web.views import Once

logger = logging.getLogger(__name__)

_FALLBACK_SECONDS = 2.0
_YIELD_EVERY = 20


@dataclass
class _Shown:
    """An element, the property that holds its content, what makes the content from a snapshot, and what was made last."""

    element: Element
    name: str
    make: Callable[[Snapshot], Any]
    wrap: Callable[[Any], Any]
    last: Any = None

    @property
    def shared(self) -> bool:
        """Whether all viewers see the same."""
        return isinstance(self.make, Once)

    def put(self, made: Any) -> None:
        """Show something; the framework sends it to the viewer."""
        self.last = made
        self.element.props[self.name] = self.wrap(made)


class View:
    """One viewer's page: its elements, and what each of them shows of a snapshot."""

    def __init__(self, snapshot: Snapshot, client: Client) -> None:
        """Begin empty.

        Args:
            snapshot: what new elements show immediately.
            client: the page.
        """
        self.client = client
        self._snapshot = snapshot
        self._shown: list[_Shown] = []

    def panel(self, make: Callable[[Snapshot], str], classes: str = "", live: bool = False) -> ui.html:
        """Add a piece of HTML.

        Args:
            make: makes it; the result is trusted: it must escape whatever comes from outside.
            classes: CSS classes.
            live: whether screen readers announce its changes.
        """
        element = ui.html("", sanitize=False).classes(classes)
        if live:
            element.props("role=status aria-live=polite")
        self._add(_Shown(element, "innerHTML", make, str))
        return element

    def chart(self, make: Callable[[Snapshot], bytes], classes: str = "chart") -> ui.echart:
        """Add a chart.

        Args:
            make: makes ECharts' options, as JSON.
            classes: CSS classes.
        """
        element = ui.echart({}, renderer="svg").classes(classes)
        # Encoded once for all viewers.
        self._add(_Shown(element, "options", make, orjson.Fragment))
        return element

    def _add(self, shown: _Shown) -> None:
        shown.put(shown.make(self._snapshot))
        self._shown.append(shown)

    @cached_property
    def kind(self) -> tuple[tuple[str, int], ...]:
        """Equal for pages with the same elements, as far as their content is the same for all viewers."""
        return tuple((shown.element.tag, shown.element.id) for shown in self._shown if shown.shared)

    def shared_news(self, snapshot: Snapshot) -> dict[int, Any]:
        """Return the changed content that all viewers share, by the element's index on the page."""
        made = {index: shown.make(snapshot) for index, shown in enumerate(self._shown) if shown.shared}
        return {index: content for index, content in made.items() if content != self._shown[index].last}

    def take(self, news: Mapping[int, Any]) -> None:
        """Note news as shown: it is sent to many viewers at once, this one among them."""
        for index, made in news.items():
            self._shown[index].last = made

    def elements(self, news: Mapping[int, Any]) -> list[Element]:
        """Return the elements that show news, updated, for the caller to send."""
        changed = [self._shown[index] for index in news]
        for shown in changed:
            with shown.element.props.suspend_updates():
                shown.put(shown.last)
        return [shown.element for shown in changed]

    def show_own(self, snapshot: Snapshot) -> None:
        """Update what only this viewer sees."""
        self._snapshot = snapshot
        self._update(snapshot, self._own)

    def show(self, snapshot: Snapshot) -> None:
        """Update the page by itself; unchanged content is not sent again."""
        self._snapshot = snapshot
        self._update(snapshot, self._shown)

    def _update(self, snapshot: Snapshot, elements: Sequence[_Shown]) -> None:
        for shown in elements:
            made = shown.make(snapshot)
            if made is not shown.last and made != shown.last:
                shown.put(made)

    @cached_property
    def _own(self) -> list[_Shown]:
        return [shown for shown in self._shown if not shown.shared]

    def again(self) -> None:
        """Show the same snapshot again: the viewer asked for another part of it."""
        self.show(self._snapshot)

    def everything_again(self) -> None:
        """Send everything again: the viewer was disconnected for a moment."""
        for shown in self._shown:
            shown.put(shown.last)


def options_once(make: Callable[[Snapshot], dict[str, Any]]) -> Once[Snapshot, bytes]:
    """Return what makes a chart's options once for all viewers, as JSON."""
    return Once(lambda snapshot: orjson.dumps(make(snapshot), option=orjson.OPT_SERIALIZE_NUMPY))


class Live:
    """Sends every snapshot to every viewer."""

    def __init__(self, board: Board) -> None:
        """Begin without viewers.

        Args:
            board: reads the pipeline.
        """
        self.board = board
        self.snapshot = board.snapshot()
        self._views: set[View] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read and to send; called in the event loop."""
        loop = asyncio.get_running_loop()

        def note_news() -> None:
            # A reading may end after the loop has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._news.set)

        self.board.start(note_news)
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop reading and sending."""
        self.board.stop()
        if self._task is not None:
            self._task.cancel()

    def view(self) -> View:
        """Return a new page's view; it receives news once it is connected."""
        # Without viewers the parts are read rarely, so the first viewer's snapshot would be old.
        self.board.set_watched(True)
        view = View(self.snapshot, ui.context.client)
        view.client.on_connect(lambda: self._join(view))
        view.client.on_delete(lambda: self._leave(view))
        return view

    @property
    def viewers(self) -> int:
        """Number of viewers."""
        return len(self._views)

    def _join(self, view: View) -> None:
        if view in self._views:
            view.everything_again()
        self._views.add(view)
        self.board.set_watched(True)
        view.show(self.snapshot)

    def _leave(self, view: View) -> None:
        self._views.discard(view)
        self.board.set_watched(bool(self._views))

    async def _run(self) -> None:
        while True:
            # While Kafka hangs, the other parts have news all the same.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _FALLBACK_SECONDS)
            self._news.clear()
            try:
                self.snapshot = self.board.snapshot()
            except Exception:
                logger.exception("no snapshot could be taken; trying again at the next reading")
                continue
            kinds: dict[Any, list[View]] = {}
            for view in self._views:
                kinds.setdefault(view.kind, []).append(view)
            for views in kinds.values():
                try:
                    await self._show(views)
                except Exception:
                    logger.exception("pages could not be updated")

    async def _show(self, views: Sequence[View]) -> None:
        """Update pages with the same elements: shared content is encoded once and sent to all of them."""
        news = views[0].shared_news(self.snapshot)
        for view in views:
            view.take(news)
        if news:
            await send_to_all([view.client for view in views], views[0].elements(news))
        for number, view in enumerate(views):
            view.show_own(self.snapshot)
            if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                await asyncio.sleep(0)
