"""What a plan knows of an expression: its type, its value as a Polars expression, and where its evaluation fails.

The expressions themselves are in `ksqlengine.expressions`; a plan's steps and the execution need no more of them than this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import polars as pl

    from ksqlengine.types.sqltypes import SqlType


@dataclass(frozen=True)
class EvaluationError:
    """Rows of a frame that go to the processing log, and why.

    Attributes:
        condition: TRUE for these rows.
        message: ksqlDB's words for the failure.
    """

    condition: pl.Expr
    message: str


class Expression(Protocol):
    """A typed expression over a step's columns."""

    @property
    def type(self) -> SqlType:
        """The value's type."""

    @property
    def columns(self) -> frozenset[str]:
        """Names of the frame's columns that the expression reads."""

    def to_polars(self) -> pl.Expr:
        """Return the value in each row; NULL where evaluation fails."""

    def errors(self) -> tuple[EvaluationError, ...]:
        """Return which rows must be logged, and why."""

    def __str__(self) -> str:
        """Return the SQL it came from, as EXPLAIN prints it."""
