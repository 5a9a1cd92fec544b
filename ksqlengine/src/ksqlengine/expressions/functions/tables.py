"""Table functions: each gives an array, of which a query makes rows (`ksqlengine.plan.steps.FlatMapStep`)."""

from __future__ import annotations

from itertools import product
from typing import Any

from ksqlengine.expressions.overloads import Function, T, register, row_by_row
from ksqlengine.types.sqltypes import ArrayType

TABLE_FUNCTIONS: dict[str, Function] = {}
_MOST_COLUMNS = 20  # of CUBE_EXPLODE, ksqlDB's: 2 to the 20th rows


def _cube(columns: list[Any]) -> list[list[Any]]:
    """Return all combinations of the values and NULL; a column that is NULL has only itself."""
    if len(columns) > _MOST_COLUMNS:
        raise ValueError(f"{len(columns)} columns are too many, {_MOST_COLUMNS} are the most")
    choices = [(None,) if column is None else (None, column) for column in columns]
    return [list(row) for row in product(*choices)]


register("EXPLODE", "TABLE", "One row for each element of an array.", (ArrayType(element=T),), ArrayType(element=T),
         lambda array: array, into=TABLE_FUNCTIONS)  # fmt: skip
row_by_row("CUBE_EXPLODE", "TABLE", "One row for each combination of an array's elements and NULL.", (ArrayType(element=T),),
           ArrayType(element=ArrayType(element=T)), _cube, may_fail=True, into=TABLE_FUNCTIONS)  # fmt: skip
