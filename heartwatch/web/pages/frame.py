"""What surrounds every page: header, navigation, the banner of parts that don't answer, footer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from markupsafe import Markup
from nicegui import ui

from heartwatch.web.framework import preload_charts
from heartwatch.web.live import View
from heartwatch.web.pages.components import CONTRAST_ICON, PRINTER_ICON, icon_button
from heartwatch.web.pages.context import PageContext

HEAD = (
    '<link rel="stylesheet" href="/static/page.css"><script defer src="/static/page.js"></script>'
    '<meta name="description" content="HeartWatch: people whose measurements leave their personal range.">'
)
"""HTML in the head of every page."""

_SECTIONS = {"/": "Overview", "/alerts": "Alerts", "/places": "Places", "/operate": "Operate"}
_LOOK = "heartwatch_look"
_SWITCH_LOOK = (
    "() => { Quasar.Dark.toggle(); const look = Quasar.Dark.isActive ? 'dark' : 'light'; "
    f"document.cookie = `{_LOOK}=${{look}}; path=/; max-age=31536000; samesite=strict`; }}"
)
_FOOT = (
    "<p>Times are in UTC. Totals count from the start of KSQL. HeartWatch is not a medical device.</p>"
    "<p class='printed'></p>"
)


@contextmanager
def frame(context: PageContext, here: str, title: str) -> Iterator[View]:
    """Lay out what all pages have; the page's own content goes inside.

    Args:
        context: what all pages share.
        here: path of the section that the page is; empty if it is not one.
        title: the page's heading.
    """
    view = context.live.view()
    ui.dark_mode({"dark": True, "light": False}.get(ui.context.client.request.cookies.get(_LOOK, "")))
    with ui.element("div").classes("page"):
        with ui.element("header").classes("top"):
            ui.html(_brand(here), sanitize=False).classes("brand-and-nav")
            with ui.element("div").classes("tools"):
                view.panel(context.shared["pill"], "pill", live=True)
                # Both run in the browser: there is nothing to ask the server for.
                icon_button(CONTRAST_ICON, "Switch between light and dark", _SWITCH_LOOK)
                icon_button(PRINTER_ICON, "Print or save as PDF", "() => window.print()")
        with ui.element("div").classes("content") as content:
            ui.html(str(Markup("<h1>{}</h1>").format(title)), sanitize=False).classes("title")
            view.panel(context.shared["banner"], live=True)
            yield view
        ui.html(_FOOT, sanitize=False, tag="footer").classes("foot")
    ui.skip_link("Skip to content", target=content)
    preload_charts()


def _brand(here: str) -> str:
    links = Markup("").join(
        Markup('<a href="{}"{}>{}</a>').format(path, Markup(' aria-current="page"') if path == here else "", name)
        for path, name in _SECTIONS.items()
    )
    brand = Markup(
        '<a class="brand" href="/"><img src="/static/favicon.svg" alt="" width="28" height="28">HeartWatch</a>'
    )
    return str(brand + Markup('<nav aria-label="Sections">{}</nav>').format(links))
