"""What is on viewers' pages, and how news gets there: everything is made once and handed to all of them."""

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
    """An element, the property that holds what it shows, what makes that of a snapshot, and what was made last."""

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
        """Show something; the viewer is told."""
        self.last = made
        self.element.props[self.name] = self.wrap(made)


class View:
    """One viewer's page: its elements, and what each shows of a snapshot."""

    def __init__(self, snapshot: Snapshot, client: Client) -> None:
        """Begin empty.

        Args:
            snapshot: what new elements show at once.
            client: the page.
        """
        self.client = client
        self._snapshot = snapshot
        self._shown: list[_Shown] = []

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
        """What pages have in common that have the same elements as this one, as far as all see the same in them."""
        return tuple((one.element.tag, one.element.id) for one in self._shown if one.shared)

    def shared_news(self, snapshot: Snapshot) -> dict[int, Any]:
        """Return what has changed of what all viewers see, by the element's position among the page's."""
        made = {index: one.make(snapshot) for index, one in enumerate(self._shown) if one.shared}
        return {index: what for index, what in made.items() if what != self._shown[index].last}

    def take(self, news: Mapping[int, Any]) -> None:
        """Take news as shown: they go to many viewers at once, this one among them."""
        for index, made in news.items():
            self._shown[index].last = made

    def elements(self, news: Mapping[int, Any]) -> list[Element]:
        """Return the elements that show news, with them, for others to send."""
        changed = [self._shown[index] for index in news]
        for one in changed:
            with one.element.props.suspend_updates():
                one.put(one.last)
        return [one.element for one in changed]

    def show_own(self, snapshot: Snapshot) -> None:
        """Bring up to date what only this viewer sees."""
        self._snapshot = snapshot
        self._bring(snapshot, self._own)

    def show(self, snapshot: Snapshot) -> None:
        """Bring the page up to date by itself; what stays the same is not sent again."""
        self._snapshot = snapshot
        self._bring(snapshot, self._shown)

    def _bring(self, snapshot: Snapshot, shown: Sequence[_Shown]) -> None:
        for one in shown:
            made = one.make(snapshot)
            if made is not one.last and made != one.last:
                one.put(made)

    @cached_property
    def _own(self) -> list[_Shown]:
        return [one for one in self._shown if not one.shared]

    def again(self) -> None:
        """Show the same snapshot again: the viewer asked for something else of it."""
        self.show(self._snapshot)

    def everything_again(self) -> None:
        """Send all of it again: the viewer was away for a moment."""
        for one in self._shown:
            one.put(one.last)


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
            # A reading may end after the loop has.
            with suppress(RuntimeError):
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
        view = View(self.snapshot, ui.context.client)
        view.client.on_connect(lambda: self._join(view))
        view.client.on_delete(lambda: self._leave(view))
        return view

    @property
    def viewers(self) -> int:
        """How many look."""
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
            # Where Kafka hangs the others have news all the same.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _FALLBACK_SECONDS)
            self._news.clear()
            try:
                self.snapshot = self.board.snapshot()
            except Exception:
                logger.exception("no snapshot could be made; the next one may do")
                continue
            kinds: dict[Any, list[View]] = {}
            for view in self._views:
                kinds.setdefault(view.kind, []).append(view)
            for views in kinds.values():
                try:
                    await self._show(views)
                except Exception:
                    logger.exception("pages could not be brought up to date")

    async def _show(self, views: Sequence[View]) -> None:
        """Bring pages with the same elements up to date: what all see is encoded once and sent to all of them."""
        news = views[0].shared_news(self.snapshot)
        for view in views:
            view.take(news)
        if news:
            await send_to_all([view.client for view in views], views[0].elements(news))
        for number, view in enumerate(views):
            view.show_own(self.snapshot)
            if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                await asyncio.sleep(0)
