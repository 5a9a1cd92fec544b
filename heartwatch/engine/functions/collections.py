"""Functions of arrays and maps, and those that take lambdas.

A lambda's body is evaluated over all elements of all rows at once: the lists are laid out as one column, with the row's other
columns beside it where the body names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from heartwatch.engine.casts import KEY_FIELD, VALUE_FIELD, to_text
from heartwatch.engine.expressions import Column, Lambda, LambdaVariable, walk
from heartwatch.engine.functions.registry import K, LambdaType, T, U, V, W, register, row_by_row
from heartwatch.engine.types import (
    BIGINT,
    BOOLEAN,
    INTEGER,
    STRING,
    ArrayType,
    MapType,
    SqlType,
    StructType,
)

if TYPE_CHECKING:
    from heartwatch.engine.expressions import Call

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
register("ARRAY_MAX", _ARRAY, "Largest element.", (_T_ARRAY,), T, lambda array: array.list.max())
register("ARRAY_MIN", _ARRAY, "Smallest element.", (_T_ARRAY,), T, lambda array: array.list.min())


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


register("ARRAY_SORT", _ARRAY, "Elements in order, NULLs last.", (_T_ARRAY,), _T_ARRAY, _sorted)
register("ARRAY_SORT", _ARRAY, "Elements in order, ASC or DESC.", (_T_ARRAY, STRING), _T_ARRAY, _sorted)


def _key(value: Any) -> Any:
    """Return something hashable that equals another value's where the values are equal."""
    if isinstance(value, list):
        return tuple(map(_key, value))
    return tuple((name, _key(one)) for name, one in value.items()) if isinstance(value, dict) else value


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


def _array_join(call: Call, values: list[pl.Expr]) -> pl.Expr:
    element = cast(ArrayType, call.arguments[0].type).element
    texts = values[0].list.eval(to_text(pl.element(), element).fill_null("null"))
    delimiter = values[1].fill_null("") if len(values) > 1 else pl.lit(",")
    return texts.list.join(delimiter)


register("ARRAY_JOIN", _ARRAY, "Elements as one text, with commas.", (_T_ARRAY,), STRING, _array_join, with_call=True)
register("ARRAY_JOIN", _ARRAY, "Elements as one text, with a delimiter.", (_T_ARRAY, STRING), STRING, _array_join, with_call=True,
         null_gives_null=False)  # fmt: skip


def _series(first: int, last: int, step: int | None = None) -> list[int]:
    difference = last - first
    width = (1 if difference > 0 else -1) if step is None else step
    if width == 0 or difference * width < 0:
        raise ValueError("the step has the wrong sign or is zero")
    return [first + index * width for index in range(1 + int(difference / width))]


for _type in (INTEGER, BIGINT):
    row_by_row(
        "GENERATE_SERIES", _ARRAY, "Numbers from one to another.", (_type, _type), ArrayType(element=_type), _series
    )
    row_by_row("GENERATE_SERIES", _ARRAY, "Numbers from one to another in steps.", (_type, _type, INTEGER),
               ArrayType(element=_type), _series, may_fail=True)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- maps
def _entry(name: str) -> pl.Expr:
    return pl.element().struct.field(name)


register(
    "MAP_KEYS", _MAP, "Keys of a map.", (_KV_MAP,), ArrayType(element=K), lambda map_: map_.list.eval(_entry(KEY_FIELD))
)
register(
    "MAP_VALUES",
    _MAP,
    "Values of a map.",
    (_KV_MAP,),
    ArrayType(element=V),
    lambda map_: map_.list.eval(_entry(VALUE_FIELD)),
)


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


def _entries(map_: pl.Expr, in_order: pl.Expr) -> pl.Expr:
    structs = map_.list.eval(pl.struct(_entry(KEY_FIELD).alias("K"), _entry(VALUE_FIELD).alias("V")))
    ordered = map_.list.eval(
        pl.struct(_entry(KEY_FIELD).alias("K"), _entry(VALUE_FIELD).alias("V")).sort_by(_entry(KEY_FIELD))
    )
    return pl.when(in_order).then(ordered).otherwise(structs)


def _entries_type(types: Sequence[SqlType]) -> SqlType:
    map_ = cast(MapType, types[0])
    return ArrayType(element=StructType(fields=(("K", map_.key), ("V", map_.value))))


register("ENTRIES", _MAP, "Entries of a map as structs of K and V, sorted by K if asked.", (_KV_MAP, BOOLEAN), _entries_type,
         _entries)  # fmt: skip

# ---------------------------------------------------------------------------------------------------- lambdas
_LIST = "__LIST"
_ROW = "__ROW"
_STATE = "__STATE"


def _outside(lambdas: Sequence[Lambda]) -> list[str]:
    """Return the columns of the row that lambdas' bodies read, and the parameters of lambdas around them."""
    own = {variable.name for one in lambdas for variable in one.parameters}
    inner = {
        variable.name
        for one in lambdas
        for node in walk(one.body)
        if isinstance(node, Lambda)
        for variable in node.parameters
    }
    names = {
        node.name
        for one in lambdas
        for node in walk(one.body)
        if isinstance(node, Column) or (isinstance(node, LambdaVariable) and node.name not in own | inner)
    }
    return sorted(names)


def _over_rows(columns: list[pl.Expr], compute: Callable[[pl.DataFrame], pl.Series], type_: pl.DataType) -> pl.Expr:
    """Return what a function of a frame gives, as an expression over the columns that it reads."""
    return pl.struct(columns).map_batches(
        lambda rows: compute(rows.struct.unnest()), return_dtype=type_, is_elementwise=True
    )


