"""What all pages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heartwatch.analytic import PageDefinition
from heartwatch.settings import Settings
from heartwatch.web.access import PersonTokens
from heartwatch.web.board import Snapshot
from heartwatch.web.live import Live


@dataclass(frozen=True)
class PageContext:
    """What all pages share.

    Attributes:
        settings: settings of the whole project.
        definition: what the pages show of the analytic.
        live: sends snapshots to viewers.
        shared: content that is the same for all viewers, by name (see `heartwatch.web.pages.shared`).
        tokens: stand for people in addresses.
    """

    settings: Settings
    definition: PageDefinition
    live: Live
    shared: Mapping[str, Callable[[Snapshot], Any]]
    tokens: PersonTokens
