"""What the demo needs beside Prefect: whether anything has to be deployed again, and what was found, as tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from heartwatch.settings import ROOT, Settings


def digest() -> str:
    """Return a digest of prefect.yaml, the automations and the code: the server keeps the flows' parameter schemas."""
    packages = [find_spec(name) for name in ("flows", "tasks", "heartwatch", "ksqlengine", "kafkakit")]
    folders = [Path(folder) for package in packages if package for folder in package.submodule_search_locations or ()]
    code = [path for folder in folders for path in folder.rglob("*.py")]
    files = [ROOT / "prefect.yaml", *sorted((ROOT / "deployments" / "automations").glob("*.yaml")), *sorted(code)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def found_tables(settings: Settings, result: Mapping[str, Any], seconds: float) -> Group:
    """Return what was found, as tables."""
    alerts: list[dict[str, str]] = result["alerts"]["rows"]
    shown = Table(title="Newest alerts", title_justify="left")
    for name in alerts[0] if alerts else ():
        shown.add_column(name)
    for row in alerts:
        shown.add_row(*row.values())
    found = Table(title=f"Found in {seconds:.0f} s", title_justify="left", show_header=False)
    for name, text in result["summary"].items():
        found.add_row(name, text)
    where = Table(title="Where to look", title_justify="left", show_header=False)
    for name, address in addresses(settings).items():
        where.add_row(name, address)
    return Group(shown, found, where)


def addresses(settings: Settings) -> dict[str, str]:
    """Return the addresses of what is up."""
    api = settings.prefect.api_url or ""
    scheme = "https" if settings.web.certificate_file else "http"
    return {
        "live page": f"{scheme}://{settings.web.host}:{settings.web.port}",
        "Prefect": f"{api.removesuffix('/api')}, password: auth_string of [prefect] in {settings.home / 'secrets.toml'}",
        "Kafka": settings.kafka.bootstrap_servers,
        "schema registry": settings.registry.url,
        "Kafka Connect": settings.connect.url,
        "KSQL": ", ".join(settings.ksqldb.urls),
        "Postgres": f"{settings.postgres.host}:{settings.postgres.port}/{settings.postgres.database}",
        "S3": f"{settings.s3.endpoint or 'AWS'}, bucket {settings.s3.bucket}",
    }
