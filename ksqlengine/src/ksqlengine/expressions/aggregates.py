"""Aggregate functions over columns.

The contract with the execution
-------------------------------
`bind` turns an `AggregateCall` of the plan into an `Aggregate`, which works in three moves, all of them Polars expressions:

1. `Aggregate.partial`: in ``frame.group_by(…).agg(…)`` over input rows, gives the state columns of each group. The arguments
   are compiled already; a group's rows must be in arrival order (a group keeps its rows' order in Polars).
2. `Aggregate.merge`: in ``states.group_by(…).agg(…)`` over rows of states of the same group, in arrival order, gives the
   state columns again, under the same names. ``partial`` of a whole equals ``merge`` of the partials of its parts.
3. `Aggregate.result`: over a state row, gives the output column (named `AggregateCall.output`).

State columns are named ``<output>.<state>`` (`Aggregate.states` gives names and types), so several aggregates' states stand
in one frame. States of COUNT, SUM, AVG, MIN, MAX, STDDEV and CORRELATION are plain numbers; those of the others are lists.

Over a table, rows are also taken out of their group again: `Aggregate.undo` gives the state that does so when merged. Only
functions with `AggregateFunction.undoes` can do that, and `bind` must know, for some of them keep more then.

Null rules and result types are ksqlDB's, its oddities included: SUM and AVG of nothing are 0; SUM and AVG of INTEGER add up
in INTEGER, which wraps; STDDEV_SAMP gives the variance, STDDEV_SAMPLE the deviation. COUNT_DISTINCT is exact here (ksqlDB
estimates it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from functools import reduce
from typing import Any, cast

import polars as pl

from ksqlengine.plan.expression import Expression
from ksqlengine.plan.steps import AggregateCall
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row, in_java_order
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    DOUBLE,
    INTEGER,
    MOST_DIGITS,
    STRING,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
)

HISTOGRAM_LIMIT = 1000  # distinct values that HISTOGRAM counts (ksqlDB's)


@dataclass(frozen=True)
class StateColumn:
    """One state column.

    Attributes:
        name: what it holds; the column is ``<output>.<name>``.
        type: the column's type.
        partial: over a group's input rows.
        merge: over a group's state rows, in arrival order.
    """

    name: str
    type: pl.DataType
    partial: pl.Expr
    merge: pl.Expr


@dataclass(frozen=True)
class Aggregate:
    """An aggregate function over one call's columns."""

    output: str
    columns: tuple[StateColumn, ...]
    value: pl.Expr
    inputs: frozenset[str]
    undoing: tuple[StateColumn, ...] | None = None

    @property
    def states(self) -> dict[str, pl.DataType]:
        """State columns' names and types."""
        return {self._name(state): state.type for state in self.columns}

    @property
    def partial(self) -> list[pl.Expr]:
        """State columns from a group's rows."""
        return [state.partial.cast(state.type).alias(self._name(state)) for state in self.columns]

    @property
    def undo(self) -> list[pl.Expr] | None:
        """State columns that take a group's rows away, None where that can't be."""
        if self.undoing is None:
            return None
        return [state.partial.cast(state.type).alias(self._name(state)) for state in self.undoing]

    @property
    def merge(self) -> list[pl.Expr]:
        """State columns from a group's states."""
        return [state.merge.cast(state.type).alias(self._name(state)) for state in self.columns]

    @property
    def result(self) -> pl.Expr:
        """The output column from a state."""
        return self.value.alias(self.output)

    def _name(self, state: StateColumn) -> str:
        return f"{self.output}.{state.name}"


