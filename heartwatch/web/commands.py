"""``heartwatch web``: serve the live page."""

from __future__ import annotations

from heartwatch.extras import require
from heartwatch.settings import load_settings


def web(*, host: str | None = None, port: int | None = None) -> None:
    """Serve the live page: the pipeline, the alerts and the people at a glance.

    Args:
        host: address to listen on; the settings' by default.
        port: port to listen on; the settings' by default.
    """
    require("web")
    # Only who serves it needs the framework.
    from heartwatch.web.server import serve  # noqa: PLC0415

    settings = load_settings()
    serve(settings, host or settings.web.host, port or settings.web.port)
