"""Everything that the page uses of NiceGUI and of its web sockets beyond their documented interface.

`tests/unit/web/test_web_server.py` checks the assumptions behind it: an upgrade that breaks one of them fails there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import nicegui
from nicegui import Client, core, ui
from nicegui.dependencies import esm_modules
from nicegui.element import Element

_CHARTS = "nicegui-echart"
_PING_SECONDS = 10
# The page yields to the pipeline, so it or a viewer may be slow to ask and to answer; that is not a reason to disconnect.
_PATIENCE_SECONDS = 30


def prepare_sockets() -> None:
    """Let web sockets be opened and used by their own pages only, and keep slow ones open; called once the server starts."""
    core.sio.eio.cors_allowed_origins = None
    core.sio.eio.ping_interval = _PING_SECONDS
    core.sio.eio.ping_timeout = _PATIENCE_SECONDS
    for event in ("event", "javascript_response", "ack"):
        core.sio.on(event, _of_its_own_page(core.sio.handlers["/"][event]))
    # Viewers must not write to the server's log.
    core.sio.on("log", lambda socket, message: None)


def _of_its_own_page(handle: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    """Return a handler that ignores what a web socket sends in the name of another page."""

    def checked(socket: str, message: Any) -> None:
        if isinstance(message, dict) and _is_in_room(socket, message.get("client_id")):
            handle(socket, message)

    return checked


def _is_in_room(socket: str, room: Any) -> bool:
    """Return whether a web socket belongs to a page; the page is asked, as `core.sio.rooms` searches those of all viewers."""
    if not isinstance(room, str):
        return False
    return any(participant == socket for participant, _ in core.sio.manager.get_participants("/", room))


async def send_to_all(clients: Sequence[Client], elements: Iterable[Element]) -> None:
    """Show the same elements on many pages: encoded once, and without going through each page's own outbox.

    Args:
        clients: the pages; all of them have these elements under the same ids.
        elements: as one of these pages has them.
    """
    update = {element.id: element._to_dict() for element in elements}
    await core.sio.emit("update", update, room=[client.id for client in clients])


def preload_charts() -> None:
    """Let the browser fetch the charts' module with the first files of the page being made, if that page has a chart.

    Otherwise it would learn of the module from the page's last script, and of the module's largest file, a third of all
    that is loaded, from the module.
    """
    if any(isinstance(element, ui.echart) for element in ui.context.client.elements.values()):
        ui.add_head_html("".join(f'<link rel="modulepreload" href="{address}">' for address in chart_files()))


@cache
def chart_files() -> tuple[str, ...]:
    """Return the addresses of the charts' module and of the files that it imports immediately."""
    key, module = next((key, module) for key, module in esm_modules.items() if module.name == _CHARTS)
    imported = re.findall(r'from\s*"\./([^"]+)"', (module.path / "index.js").read_text(encoding="utf-8"))
    return tuple(f"/_nicegui/{nicegui.__version__}/esm/{key}/{name}" for name in ("index.js", *imported))