@dataclass(frozen=True)
class Bound:
    """What a function's builder sees of a call."""

    call: AggregateCall
    arguments: tuple[pl.Expr, ...]
    taken_out: bool | None = None  # whether the rows are taken out again; None where none ever are

    def signed(self, value: pl.Expr) -> pl.Expr:
        """Return what rows add to a sum: the values, or their opposites where the rows are taken out."""
        return -value if self.taken_out else value

    def state(self, name: str) -> pl.Expr:
        """Return a state column by its short name."""
        return pl.col(f"{self.call.output}.{name}")

    def limited(self, values: pl.Expr) -> pl.Expr:
        """Return the first values, as many as the call may have."""
        return values if self.call.limit is None else values.head(self.call.limit)

    @property
    def argument_type(self) -> SqlType:
        """Type of the first argument."""
        return self.call.arguments[0].type

    @property
    def comparable(self) -> pl.Expr:
        """First argument in a form that is the same for equal values."""
        return _in_order(self.arguments[0], self.argument_type)

    def constant(self, index: int, default: Any = None) -> Any:
        """Return a constant argument."""
        return self.call.constants[index] if index < len(self.call.constants) else default


Builder = Callable[[Bound], tuple[list[StateColumn], pl.Expr]]


@dataclass(frozen=True)
class AggregateFunction:
    """An aggregate function as SQL sees it.

    Attributes:
        name: upper case.
        description: for DESCRIBE FUNCTION.
        accepts: for each argument, the types it may have; None takes any.
        returns: result type, from the arguments' types and the constants.
        build: the columns.
        constants: kinds of the literal arguments that may follow ("int", "bool"), all optional but those of `required`.
        required: how many constants must be there.
        optional_arguments: how many arguments may be left out (COUNT's).
        variadic: further arguments of any type may stand before the constants.
        undoes: rows can be taken out again, so that the function works over tables.
        same_types: all arguments must have the same type.
        nested: ksqlDB keeps a list, map or struct meanwhile, which its plain formats can't hold.
    """

    name: str
    description: str
    accepts: tuple[tuple[str, ...] | None, ...]
    returns: Callable[[Sequence[SqlType], Sequence[Any]], SqlType]
    build: Builder
    constants: tuple[str, ...] = ()
    required: int = 0
    optional_arguments: int = 0
    variadic: bool = False
    undoes: bool = False
    nested: bool = True
    same_types: bool = False

    def count_arguments(self, given: int) -> int:
        """Return how many of the values in parentheses are arguments; constants follow."""
        return given - len(self.constants) if self.variadic else min(given, len(self.accepts))


def bind(call: AggregateCall, over_table: bool = False) -> Aggregate:
    """Return the aggregate that a plan's call asks for.

    Args:
        call: the plan's.
        over_table: rows may be taken out again (only for functions that undo).

    Raises:
        KeyError: there is no such function (the analyzer checked it).
    """
    bound = Bound(call, tuple(_per_row(argument) for argument in call.arguments), False if over_table else None)
    build = AGGREGATES[call.function].build
    states, value = build(bound)
    undoing = tuple(build(replace(bound, taken_out=True))[0]) if over_table else None
    columns = frozenset(name for argument in call.arguments for name in argument.columns)
    return Aggregate(call.output, tuple(states), value, columns, undoing)


def _per_row(argument: Expression) -> pl.Expr:
    """Return an argument's value in each row of a group; a constant must be as long as the group."""
    value = argument.to_polars()
    return value if argument.columns else pl.when(pl.int_range(pl.len()) >= 0).then(value)


# ---------------------------------------------------------------------------------------------------- numbers
def _counted(bound: Bound, present: pl.Expr) -> StateColumn:
    ones = bound.signed(present.cast(pl.Int64))
    return StateColumn("count", pl.Int64(), ones.sum(), bound.state("count").sum())


def _summed(bound: Bound, name: str, kind: pl.DataType, values: pl.Expr) -> StateColumn:
    return StateColumn(name, kind, bound.signed(values).sum(), bound.state(name).sum())


