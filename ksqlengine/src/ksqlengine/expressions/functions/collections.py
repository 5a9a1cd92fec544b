"""Functions of arrays and maps, and those that take lambdas.

A lambda's body is evaluated over all elements of all rows at once: the lists are laid out as one column, with the row's other
columns beside it where the body names them. Where it fails for one element, the function fails for the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import polars as pl

from ksqlengine.expressions.base import ColumnExpression, LambdaVariable, walk
from ksqlengine.expressions.calls import Call, Lambda
from ksqlengine.expressions.overloads import K, LambdaType, T, TypedCall, U, V, W, register, row_by_row
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row, in_hash_order, in_java_order, spread, to_text
from ksqlengine.types.sqltypes import BIGINT, BOOLEAN, BYTES, DOUBLE, INTEGER, STRING, ArrayType, MapType, StructType

_ARRAY = "ARRAY"
_MAP = "MAP"
_LAMBDA = "LAMBDA"
_T_ARRAY = ArrayType(element=T)
_KV_MAP = MapType(key=K, value=V)

# ---------------------------------------------------------------------------------------------------- arrays
register(
    "ARRAY_LENGTH", _ARRAY, "Number of elements.", (_T_ARRAY,), INTEGER, lambda array: array.list.len().cast(pl.Int32)
)
register("ARRAY_CONTAINS", _ARRAY, "Whether an array holds a value.", (_T_ARRAY, T), BOOLEAN,
         lambda array, value: array.list.contains(value, nulls_equal=True).fill_null(False), null_gives_null=False)  # fmt: skip
register("ARRAY_DISTINCT", _ARRAY, "Distinct elements, in order.", (_T_ARRAY,), _T_ARRAY,
         lambda array: array.list.unique(maintain_order=True))  # fmt: skip


def _of_comparable(build: Callable[..., pl.Expr]) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    """Return a builder that has Java's order of elements; it fails for those without one: arrays, maps and structs."""

    def checked(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        element = cast(ArrayType, call.arguments[0].type).element
        if isinstance(element, ArrayType | MapType | StructType):
            return pl.lit(None, dtype=call.type.polars)
        if element != BYTES:
            return build(*values)
        array, *others = values
        built = build(array.list.eval(in_java_order(pl.element(), BYTES)), *others)
        if call.type == BYTES:
            return in_java_order(built, BYTES)
        return built.list.eval(in_java_order(pl.element(), BYTES))

    return checked


def _first(array: pl.Expr, *, descending: bool) -> pl.Expr:
    """Return the first element in order; NaN is the largest number, as in Java."""
    return array.list.sort(descending=descending, nulls_last=True).list.get(0, null_on_oob=True)


for _name, _what, _descending in (("ARRAY_MAX", "Largest", True), ("ARRAY_MIN", "Smallest", False)):
    register(_name, _ARRAY, f"{_what} element.", (_T_ARRAY,), T, _of_comparable(partial(_first, descending=_descending)),
             with_call=True)  # fmt: skip


def _array_concat(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    both = pl.concat_list([left, right])
    return pl.when(left.is_null()).then(right).when(right.is_null()).then(left).otherwise(both)


register(
    "ARRAY_CONCAT",
    _ARRAY,
    "Elements of both arrays.",
    (_T_ARRAY, _T_ARRAY),
    _T_ARRAY,
    _array_concat,
    null_gives_null=False,
)


def _sorted(array: pl.Expr, direction: pl.Expr | None = None) -> pl.Expr:
    up = array.list.sort(nulls_last=True)
    if direction is None:
        return up
    word = direction.str.to_uppercase()
    down = array.list.sort(descending=True, nulls_last=True)
    return pl.when(word.is_in(["ASC", "ASCENDING"])).then(up).when(word.is_in(["DESC", "DESCENDING"])).then(down)


for _more, _what in (((), "NULLs last"), ((STRING,), "ASC or DESC")):
    register("ARRAY_SORT", _ARRAY, f"Elements in order, {_what}.", (_T_ARRAY, *_more), _T_ARRAY, _of_comparable(_sorted),
             with_call=True)  # fmt: skip


def _key(value: Any) -> Any:
    """Return something hashable that equals another value's where the values are equal."""
    if isinstance(value, list):
        return tuple(map(_key, value))
    if isinstance(value, float):
        return repr(value)  # NaN equals itself in Java, and -0.0 isn't 0.0
    return tuple((name, _key(item)) for name, item in value.items()) if isinstance(value, dict) else value


def _distinct(values: list[Any]) -> list[Any]:
    seen: dict[Any, Any] = {}
    for value in values:
        seen.setdefault(_key(value), value)
    return list(seen.values())


def _except(left: list[Any], right: list[Any]) -> list[Any]:
    gone = {_key(value) for value in right}
    return [value for value in _distinct(left) if _key(value) not in gone]


def _intersect(left: list[Any], right: list[Any]) -> list[Any]:
    kept = {_key(value) for value in right}
    return [value for value in _distinct(left) if _key(value) in kept]


row_by_row("ARRAY_EXCEPT", _ARRAY, "Distinct elements of the first array that aren't in the second.", (_T_ARRAY, _T_ARRAY),
           _T_ARRAY, _except)  # fmt: skip
row_by_row(
    "ARRAY_INTERSECT", _ARRAY, "Distinct elements that are in both arrays.", (_T_ARRAY, _T_ARRAY), _T_ARRAY, _intersect
)
row_by_row("ARRAY_UNION", _ARRAY, "Distinct elements of both arrays.", (_T_ARRAY, _T_ARRAY), _T_ARRAY,
           lambda left, right: _distinct([*left, *right]))  # fmt: skip
row_by_row("ARRAY_REMOVE", _ARRAY, "An array without a value.", (_T_ARRAY, T), _T_ARRAY,
           lambda array, gone: None if array is None else [value for value in array if _key(value) != _key(gone)],
           null_gives_null=False)  # fmt: skip


def _slice(array: list[Any] | None, first: int | None, last: int | None) -> list[Any] | None:
    if array is None:
        return None
    start, end = 0 if first is None else first - 1, len(array) if last is None else last
    return array[start:end] if 0 <= start <= end <= len(array) else None


row_by_row("SLICE", _ARRAY, "Elements from one position to another (from 1, both included).", (_T_ARRAY, INTEGER, INTEGER),
           _T_ARRAY, _slice, null_gives_null=False)  # fmt: skip


def _array_join(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
    element = cast(ArrayType, call.arguments[0].type).element
    text = (
        to_text(pl.element(), element)
        if element.name in _JOINED
        else pl.when(pl.element().is_not_null()).then(pl.lit(""))
    )
    delimiter = values[1].fill_null("") if len(values) > 1 else pl.lit(",")
    # A list for each delimiter: Polars joins one that stands for all rows with the first delimiter only.
    texts = pl.when(delimiter.is_not_null()).then(values[0].list.eval(text.fill_null("null")))
    if element.name in _JOINED:
        return texts.list.join(delimiter)
    return pl.when(values[0].list.drop_nulls().list.len() == 0).then(texts.list.join(delimiter))


_JOINED = ("BOOLEAN", "INTEGER", "BIGINT", "DOUBLE", "DECIMAL", "STRING")  # any other element makes ARRAY_JOIN fail

register("ARRAY_JOIN", _ARRAY, "Elements as one text, with commas.", (_T_ARRAY,), STRING, _array_join, with_call=True,
         may_fail=True)  # fmt: skip
register("ARRAY_JOIN", _ARRAY, "Elements as one text, with a delimiter.", (_T_ARRAY, STRING), STRING, _array_join, with_call=True,
         null_gives_null=False, may_fail=True)  # fmt: skip


def _series(first: int, last: int, step: int | None = None) -> list[int]:
    difference = last - first
    width = (1 if difference > 0 else -1) if step is None else step
    if width == 0 or difference * width < 0:
        raise ValueError("the step has the wrong sign or is zero")
    size = 1 + difference // width
    if size > _LONGEST_SERIES:
        raise ValueError(f"{size} numbers are too many, {_LONGEST_SERIES} are the most")
    return [first + index * width for index in range(size)]


_LONGEST_SERIES = 1_000_000  # more would end the engine, which ksqlDB's memory does too


for _type in (INTEGER, BIGINT):
    row_by_row("GENERATE_SERIES", _ARRAY, "Numbers from one to another.", (_type, _type), ArrayType(element=_type), _series,
               may_fail=True)  # fmt: skip
    row_by_row("GENERATE_SERIES", _ARRAY, "Numbers from one to another in steps.", (_type, _type, INTEGER),
               ArrayType(element=_type), _series, may_fail=True)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- maps
def _entry(name: str) -> pl.Expr:
    return pl.element().struct.field(name)


def _entries_in_order(call: TypedCall, map_: pl.Expr) -> pl.Expr:
    """Return a map's entries in the order of Java's ``HashMap``, in which ksqlDB goes through them."""
    argument = call.arguments[0]
    typed = cast(MapType, argument.type)
    buckets = 16 if isinstance(argument, Call) and argument.name in _UNSIZED else 1

    def ordered(row: dict[str, Any]) -> Any:
        return row["map"] and in_hash_order(row["map"], typed.key, buckets)

    return by_row({"map": map_}, ordered, typed.polars)


_UNSIZED = ("AS_MAP", "FILTER", "SPLIT_TO_MAP", "TRANSFORM")  # their maps begin with Java's 16 buckets


def _side(field: str) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    return lambda call, values: _entries_in_order(call, values[0]).list.eval(_entry(field))


register("MAP_KEYS", _MAP, "Keys of a map.", (_KV_MAP,), ArrayType(element=K), _side(KEY_FIELD), with_call=True)
register("MAP_VALUES", _MAP, "Values of a map.", (_KV_MAP,), ArrayType(element=V), _side(VALUE_FIELD), with_call=True)


def _union(left: list[Any] | None, right: list[Any] | None) -> list[Any] | None:
    if left is None and right is None:
        return None
    return list({entry[KEY_FIELD]: entry for entry in [*(left or ()), *(right or ())]}.values())


def _as_map(keys: list[Any], values: list[Any]) -> list[Any]:
    filled = [*values, *[None] * max(len(keys) - len(values), 0)]
    found = dict(zip(keys, filled, strict=False))
    return [{KEY_FIELD: key, VALUE_FIELD: value} for key, value in found.items()]


row_by_row("MAP_UNION", _MAP, "Entries of both maps; the second's win.", (_KV_MAP, _KV_MAP), _KV_MAP, _union,
           null_gives_null=False)  # fmt: skip
row_by_row("AS_MAP", _MAP, "A map of two arrays: keys and values.", (ArrayType(element=STRING), _T_ARRAY),
           MapType(key=STRING, value=T), _as_map)  # fmt: skip


def _entries(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
    structs = pl.struct(_entry(KEY_FIELD).alias("K"), _entry(VALUE_FIELD).alias("V"))
    by_key = values[0].list.eval(structs.sort_by(_entry(KEY_FIELD)))
    return pl.when(values[1]).then(by_key).otherwise(_entries_in_order(call, values[0]).list.eval(structs))


for _type in (INTEGER, BIGINT, DOUBLE, BOOLEAN, STRING):
    register("ENTRIES", _MAP, "Entries of a map as structs of K and V, sorted by K if asked.",
             (MapType(key=STRING, value=_type), BOOLEAN), ArrayType(element=StructType(fields=(("K", STRING), ("V", _type)))),
             _entries, with_call=True)  # fmt: skip

# ---------------------------------------------------------------------------------------------------- lambdas
_LIST = "__LIST"
_ROW = "__ROW"
_STATE = "__STATE"
_RESULT = "__RESULT"
_FAILED = "__FAILED"


def _outside(lambdas: Sequence[Lambda]) -> list[str]:
    """Return the columns of the row that lambdas' bodies read, and the parameters of lambdas around them."""
    own = {variable.name for lambda_ in lambdas for variable in lambda_.parameters}
    inner = {
        variable.name
        for lambda_ in lambdas
        for node in walk(lambda_.body)
        if isinstance(node, Lambda)
        for variable in node.parameters
    }
    names = {
        node.name
        for lambda_ in lambdas
        for node in walk(lambda_.body)
        if isinstance(node, ColumnExpression) or (isinstance(node, LambdaVariable) and node.name not in own | inner)
    }
    return sorted(names)


def _over_rows(columns: list[pl.Expr], compute: Callable[[pl.DataFrame], pl.Series], type_: pl.DataType) -> pl.Expr:
    """Return what a function of a frame gives, as an expression over the columns that it reads."""
    names = [column.meta.output_name() for column in columns]

    def run(given: Sequence[pl.Series]) -> pl.Series:
        return compute(pl.DataFrame([series.alias(name) for name, series in zip(names, spread(given), strict=True)]))

    return pl.map_batches(columns, run, return_dtype=type_, is_elementwise=True)


def _laid_out(frame: pl.DataFrame, variables: Sequence[LambdaVariable], *, is_map: bool) -> pl.DataFrame:
    """Return one row for each element, with the lambda's parameters as columns."""
    rows = frame.with_row_index(_ROW).explode(_LIST, empty_as_null=False, keep_nulls=False)
    if not is_map:
        return rows.with_columns(pl.col(_LIST).alias(variables[0].name))
    return rows.with_columns(
        pl.col(_LIST).struct.field(field).alias(variable.name)
        for field, variable in zip((KEY_FIELD, VALUE_FIELD), variables, strict=True)
    )


def _evaluated(rows: pl.DataFrame, lambda_: Lambda) -> pl.DataFrame:
    """Return rows with what a lambda gives (_RESULT) and whether it fails (_FAILED)."""
    body = lambda_.body.compile()
    failed = [failure.condition for failure in body.failures if not failure.contained]
    return rows.with_columns(
        body.value.alias(_RESULT), pl.any_horizontal(pl.lit(False), *failed).fill_null(False).alias(_FAILED)
    )


def _gathered(frame: pl.DataFrame, elements: pl.DataFrame, failed: pl.DataFrame, type_: pl.DataType) -> pl.Series:
    """Return the elements' results (column _LIST) as a list for each row of the frame, null for the rows of failed elements."""
    lists = elements.group_by(_ROW, maintain_order=True).agg(pl.col(_LIST))
    rows = frame.select(pl.col(_LIST).is_null().alias("null")).with_row_index(_ROW)
    joined = rows.join(lists, on=_ROW, how="left", maintain_order="left")
    empty = pl.lit([], dtype=type_)
    null = pl.col("null") | pl.col(_ROW).is_in(failed[_ROW].implode())
    values = pl.when(null).then(None).otherwise(pl.coalesce(pl.col(_LIST), empty))
    return joined.select(values.cast(type_).alias(_LIST)).to_series()


def _lambdas(call: TypedCall) -> list[Lambda]:
    return [argument for argument in call.arguments if isinstance(argument, Lambda)]


def _transform(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
    lambdas = _lambdas(call)
    is_map = isinstance(call.arguments[0].type, MapType)
    type_ = call.type.polars

    def compute(frame: pl.DataFrame) -> pl.Series:
        parts = [_evaluated(_laid_out(frame, lambda_.parameters, is_map=is_map), lambda_) for lambda_ in lambdas]
        failed = pl.concat([part.filter(_FAILED).select(_ROW) for part in parts])
        if not is_map:
            return _gathered(frame, parts[0].select(_ROW, pl.col(_RESULT).alias(_LIST)), failed, type_)
        keys, results = parts
        entries = keys.select(
            _ROW, pl.struct(pl.col(_RESULT).alias(KEY_FIELD), results[_RESULT].alias(VALUE_FIELD)).alias(_LIST)
        )
        twice = pl.struct(_ROW, pl.col(_LIST).struct.field(KEY_FIELD)).is_duplicated()
        return _gathered(frame, entries, pl.concat([failed, _unfit(entries, twice)]), type_)

    return _over_rows([values[0].alias(_LIST), *map(pl.col, _outside(lambdas))], compute, type_)


def _unfit(entries: pl.DataFrame, also: pl.Expr) -> pl.DataFrame:
    """Return the rows of entries that Java's ``Collectors.toMap`` refuses: NULL values, and others."""
    return entries.filter(pl.col(_LIST).struct.field(VALUE_FIELD).is_null() | also).select(_ROW)


def _filter(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
    (predicate,) = _lambdas(call)
    is_map = isinstance(call.arguments[0].type, MapType)
    type_ = call.type.polars

    def compute(frame: pl.DataFrame) -> pl.Series:
        rows = _evaluated(_laid_out(frame, predicate.parameters, is_map=is_map), predicate)
        kept = rows.filter(_RESULT).select(_ROW, _LIST)
        failed = rows.filter(pl.col(_FAILED) | pl.col(_RESULT).is_null()).select(_ROW)
        if is_map:
            failed = pl.concat([failed, _unfit(kept, pl.lit(False))])
        return _gathered(frame, kept, failed, type_)

    return _over_rows([values[0].alias(_LIST), *map(pl.col, _outside([predicate]))], compute, type_)


def _reduce(call: TypedCall, values: list[pl.Expr], *, failures: bool = False) -> pl.Expr:
    (reducer,) = _lambdas(call)
    is_map = isinstance(call.arguments[0].type, MapType)
    state, *elements = reducer.parameters

    def compute(frame: pl.DataFrame) -> pl.Series:
        frame = frame.with_columns(pl.lit(False).alias(_FAILED))
        lengths = pl.col(_LIST).list.len().fill_null(0)
        longest = int(frame.select(lengths.max()).item() or 0)
        for index in range(longest):
            item = pl.col(_LIST).list.get(index, null_on_oob=True)
            parts = [item.struct.field(KEY_FIELD), item.struct.field(VALUE_FIELD)] if is_map else [item]
            given = frame.drop(_FAILED).with_columns(
                pl.col(_STATE).alias(state.name),
                *(part.alias(variable.name) for part, variable in zip(parts, elements, strict=True)),
            )
            step = _evaluated(given, reducer).select(pl.col(_RESULT).cast(call.type.polars), _FAILED)
            there = lengths > index
            frame = frame.with_columns(
                pl.when(there).then(step[_RESULT]).otherwise(pl.col(_STATE)).alias(_STATE),
                (pl.col(_FAILED) | (there & step[_FAILED])).alias(_FAILED),
            )
        return frame.select(_FAILED if failures else pl.when(~pl.col(_FAILED)).then(pl.col(_STATE))).to_series()

    items = _entries_in_order(call, values[0]) if is_map else values[0]
    columns = [items.alias(_LIST), values[1].cast(call.type.polars).alias(_STATE), *map(pl.col, _outside([reducer]))]
    result = _over_rows(columns, compute, pl.Boolean() if failures else call.type.polars)
    return pl.when(values[1].is_not_null()).then(result)


register("TRANSFORM", _LAMBDA, "Each element as a lambda gives it.", (_T_ARRAY, LambdaType(parameters=(T,), result=U)),
         ArrayType(element=U), _transform, with_call=True, may_fail=True)  # fmt: skip
register("TRANSFORM", _LAMBDA, "Each entry as two lambdas give its key and value.",
         (_KV_MAP, LambdaType(parameters=(K, V), result=U), LambdaType(parameters=(K, V), result=W)),
         MapType(key=U, value=W), _transform, with_call=True, may_fail=True)  # fmt: skip
register("FILTER", _LAMBDA, "Elements for which a lambda is TRUE.", (_T_ARRAY, LambdaType(parameters=(T,), result=BOOLEAN)),
         _T_ARRAY, _filter, with_call=True, may_fail=True)  # fmt: skip
register("FILTER", _LAMBDA, "Entries for which a lambda is TRUE.", (_KV_MAP, LambdaType(parameters=(K, V), result=BOOLEAN)),
         _KV_MAP, _filter, with_call=True, may_fail=True)  # fmt: skip
register("REDUCE", _LAMBDA, "One value, made element by element.", (_T_ARRAY, U, LambdaType(parameters=(U, T), result=U)), U,
         _reduce, with_call=True, null_gives_null=False, failed=partial(_reduce, failures=True))  # fmt: skip
register("REDUCE", _LAMBDA, "One value, made entry by entry.", (_KV_MAP, U, LambdaType(parameters=(U, K, V), result=U)), U,
         _reduce, with_call=True, null_gives_null=False, failed=partial(_reduce, failures=True))  # fmt: skip
