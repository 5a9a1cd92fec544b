"""Real Iceberg tables in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from sinks import open_folder


@pytest.fixture
def catalog(tmp_path: Path) -> SqlCatalog:
    return open_folder(tmp_path)
