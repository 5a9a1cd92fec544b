"""NULL and conditional functions, and AS_VALUE."""

from __future__ import annotations

import polars as pl

from ksqlengine.expressions.overloads import T, register


def _nullif(value: pl.Expr, other: pl.Expr) -> pl.Expr:
    return pl.when(value.eq_missing(other)).then(None).otherwise(value)


register("AS_VALUE", "OTHER", "A key column's value, kept in the value.", (T,), T, lambda value: value)
register("COALESCE", "CONDITIONAL", "The first argument that isn't NULL.", (T, T), T, pl.coalesce,
         variadic=True, null_gives_null=False)  # fmt: skip
register("IFNULL", "CONDITIONAL", "The first argument, or the second where it is NULL.", (T, T), T,
         pl.coalesce, null_gives_null=False)  # fmt: skip
register("NULLIF", "CONDITIONAL", "NULL where both are equal, else the first argument.", (T, T), T, _nullif,
         null_gives_null=False)  # fmt: skip