def _count(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    if not bound.arguments:
        rows = bound.signed(pl.len().cast(pl.Int64))
        return [StateColumn("count", pl.Int64(), rows, bound.state("count").sum())], bound.state("count")
    return [_counted(bound, bound.arguments[0].is_not_null())], bound.state("count")


def _sum(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    if isinstance(bound.argument_type, DecimalType):
        return _decimal_sum(bound, bound.argument_type, bound.arguments[0])
    return [_summed(bound, "sum", bound.argument_type.polars, bound.arguments[0])], bound.state("sum")


def _list_sum(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    element = cast(ArrayType, bound.argument_type).element
    if isinstance(element, DecimalType):
        return _decimal_sum(bound, element, bound.arguments[0].explode())
    return [_summed(bound, "sum", element.polars, bound.arguments[0].list.sum())], bound.state("sum")


_SUMMED_SAFELY = 28  # digits; ten thousand million such numbers have a sum of 38


def _decimal_sum(bound: Bound, type_: DecimalType, values: pl.Expr) -> tuple[list[StateColumn], pl.Expr]:
    """Return the sum in all the digits that there are; it is NULL while its type can't hold it.

    Polars' sum of a group turns over beyond 38 digits. Where that may come, Python adds, and a sum that was too large once stays
    NULL.
    """
    widest, total = replace(type_, precision=MOST_DIGITS), bound.state("sum")
    wide = widest.polars
    if type_.precision <= _SUMMED_SAFELY:
        summed = StateColumn("sum", wide, bound.signed(values).cast(wide).sum(), total.sum())
        return [summed], total.cast(type_.polars, strict=False)

    def added(groups: Sequence[pl.Series]) -> pl.Series:
        result = reduce(_EXACT.add, groups[0].drop_nulls().to_list(), Decimal(0))
        return pl.Series([result if widest.fits(result) else None], dtype=wide)

    def over(given: pl.Expr) -> pl.Expr:
        return pl.map_groups([given], added, return_dtype=wide, returns_scalar=True)

    partial, merged, lost = over(bound.signed(values)), over(total), bound.state("lost")
    states = [
        StateColumn("sum", wide, partial, merged),
        StateColumn("lost", pl.Boolean(), partial.is_null(), lost.any() | merged.is_null()),
    ]
    return states, pl.when(~lost).then(total.cast(type_.polars, strict=False))


_EXACT = Context(prec=100)


def _average(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    argument = bound.arguments[0]
    states = [_summed(bound, "sum", bound.argument_type.polars, argument), _counted(bound, argument.is_not_null())]
    total, count = bound.state("sum"), bound.state("count")
    return states, pl.when(count == 0).then(pl.lit(0.0)).otherwise(total.cast(pl.Float64) / count)


def _extreme(bound: Bound, name: str, pick: Callable[[pl.Expr], pl.Expr]) -> tuple[list[StateColumn], pl.Expr]:
    type_, kept = bound.argument_type, bound.state(name)

    def of(values: pl.Expr) -> pl.Expr:
        return in_java_order(pick(in_java_order(values, type_)), type_)

    return [StateColumn(name, type_.polars, of(bound.arguments[0]), of(kept))], kept


def _minimum(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    return _extreme(bound, "min", pl.Expr.min)


def _maximum(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    # NaN is the largest number to Java.
    return _extreme(bound, "max", pl.Expr.nan_max if bound.argument_type == DOUBLE else pl.Expr.max)


def _squares(counts: pl.Expr, sums: pl.Expr, squares: pl.Expr) -> pl.Expr:
    """Return the squared distances from the mean of parts together, one part after the other in ksqlDB's order.

    Source: Youngs and Cramer's update, which adds (n·x - S)² / (n·(n - 1)) for the n-th value x with the sum S; a part of several
    values, or one that is taken out (count -1), has the same form.
    """
    count, total = counts.cum_sum(), sums.cum_sum()
    apart = (count * sums - counts * total).cast(pl.Float64)
    divisor = (count - counts).cast(pl.Float64) * counts * count
    added = pl.when(divisor != 0).then(apart**2 / divisor).otherwise(pl.lit(0.0))
    return pl.when(counts.sum() != 0).then((squares + added).sum()).otherwise(pl.lit(0.0))


def _moments(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    """States of the variance: count, sum, and squared distances from the mean."""
    kind = pl.Int64() if bound.argument_type in (INTEGER, BIGINT) else pl.Float64()
    value = bound.arguments[0].cast(kind)
    ones = bound.signed(value.is_not_null().cast(pl.Int64))
    values = bound.signed(value.fill_null(0))
    count, total, squares = bound.state("count"), bound.state("sum"), bound.state("m2")
    states = [
        StateColumn("count", pl.Int64(), ones.sum(), count.sum()),
        StateColumn("sum", kind, values.sum(), total.sum()),
        StateColumn("m2", pl.Float64(), _squares(ones, values, pl.lit(0.0)), _squares(count, total, squares)),
    ]
    variance = pl.when(count < 2).then(pl.lit(0.0)).otherwise(squares / (count - 1))
    return states, variance


def _deviation(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    states, variance = _moments(bound)
    return states, variance.sqrt()


def _correlation(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    both = bound.arguments[0].is_not_null() & bound.arguments[1].is_not_null()
    x, y = (pl.when(both).then(argument.cast(pl.Float64)) for argument in bound.arguments)
    parts = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    states = [*(_summed(bound, name, pl.Float64(), part) for name, part in parts.items()), _counted(bound, both)]
    count = bound.state("count")
    sums = {name: bound.state(name) for name in parts}
    spread = (count * sums["xx"] - sums["x"] ** 2) * (count * sums["yy"] - sums["y"] ** 2)
    return states, (count * sums["xy"] - sums["x"] * sums["y"]) / spread.sqrt()


# ---------------------------------------------------------------------------------------------------- lists
def _flat(column: pl.Expr) -> pl.Expr:
    return column.explode(empty_as_null=False, keep_nulls=False)


def _list_state(bound: Bound, partial: pl.Expr, merge: Callable[[pl.Expr], pl.Expr]) -> StateColumn:
    kind = pl.List(bound.argument_type.polars)
    return StateColumn("list", kind, partial.implode(), merge(_flat(bound.state("list"))).implode())


def _collect_list(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    if bound.taken_out is not None:
        return _marked_values(bound, bound.taken_out)
    return [_list_state(bound, bound.limited(bound.arguments[0]), bound.limited)], bound.state("list")


_TAKEN = "taken"


def _marked_values(bound: Bound, taken_out: bool) -> tuple[list[StateColumn], pl.Expr]:
    """States of COLLECT_LIST over a table: the values in order, with those to be taken out that aren't there (yet).

    A group at a time: which value goes depends on the values before.
    """
    kind = bound.argument_type.polars
    state_kind = pl.List(pl.Struct({VALUE_FIELD: kind, _TAKEN: pl.Boolean()}))
    entries, limit = bound.state("list"), bound.call.limit

    def left_over(items: list[Any]) -> list[Any]:
        kept: list[Any] = []
        for item in items:
            same = [
                index
                for index, kept_item in enumerate(kept)
                if not kept_item[_TAKEN] and kept_item[VALUE_FIELD] == item[VALUE_FIELD]
            ]
            if item[_TAKEN] and same:
                del kept[same[-1]]
            elif item[_TAKEN] or limit is None or len(kept) < limit:
                kept.append(item)
        return kept

    def merged(groups: Sequence[pl.Series]) -> pl.Series:
        return pl.Series([left_over(_items(groups[0]))], dtype=state_kind)

    def values(row: Mapping[str, Any]) -> list[Any]:
        return [item[VALUE_FIELD] for item in left_over(row["entries"]) if not item[_TAKEN]]

    given = pl.struct(bound.arguments[0].cast(kind).alias(VALUE_FIELD), pl.lit(taken_out).alias(_TAKEN)).implode()
    merge = pl.map_groups([entries], merged, return_dtype=state_kind, returns_scalar=True)
    return [StateColumn("list", state_kind, given, merge)], by_row({"entries": entries}, values, pl.List(kind))


def _items(lists: pl.Series) -> list[Any]:
    return [item for items in lists.to_list() for item in items or ()]


def _collect_set(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    def distinct(values: pl.Expr) -> pl.Expr:
        return bound.limited(values.unique(maintain_order=True))

    return [_list_state(bound, distinct(bound.comparable), distinct)], bound.state("list")


def _has_map(type_: SqlType) -> bool:
    match type_:
        case ArrayType(element=element):
            return _has_map(element)
        case StructType(fields=fields):
            return any(_has_map(field) for _, field in fields)
    return isinstance(type_, MapType)


def _in_order(value: pl.Expr, type_: SqlType) -> pl.Expr:
    """Return values with their maps' entries in the order of their keys, so that equal ones are the same to Polars."""
    if not _has_map(type_):
        return value
    element = pl.element()
    if isinstance(type_, ArrayType):
        return value.list.eval(_in_order(element, type_.element))
    if isinstance(type_, StructType):
        fields = [_in_order(value.struct.field(name), field).alias(name) for name, field in type_.fields]
        return pl.when(value.is_not_null()).then(pl.struct(fields))
    key, inner = element.struct.field(KEY_FIELD), element.struct.field(VALUE_FIELD)
    entries = pl.struct(key, _in_order(inner, cast(MapType, type_).value).alias(VALUE_FIELD))
    return value.list.eval(entries.sort_by(key))


def _count_distinct(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    state = _list_state(bound, bound.comparable.drop_nulls().unique(), lambda all_: all_.unique())
    return [state], bound.state("list").list.len().cast(pl.Int64)


def _top(bound: Bound, values: pl.Expr) -> pl.Expr:
    ordered = in_java_order(values, bound.argument_type).sort(descending=True).head(bound.constant(0))
    return in_java_order(ordered, bound.argument_type)


def _top_k(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    if len(bound.arguments) > 1:
        return _top_rows(bound)
    state = _list_state(bound, _top(bound, bound.arguments[0].drop_nulls()), lambda all_: _top(bound, all_))
    return [state], bound.state("list")


def _top_rows(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    size = bound.constant(0)
    kind = cast(ArrayType, bound.call.type).element.polars
    names = [name for name, _ in cast(StructType, cast(ArrayType, bound.call.type).element).fields]
    rows = pl.struct(argument.alias(name) for name, argument in zip(names, bound.arguments, strict=True)).cast(kind)

    def top(values: pl.Expr) -> pl.Expr:
        order = in_java_order(values.struct.field(names[0]), bound.argument_type)
        return values.sort_by(order, descending=True, maintain_order=True).head(size)

    partial = top(rows.filter(bound.arguments[0].is_not_null())).implode()
    state = StateColumn("list", pl.List(kind), partial, top(_flat(bound.state("list"))).implode())
    return [state], bound.state("list")


def _top_k_distinct(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    partial = _top(bound, bound.arguments[0].drop_nulls().unique())
    return [_list_state(bound, partial, lambda all_: _top(bound, all_.unique()))], bound.state("list")


def _by_offset(bound: Bound, pick: Callable[[pl.Expr, int], pl.Expr]) -> tuple[list[StateColumn], pl.Expr]:
    many = bool(bound.call.constants) and not isinstance(bound.call.constants[0], bool)
    size = bound.constant(0) if many else 1
    ignore_nulls = bound.constant(1 if many else 0, True)
    values = bound.arguments[0].drop_nulls() if ignore_nulls else bound.arguments[0]
    state = _list_state(bound, pick(values, size), lambda all_: pick(all_, size))
    return [state], bound.state("list") if many else bound.state("list").list.first()


def _latest(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    return _by_offset(bound, lambda values, size: values.tail(size))


def _earliest(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    return _by_offset(bound, lambda values, size: values.head(size))


def _single_value(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    if bound.taken_out is not None:
        states, counts = _value_counts(bound, bound.argument_type.polars, None)
        return states, pl.when(counts.list.len() == 1).then(counts.list.first().struct.field(KEY_FIELD))
    state = _list_state(bound, bound.comparable.unique().head(2), lambda all_: all_.unique().head(2))
    values = bound.state("list")
    return [state], pl.when(values.list.len() == 1).then(values.list.first())


def _histogram(bound: Bound) -> tuple[list[StateColumn], pl.Expr]:
    return _value_counts(bound, STRING.polars, HISTOGRAM_LIMIT)


def _value_counts(bound: Bound, kind: pl.DataType, limit: int | None) -> tuple[list[StateColumn], pl.Expr]:
    """Return the state that counts each value, and the counts above 0: entries of a map.

    A group at a time: maps of different keys have no columns.
    """
    state_kind = pl.List(pl.Struct({KEY_FIELD: kind, VALUE_FIELD: pl.Int64()}))
    counts = bound.state("counts")

    def summed(groups: Sequence[pl.Series]) -> pl.Series:
        totals: dict[Any, int] = {}
        values: dict[Any, Any] = {}
        for entry in _items(groups[0]):
            key = repr(entry[KEY_FIELD])
            if limit is None or len(totals) < limit or key in totals:
                totals[key] = totals.get(key, 0) + entry[VALUE_FIELD]
                values.setdefault(key, entry[KEY_FIELD])
        left = [{KEY_FIELD: values[key], VALUE_FIELD: count} for key, count in totals.items() if count]
        return pl.Series([left], dtype=state_kind)

    def grouped(lists: pl.Expr) -> pl.Expr:
        return pl.map_groups([lists], summed, return_dtype=state_kind, returns_scalar=True)

    ones = bound.signed(pl.lit(1, dtype=pl.Int64)).alias(VALUE_FIELD)
    partial = grouped(pl.struct(bound.comparable.cast(kind).alias(KEY_FIELD), ones).implode())
    present = counts.list.eval(pl.element().filter(pl.element().struct.field(VALUE_FIELD) > 0))
    return [StateColumn("counts", state_kind, partial, grouped(counts))], present


# ---------------------------------------------------------------------------------------------------- registry
NUMBERS = ("INTEGER", "BIGINT", "DOUBLE", "DECIMAL")
_COMPARABLE = (*NUMBERS, "DATE", "TIME", "TIMESTAMP", "STRING", "BYTES")


def _same(types: Sequence[SqlType], constants: Sequence[Any]) -> SqlType:
    return types[0]


def _fixed(type_: SqlType) -> Callable[[Sequence[SqlType], Sequence[Any]], SqlType]:
    return lambda types, constants: type_


def _array(types: Sequence[SqlType], constants: Sequence[Any]) -> SqlType:
    return ArrayType(element=types[0])


def _element(types: Sequence[SqlType], constants: Sequence[Any]) -> SqlType:
    return cast(ArrayType, types[0]).element


def _one_or_many(types: Sequence[SqlType], constants: Sequence[Any]) -> SqlType:
    many = bool(constants) and not isinstance(constants[0], bool)
    return ArrayType(element=types[0]) if many else types[0]


def _top_type(types: Sequence[SqlType], constants: Sequence[Any]) -> SqlType:
    if len(types) == 1:
        return ArrayType(element=types[0])
    others = tuple((f"col{number}", type_) for number, type_ in enumerate(types[1:]))
    return ArrayType(element=StructType(fields=(("sort_col", types[0]), *others)))


_OFFSET = ("int", "bool")
_AVERAGED = (("INTEGER", "BIGINT", "DOUBLE"),)
_VARIANCE = "Sample variance (the name is misleading; STDDEV_SAMPLE gives the deviation)."

_FUNCTIONS = (
    AggregateFunction(
        "COUNT", "Counts rows, or values that aren't NULL.", (None,), _fixed(BIGINT), _count, optional_arguments=1,
        undoes=True, nested=False,
    ),
    AggregateFunction("COUNT_DISTINCT", "Counts distinct values (exactly).", (None,), _fixed(BIGINT), _count_distinct),
    AggregateFunction("SUM", "Adds values up.", (NUMBERS,), _same, _sum, undoes=True, nested=False),
    AggregateFunction(
        "SUM_LIST", "Adds up the values of lists.", (("ARRAY",),), _element, _list_sum, undoes=True, nested=False
    ),
    AggregateFunction("AVG", "Mean of the values.", _AVERAGED, _fixed(DOUBLE), _average, undoes=True),
    AggregateFunction("MIN", "Smallest value.", (_COMPARABLE,), _same, _minimum, nested=False),
    AggregateFunction("MAX", "Largest value.", (_COMPARABLE,), _same, _maximum, nested=False),
    AggregateFunction(
        "STDDEV_SAMPLE", "Sample standard deviation.", _AVERAGED, _fixed(DOUBLE), _deviation, undoes=True
    ),
    AggregateFunction("STDDEV_SAMP", _VARIANCE, _AVERAGED, _fixed(DOUBLE), _moments, undoes=True),
    AggregateFunction(
        "CORRELATION", "Pearson correlation of two columns.", _AVERAGED * 2, _fixed(DOUBLE), _correlation, undoes=True,
        same_types=True,
    ),
    AggregateFunction("COLLECT_LIST", "All values, in order.", (None,), _array, _collect_list, undoes=True),
    AggregateFunction("COLLECT_SET", "Distinct values, in order of appearance.", (None,), _array, _collect_set),
    AggregateFunction(
        "TOPK", "The k largest values, with further columns' values beside them if given.", (_COMPARABLE,), _top_type, _top_k,
        ("int",), 1, variadic=True,
    ),
    AggregateFunction(
        "TOPKDISTINCT", "The k largest distinct values.", (_COMPARABLE,), _array, _top_k_distinct, ("int",), 1
    ),
    AggregateFunction(
        "HISTOGRAM", "How often each text occurs.", (("STRING",),), _fixed(MapType(key=STRING, value=BIGINT)), _histogram,
        undoes=True,
    ),
    AggregateFunction("LATEST_BY_OFFSET", "The last value, or the last n.", (None,), _one_or_many, _latest, _OFFSET),
    AggregateFunction(
        "EARLIEST_BY_OFFSET", "The first value, or the first n.", (None,), _one_or_many, _earliest, _OFFSET
    ),
    AggregateFunction(
        "ATTR", "The group's value where it has only one.", (None,), _same, _single_value, undoes=True
    ),
)  # fmt: skip

AGGREGATES = {function.name: function for function in _FUNCTIONS}


def check_call(name: str, types: Sequence[SqlType], constants: Sequence[Any], text: str) -> SqlType:
    """Check an aggregate's arguments.

    Args:
        name: the function.
        types: types of the arguments that are columns or expressions.
        constants: values of the literal arguments that follow.
        text: the arguments as a message shows them.

    Returns:
        The result's type.

    Raises:
        StatementError: the function doesn't take these arguments.
    """
    function = AGGREGATES[name]
    least = len(function.accepts) - function.optional_arguments
    fits = least <= len(types) and (function.variadic or len(types) <= len(function.accepts))
    fits = fits and function.required <= len(constants) <= len(function.constants)
    # Unlike scalar functions, aggregates convert nothing: ksqlDB has one for each type.
    pairs = zip(types, function.accepts, strict=False)
    fits = fits and all(accepted is None or type_.name in accepted for type_, accepted in pairs)
    fits = fits and not (function.same_types and len(set(types)) > 1)
    if not fits:
        raise StatementError(f"Function '{name.lower()}' does not accept parameters ({text}).{_alternatives(function)}")
    if constants and not isinstance(constants[0], bool) and constants[0] < 1:
        raise StatementError(f"{name}: {constants[0]!r} must be 1 or greater")
    return function.returns(types, constants)


def _alternatives(function: AggregateFunction) -> str:
    """Return what ksqlDB tells of the types that would be right, for functions of numbers."""
    if function.accepts[0] != _AVERAGED[0]:
        return ""
    name, count = function.name.lower(), len(function.accepts)
    lines = (
        f"{name}({', '.join(f'{type_} val{number + 1}' for number in range(count))})"
        for type_ in ("DOUBLE", "INT", "BIGINT")
    )
    return (
        "\nValid alternatives are:\n"
        + "\n".join(lines)
        + ("\nFor detailed information on a function run: DESCRIBE FUNCTION <Function-Name>;")
    )
