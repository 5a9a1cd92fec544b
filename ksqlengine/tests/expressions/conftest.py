"""Fixtures of the expressions' tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from expression_rows import FRAME, ROWS, TYPES, Evaluated

from ksqlengine.language.parser import parse_expression
from ksqlengine.planning.binder import Binder


@pytest.fixture(scope="session")
def evaluate() -> Callable[[str], Evaluated]:
    """Evaluate an expression over `ROWS`."""
    binder = Binder(TYPES)

    def run(text: str) -> Evaluated:
        expression = binder.bind(parse_expression(text))
        found = FRAME.with_columns(expression.to_polars().alias("result"))["result"]
        assert found.dtype == expression.type.polars
        errors: list[list[str]] = [[] for _ in ROWS]
        for error in expression.errors():
            failed = FRAME.with_columns(error.condition.alias("failed"))["failed"]
            for row, here in zip(errors, failed, strict=True):
                row.extend([error.message] if here else [])
        return Evaluated(expression.type, found.to_list(), errors)

    return run
