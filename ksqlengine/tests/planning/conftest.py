"""Fixtures of the planning's tests."""

from __future__ import annotations

import pytest
from analyzer_session import SOURCES, Session


@pytest.fixture
def session() -> Session:
    """A session with a few streams and tables."""
    made = Session()
    made.run(SOURCES)
    return made