def _laid_out(frame: pl.DataFrame, variables: Sequence[LambdaVariable], *, is_map: bool) -> pl.DataFrame:
    """Return one row for each element, with the lambda's parameters as columns."""
    rows = frame.with_row_index(_ROW).explode(_LIST, empty_as_null=False, keep_nulls=False)
    if not is_map:
        return rows.with_columns(pl.col(_LIST).alias(variables[0].name))
    return rows.with_columns(
        pl.col(_LIST).struct.field(field).alias(variable.name)
        for field, variable in zip((KEY_FIELD, VALUE_FIELD), variables, strict=True)
    )


def _gathered(frame: pl.DataFrame, elements: pl.DataFrame, type_: pl.DataType) -> pl.Series:
    """Return the elements' results (column _LIST) as a list for each row of the frame."""
    lists = elements.group_by(_ROW, maintain_order=True).agg(pl.col(_LIST))
    joined = frame.select(pl.col(_LIST).is_null().alias("null")).with_row_index(_ROW).join(lists, on=_ROW, how="left")
    empty = pl.lit([], dtype=type_)
    values = pl.when(pl.col("null")).then(None).otherwise(pl.coalesce(pl.col(_LIST), empty))
    return joined.select(values.cast(type_).alias(_LIST)).to_series()


def _lambdas(call: Call) -> list[Lambda]:
    return [argument for argument in call.arguments if isinstance(argument, Lambda)]


def _transform(call: Call, values: list[pl.Expr]) -> pl.Expr:
    lambdas = _lambdas(call)
    is_map = isinstance(call.arguments[0].type, MapType)
    type_ = call.type.polars

    def compute(frame: pl.DataFrame) -> pl.Series:
        parts = [
            _laid_out(frame, one.parameters, is_map=is_map).select(_ROW, one.body.to_polars().alias("r"))
            for one in lambdas
        ]
        if not is_map:
            return _gathered(frame, parts[0].rename({"r": _LIST}), type_)
        both = parts[0].rename({"r": KEY_FIELD}).with_columns(parts[1]["r"].alias(VALUE_FIELD))
        return _gathered(frame, both.select(_ROW, pl.struct(KEY_FIELD, VALUE_FIELD).alias(_LIST)), type_)

    return _over_rows([values[0].alias(_LIST), *map(pl.col, _outside(lambdas))], compute, type_)


def _filter(call: Call, values: list[pl.Expr]) -> pl.Expr:
    (one,) = _lambdas(call)
    is_map = isinstance(call.arguments[0].type, MapType)
    type_ = call.type.polars

    def compute(frame: pl.DataFrame) -> pl.Series:
        kept = _laid_out(frame, one.parameters, is_map=is_map).filter(one.body.to_polars())
        return _gathered(frame, kept.select(_ROW, _LIST), type_)

    return _over_rows([values[0].alias(_LIST), *map(pl.col, _outside([one]))], compute, type_)


def _reduce(call: Call, values: list[pl.Expr]) -> pl.Expr:
    (one,) = _lambdas(call)
    is_map = isinstance(call.arguments[0].type, MapType)
    state, *elements = one.parameters

    def compute(frame: pl.DataFrame) -> pl.Series:
        lengths = pl.col(_LIST).list.len().fill_null(0)
        longest = int(frame.select(lengths.max()).item() or 0)
        for index in range(longest):
            item = pl.col(_LIST).list.get(index, null_on_oob=True)
            parts = [item.struct.field(KEY_FIELD), item.struct.field(VALUE_FIELD)] if is_map else [item]
            step = frame.with_columns(
                pl.col(_STATE).alias(state.name),
                *(part.alias(variable.name) for part, variable in zip(parts, elements, strict=True)),
            ).with_columns(one.body.to_polars().cast(call.type.polars).alias("next"))
            chosen = pl.when(lengths > index).then(pl.col("next")).otherwise(pl.col(_STATE))
            frame = step.with_columns(chosen.alias(_STATE)).select(frame.columns)
        return frame[_STATE]

    columns = [values[0].alias(_LIST), values[1].cast(call.type.polars).alias(_STATE), *map(pl.col, _outside([one]))]
    result = _over_rows(columns, compute, call.type.polars)
    return pl.when(values[1].is_not_null()).then(result)


register("TRANSFORM", _LAMBDA, "Each element as a lambda gives it.", (_T_ARRAY, LambdaType(parameters=(T,), result=U)),
         ArrayType(element=U), _transform, with_call=True)  # fmt: skip
register("TRANSFORM", _LAMBDA, "Each entry as two lambdas give its key and value.",
         (_KV_MAP, LambdaType(parameters=(K, V), result=U), LambdaType(parameters=(K, V), result=W)),
         MapType(key=U, value=W), _transform, with_call=True)  # fmt: skip
register("FILTER", _LAMBDA, "Elements for which a lambda is TRUE.", (_T_ARRAY, LambdaType(parameters=(T,), result=BOOLEAN)),
         _T_ARRAY, _filter, with_call=True)  # fmt: skip
register("FILTER", _LAMBDA, "Entries for which a lambda is TRUE.", (_KV_MAP, LambdaType(parameters=(K, V), result=BOOLEAN)),
         _KV_MAP, _filter, with_call=True)  # fmt: skip
register("REDUCE", _LAMBDA, "One value, made element by element.", (_T_ARRAY, U, LambdaType(parameters=(U, T), result=U)), U,
         _reduce, with_call=True, null_gives_null=False)  # fmt: skip
register("REDUCE", _LAMBDA, "One value, made entry by entry.", (_KV_MAP, U, LambdaType(parameters=(U, K, V), result=U)), U,
         _reduce, with_call=True, null_gives_null=False)  # fmt: skip
