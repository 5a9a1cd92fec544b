"""Components that several pages have: cards and buttons."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from markupsafe import Markup
from nicegui import ui

LOADING = '<div class="loading" role="status"><span class="hidden">Loading</span><div class="bone"></div></div>'
"""HTML of a panel whose content is on its way."""

# Icons as SVG paths, so the browser doesn't load a font of thousands for these few.
CONTRAST_ICON = "M12 2a10 10 0 1 0 0 20a10 10 0 0 0 0-20zm0 2v16a8 8 0 0 1 0-16z"
PRINTER_ICON = "M7 3h10v4H7zM4 8h16a2 2 0 0 1 2 2v6h-4v-2H6v2H2v-6a2 2 0 0 1 2-2zM8 16h8v5H8z"
DOWN_ICON = "M7 10l5 5 5-5z"
CROSS_ICON = "M6 4.6L12 10.6 18 4.6 19.4 6 13.4 12 19.4 18 18 19.4 12 13.4 6 19.4 4.6 18 10.6 12 4.6 6z"
_IMAGE_ICON = "M3 4h18v16H3zM6 17h12l-4-7-3 5-2-3z"
_TABLE_ICON = "M3 4h18v16H3zM5 8v4h6v-4zM13 8v4h6v-4zM5 14v4h6v-4zM13 14v4h6v-4z"


@contextmanager
def card(title: str, classes: str = "") -> Iterator[None]:
    """Add a card with a heading; its content goes inside."""
    with ui.element("section").classes(f"card {classes}").props(f'aria-label="{title}"'):
        ui.html(str(Markup("<h2>{}</h2>").format(title)), sanitize=False)
        yield


def action_button(label: str, on_click: Callable[[], Any], classes: str = "act") -> None:
    """Add a button that acts on the pipeline."""
    ui.button(label, on_click=on_click, color=None).props("unelevated no-caps").classes(classes)


def icon_button(icon: str, label: str, script: str) -> None:
    """Add a button that runs a script in the browser."""
    button = ui.button(icon=icon, color=None).props(f'flat round dense aria-label="{label}"').classes("tool")
    with button.on("click", js_handler=script):
        ui.tooltip(label)


def csv_button(name: str, content: Callable[[], bytes]) -> None:
    """Add a button that saves a table; its content goes through the page's socket, so no address reveals it."""
    ui.button(
        "CSV", icon=_TABLE_ICON, on_click=lambda: ui.download.content(content(), f"{name}.csv", "text/csv")
    ).props(f'flat dense no-caps aria-label="Save {name} as CSV"').classes("small")


def image_button(chart: ui.echart, title: str) -> None:
    """Add a button that saves a chart as an image."""

    async def save() -> None:
        url = await chart.run_chart_method("getDataURL", timeout=5)
        head, _, body = str(url).partition(",")
        content = b64decode(body) if head.endswith("base64") else unquote(body).encode()
        ui.download.content(content, f"{title.lower().replace(' ', '-')}.svg", "image/svg+xml")

    ui.button("Image", icon=_IMAGE_ICON, on_click=save).props(
        f'flat dense no-caps aria-label="Save {title} as an image"'
    ).classes("small")
