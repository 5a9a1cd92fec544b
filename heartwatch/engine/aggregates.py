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
`Aggregate.undo`, where there is one, gives the state that takes rows away again when merged (aggregates over tables).

Null rules and result types are ksqlDB's, its oddities included: SUM and AVG of nothing are 0; SUM and AVG of INTEGER add up
in INTEGER, which wraps; STDDEV_SAMP gives the variance, STDDEV_SAMPLE the deviation. COUNT_DISTINCT is exact here (ksqlDB
estimates it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from heartwatch.engine.casts import KEY_FIELD, VALUE_FIELD
from heartwatch.engine.errors import StatementError
from heartwatch.engine.expressions import TypedExpression, referenced_columns
from heartwatch.engine.plan import AggregateCall
from heartwatch.engine.types import (
    BIGINT,
    DOUBLE,
    INTEGER,
    STRING,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
)

HISTOGRAM_LIMIT = 1000  # distinct values that HISTOGRAM counts (ksqlDB's)


@dataclass(frozen=True)
class State:
    """One state column.

    Attributes:
        name: what it holds; the column is ``<output>.<name>``.
        type: the column's type.
        partial: over a group's input rows.
        merge: over a group's state rows, in arrival order.
        undo: over a group's input rows that are taken away; None where that can't be.
    """

    name: str
    type: pl.DataType
    partial: pl.Expr
    merge: pl.Expr
    undo: pl.Expr | None = None


@dataclass(frozen=True)
class Aggregate:
    """An aggregate function at work on one call's columns."""

    output: str
    columns: tuple[State, ...]
    value: pl.Expr
    inputs: frozenset[str]

    @property
    def states(self) -> dict[str, pl.DataType]:
        """State columns' names and types."""
        return {self._name(state): state.type for state in self.columns}

    @property
    def partial(self) -> list[pl.Expr]:
        """State columns from a group's rows."""
        return [state.partial.cast(state.type).alias(self._name(state)) for state in self.columns]

    @property
    def merge(self) -> list[pl.Expr]:
        """State columns from a group's states."""
        return [state.merge.cast(state.type).alias(self._name(state)) for state in self.columns]

    @property
    def undo(self) -> list[pl.Expr] | None:
        """State columns that take a group's rows away, None where the function can't."""
        if any(state.undo is None for state in self.columns):
            return None
        return [cast(pl.Expr, state.undo).cast(state.type).alias(self._name(state)) for state in self.columns]

    @property
    def result(self) -> pl.Expr:
        """The output column from a state."""
        return self.value.alias(self.output)

    def _name(self, state: State) -> str:
        return f"{self.output}.{state.name}"


@dataclass(frozen=True)
class Bound:
    """What a function's builder sees of a call."""

    call: AggregateCall
    arguments: tuple[pl.Expr, ...]

    def state(self, name: str) -> pl.Expr:
        """Return a state column by its short name."""
        return pl.col(f"{self.call.output}.{name}")

    @property
    def argument_type(self) -> SqlType:
        """Type of the first argument."""
        return cast(TypedExpression, self.call.arguments[0]).type

    def constant(self, index: int, default: Any = None) -> Any:
        """Return a constant argument."""
        return self.call.constants[index] if index < len(self.call.constants) else default


Builder = Callable[[Bound], tuple[list[State], pl.Expr]]


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
    """

    name: str
    description: str
    accepts: tuple[tuple[str, ...] | None, ...]
    returns: Callable[[Sequence[SqlType], Sequence[Any]], SqlType]
    build: Builder
    constants: tuple[str, ...] = ()
    required: int = 0
    optional_arguments: int = 0


def bind(call: AggregateCall) -> Aggregate:
    """Return the aggregate that a plan's call asks for.

    Raises:
        KeyError: there is no such function (the analyzer checked it).
    """
    arguments = tuple(cast(TypedExpression, argument) for argument in call.arguments)
    bound = Bound(call, tuple(_per_row(argument) for argument in arguments))
    states, value = AGGREGATES[call.function].build(bound)
    columns = frozenset(name for argument in arguments for name in referenced_columns(argument))
    return Aggregate(call.output, tuple(states), value, columns)


def _per_row(argument: TypedExpression) -> pl.Expr:
    """Return an argument's value in each row of a group; a constant must be as long as the group."""
    value = argument.to_polars()
    return value if referenced_columns(argument) else pl.when(pl.int_range(pl.len()) >= 0).then(value)


# ---------------------------------------------------------------------------------------------------- numbers
def _count(bound: Bound) -> tuple[list[State], pl.Expr]:
    counted = (bound.arguments[0].count() if bound.arguments else pl.len()).cast(pl.Int64)
    count = bound.state("count")
    return [State("count", pl.Int64(), counted, count.sum(), -counted)], count


def _sum(bound: Bound) -> tuple[list[State], pl.Expr]:
    argument, total = bound.arguments[0], bound.state("sum")
    kind = bound.argument_type.polars
    return [State("sum", kind, argument.sum(), total.sum(), -argument.sum())], total


def _list_sum(bound: Bound) -> tuple[list[State], pl.Expr]:
    argument, total = bound.arguments[0].list.sum(), bound.state("sum")
    kind = cast(ArrayType, bound.argument_type).element.polars
    return [State("sum", kind, argument.sum(), total.sum(), -argument.sum())], total


def _average(bound: Bound) -> tuple[list[State], pl.Expr]:
    argument = bound.arguments[0]
    total, count = bound.state("sum"), bound.state("count")
    counted = argument.count().cast(pl.Int64)
    states = [
        State("sum", bound.argument_type.polars, argument.sum(), total.sum(), -argument.sum()),
        State("count", pl.Int64(), counted, count.sum(), -counted),
    ]
    return states, pl.when(count == 0).then(pl.lit(0.0)).otherwise(total.cast(pl.Float64) / count)


def _minimum(bound: Bound) -> tuple[list[State], pl.Expr]:
    least = bound.state("min")
    return [State("min", bound.argument_type.polars, bound.arguments[0].min(), least.min())], least


def _maximum(bound: Bound) -> tuple[list[State], pl.Expr]:
    most = bound.state("max")
    return [State("max", bound.argument_type.polars, bound.arguments[0].max(), most.max())], most


def _moments(bound: Bound) -> tuple[list[State], pl.Expr]:
    """States of the variance: count, sum, and squared distances from the mean (Chan's parallel form)."""
    argument = bound.arguments[0].cast(pl.Float64)
    count, total, squares = bound.state("count"), bound.state("sum"), bound.state("m2")
    mean = total / count
    all_mean = total.sum() / count.sum()
    apart = (pl.when(count > 0).then(squares + count * (mean - all_mean) ** 2)).sum()
    states = [
        State("count", pl.Int64(), argument.count(), count.sum()),
        State("sum", pl.Float64(), argument.sum(), total.sum()),
        State("m2", pl.Float64(), ((argument - argument.mean()) ** 2).sum(), apart),
    ]
    variance = pl.when(count < 2).then(pl.lit(0.0)).otherwise(squares / (count - 1))
    return states, variance


def _deviation(bound: Bound) -> tuple[list[State], pl.Expr]:
    states, variance = _moments(bound)
    return states, variance.sqrt()


def _correlation(bound: Bound) -> tuple[list[State], pl.Expr]:
    both = bound.arguments[0].is_not_null() & bound.arguments[1].is_not_null()
    x, y = (argument.cast(pl.Float64).filter(both) for argument in bound.arguments)
    parts = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    states = [
        State(name, pl.Float64(), part.sum(), bound.state(name).sum(), -part.sum()) for name, part in parts.items()
    ]
    counted = both.sum().cast(pl.Int64)
    count = bound.state("count")
    states.append(State("count", pl.Int64(), counted, count.sum(), -counted))
    sums = {name: bound.state(name) for name in parts}
    spread = (count * sums["xx"] - sums["x"] ** 2) * (count * sums["yy"] - sums["y"] ** 2)
    return states, (count * sums["xy"] - sums["x"] * sums["y"]) / spread.sqrt()


# ---------------------------------------------------------------------------------------------------- lists
def _flat(column: pl.Expr) -> pl.Expr:
    return column.explode(empty_as_null=False, keep_nulls=False)


def _list_state(bound: Bound, partial: pl.Expr, merge: Callable[[pl.Expr], pl.Expr]) -> State:
    kind = pl.List(bound.argument_type.polars)
    return State("list", kind, partial.implode(), merge(_flat(bound.state("list"))).implode())


def _collect_list(bound: Bound) -> tuple[list[State], pl.Expr]:
    limit = bound.constant(0)
    short = (lambda values: values) if limit is None else (lambda values: values.head(limit))
    return [_list_state(bound, short(bound.arguments[0]), short)], bound.state("list")


def _collect_set(bound: Bound) -> tuple[list[State], pl.Expr]:
    state = _list_state(
        bound, bound.arguments[0].unique(maintain_order=True), lambda all_: all_.unique(maintain_order=True)
    )
    return [state], bound.state("list")


def _count_distinct(bound: Bound) -> tuple[list[State], pl.Expr]:
    state = _list_state(bound, bound.arguments[0].drop_nulls().unique(), lambda all_: all_.unique())
    return [state], bound.state("list").list.len().cast(pl.Int64)


def _top(values: pl.Expr, size: int) -> pl.Expr:
    return values.sort(descending=True).head(size)


def _top_k(bound: Bound) -> tuple[list[State], pl.Expr]:
    size = bound.constant(0)
    state = _list_state(bound, _top(bound.arguments[0].drop_nulls(), size), lambda all_: _top(all_, size))
    return [state], bound.state("list")


def _top_k_distinct(bound: Bound) -> tuple[list[State], pl.Expr]:
    size = bound.constant(0)
    partial = _top(bound.arguments[0].drop_nulls().unique(), size)
    return [_list_state(bound, partial, lambda all_: _top(all_.unique(), size))], bound.state("list")


def _by_offset(bound: Bound, pick: Callable[[pl.Expr, int], pl.Expr]) -> tuple[list[State], pl.Expr]:
    many = bool(bound.call.constants) and not isinstance(bound.call.constants[0], bool)
    size = bound.constant(0) if many else 1
    ignore_nulls = bound.constant(1 if many else 0, True)
    values = bound.arguments[0].drop_nulls() if ignore_nulls else bound.arguments[0]
    state = _list_state(bound, pick(values, size), lambda all_: pick(all_, size))
    return [state], bound.state("list") if many else bound.state("list").list.first()


def _latest(bound: Bound) -> tuple[list[State], pl.Expr]:
    return _by_offset(bound, lambda values, size: values.tail(size))


def _earliest(bound: Bound) -> tuple[list[State], pl.Expr]:
    return _by_offset(bound, lambda values, size: values.head(size))


def _single_value(bound: Bound) -> tuple[list[State], pl.Expr]:
    state = _list_state(bound, bound.arguments[0].unique().head(2), lambda all_: all_.unique().head(2))
    values = bound.state("list")
    return [state], pl.when(values.list.len() == 1).then(values.list.first())


def _histogram(bound: Bound) -> tuple[list[State], pl.Expr]:
    kind = MapType(key=STRING, value=BIGINT).polars
    counts = bound.state("counts")
    partial = pl.struct(bound.arguments[0].alias(KEY_FIELD), pl.lit(1, dtype=pl.Int64).alias(VALUE_FIELD)).implode()
    summed = pl.map_groups([partial], _summed_entries, return_dtype=kind, returns_scalar=True)
    merged = pl.map_groups([counts], _summed_entries, return_dtype=kind, returns_scalar=True)
    return [State("counts", kind, summed, merged)], counts


def _summed_entries(groups: Sequence[pl.Series]) -> pl.Series:
    """Return one map with each key's count, of a group's maps. A group at a time: maps of different keys have no columns."""
    totals: dict[str, int] = {}
    for entry in groups[0].explode().to_list():
        if entry is not None and (len(totals) < HISTOGRAM_LIMIT or entry[KEY_FIELD] in totals):
            totals[entry[KEY_FIELD]] = totals.get(entry[KEY_FIELD], 0) + entry[VALUE_FIELD]
    entries = [{KEY_FIELD: key, VALUE_FIELD: count} for key, count in totals.items()]
    return pl.Series([entries], dtype=MapType(key=STRING, value=BIGINT).polars)


def _collect_map(bound: Bound) -> tuple[list[State], pl.Expr]:
    kind = bound.argument_type.polars
    entries = bound.state("entries")

    def last(groups: Sequence[pl.Series]) -> pl.Series:
        found = {entry[KEY_FIELD]: entry for entry in groups[0].explode().to_list() if entry is not None}
        return pl.Series([list(found.values())], dtype=kind)

    def over(values: pl.Expr) -> pl.Expr:
        return pl.map_groups([values], last, return_dtype=kind, returns_scalar=True)

    return [State("entries", kind, over(bound.arguments[0]), over(entries))], entries


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


_OFFSET = ("int", "bool")

_FUNCTIONS = (
    AggregateFunction(
        "COUNT", "Counts rows, or values that aren't NULL.", (None,), _fixed(BIGINT), _count, optional_arguments=1
    ),
    AggregateFunction("COUNT_DISTINCT", "Counts distinct values (exactly).", (None,), _fixed(BIGINT), _count_distinct),
    AggregateFunction("SUM", "Adds values up.", (NUMBERS,), _same, _sum),
    AggregateFunction("SUM_LIST", "Adds up the values of lists.", (("ARRAY",),), _element, _list_sum),
    AggregateFunction("AVG", "Mean of the values.", (("INTEGER", "BIGINT", "DOUBLE"),), _fixed(DOUBLE), _average),
    AggregateFunction("MIN", "Smallest value.", (_COMPARABLE,), _same, _minimum),
    AggregateFunction("MAX", "Largest value.", (_COMPARABLE,), _same, _maximum),
    AggregateFunction(
        "STDDEV_SAMPLE", "Sample standard deviation.", (("INTEGER", "BIGINT", "DOUBLE"),), _fixed(DOUBLE), _deviation
    ),
    AggregateFunction(
        "STDDEV_SAMP",
        "Sample variance (ksqlDB's name is misleading; STDDEV_SAMPLE gives the deviation).",
        (("INTEGER", "BIGINT", "DOUBLE"),),
        _fixed(DOUBLE),
        _moments,
    ),
    AggregateFunction(
        "CORRELATION", "Pearson correlation of two columns.", (("DOUBLE",), ("DOUBLE",)), _fixed(DOUBLE), _correlation
    ),
    AggregateFunction("COLLECT_LIST", "All values, in order.", (None,), _array, _collect_list),
    AggregateFunction("COLLECT_SET", "Distinct values, in order of appearance.", (None,), _array, _collect_set),
    AggregateFunction("COLLECT_MAP", "Entries of all maps; later ones win.", (("MAP",),), _same, _collect_map),
    AggregateFunction("TOPK", "The k largest values.", (_COMPARABLE,), _array, _top_k, ("int",), 1),
    AggregateFunction(
        "TOPKDISTINCT", "The k largest distinct values.", (_COMPARABLE,), _array, _top_k_distinct, ("int",), 1
    ),
    AggregateFunction(
        "HISTOGRAM",
        "How often each text occurs.",
        (("STRING",),),
        _fixed(MapType(key=STRING, value=BIGINT)),
        _histogram,
    ),
    AggregateFunction("LATEST_BY_OFFSET", "The last value, or the last n.", (None,), _one_or_many, _latest, _OFFSET),
    AggregateFunction(
        "EARLIEST_BY_OFFSET", "The first value, or the first n.", (None,), _one_or_many, _earliest, _OFFSET
    ),
    AggregateFunction("ATTR", "The group's value where it has only one.", (None,), _same, _single_value),
)

AGGREGATES = {function.name: function for function in _FUNCTIONS}


def check_call(
    name: str, types: Sequence[SqlType], constants: Sequence[Any], text: str
) -> tuple[SqlType, tuple[SqlType, ...]]:
    """Check an aggregate's arguments.

    Args:
        name: the function.
        types: types of the arguments that are columns or expressions.
        constants: values of the literal arguments that follow.
        text: the arguments as a message shows them.

    Returns:
        The result's type, and the types that the arguments must be converted to.

    Raises:
        StatementError: the function doesn't take these arguments.
    """
    function = AGGREGATES[name]
    least = len(function.accepts) - function.optional_arguments
    fits = least <= len(types) <= len(function.accepts) and function.required <= len(constants) <= len(
        function.constants
    )
    wanted = []
    for type_, accepted in zip(types, function.accepts, strict=False):
        target = _accepted(type_, accepted)
        fits = fits and target is not None
        wanted.append(target or type_)
    if not fits:
        raise StatementError(f"Function '{name}' does not accept parameters ({text}).")
    if constants and not isinstance(constants[0], bool) and constants[0] < 1:
        raise StatementError(f"{name}: {constants[0]!r} must be 1 or greater")
    return function.returns(types, constants), tuple(wanted)


def _accepted(type_: SqlType, names: tuple[str, ...] | None) -> SqlType | None:
    if names is None or type_.name in names:
        return type_
    numeric = type_ in (INTEGER, BIGINT) or isinstance(type_, DecimalType)
    return DOUBLE if numeric and "DOUBLE" in names else None
