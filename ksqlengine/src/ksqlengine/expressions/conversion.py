"""CAST, and the implicit conversions."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ksqlengine.expressions.base import Compiled, Failure, TypedExpression, contained, once
from ksqlengine.types.casts import converted, lost, never_fails
from ksqlengine.types.sqltypes import BIGINT, DOUBLE, INTEGER, ArrayType, MapType, StructType


@dataclass(frozen=True)
class Cast(TypedExpression):
    """CAST(x AS type), and the implicit widenings INTEGER → BIGINT → DECIMAL → DOUBLE.

    Attributes:
        operand: what is converted.
        contains_failures: what fails inside gives NULL to what surrounds it; false where text is compared with a time.
    """

    operand: TypedExpression
    contains_failures: bool = True

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The operand."""
        return (self.operand,)

    @property
    def never_null(self) -> bool:
        """Widening a number that isn't NULL gives none."""
        return self.operand.never_null and self.operand.type in (INTEGER, BIGINT) and self.type in (BIGINT, DOUBLE)

    def compile(self) -> Compiled:
        """Return the converted value; NULL, logged, where there is none."""
        operand = self.operand.compile()
        source = self.operand.type
        value = once(((self.operand, operand.value),), lambda given: converted(given, source, self.type), self.type)
        failures = operand.failures
        if not never_fails(source, self.type):
            failed = lost(operand.value, source, self.type)
            if isinstance(source, ArrayType | MapType | StructType):  # what fails for a part fails
                value = pl.when(failed).then(None).otherwise(value)
            failures += (Failure(failed, f"Cast of {source} to {self.type} failed"),)
        return contained(Compiled(value, failures)) if self.contains_failures else Compiled(value, failures)
