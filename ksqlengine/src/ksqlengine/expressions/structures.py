"""Parts of arrays, maps and structs, and their constructors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from ksqlengine.expressions.base import Compiled, Failure, Literal, TypedExpression, all_failures, contained
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row
from ksqlengine.types.sqltypes import ArrayType, MapType


@dataclass(frozen=True)
class Field(TypedExpression):
    """x->field."""

    base: TypedExpression
    name: str

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The struct."""
        return (self.base,)

    def compile(self) -> Compiled:
        """Return the field; NULL of a NULL struct."""
        base = self.base.compile()
        return Compiled(base.value.struct.field(self.name), base.failures)


@dataclass(frozen=True)
class ArrayIndex(TypedExpression):
    """x[i] on an ARRAY: from 1, or from the end when negative; NULL outside."""

    base: TypedExpression
    index: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Array and index."""
        return self.base, self.index

    def compile(self) -> Compiled:
        """Return the element."""
        base, index = self.base.compile(), self.index.compile()
        failures, lists = base.failures + index.failures, base.value
        if isinstance(self.index, Literal) and self.index.value is not None:
            fixed = self.index.value
            position = pl.lit(fixed - 1 if fixed > 0 else fixed if fixed < 0 else None, dtype=pl.Int64)
        else:
            lists, given = pl.when(index.value.is_not_null()).then(lists), index.value.cast(pl.Int64)
            length = lists.list.len()
            forward = pl.when(given.is_between(1, length)).then(given - 1)
            position = pl.coalesce(forward, pl.when(given.is_between(-length.cast(pl.Int64), -1)).then(given))
            failures += (Failure(index.value.is_null() & base.value.is_not_null()),)
        return Compiled(lists.list.get(position, null_on_oob=True), failures)


@dataclass(frozen=True)
class MapIndex(TypedExpression):
    """x[key] on a MAP; NULL where the key is missing."""

    base: TypedExpression
    key: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Map and key."""
        return self.base, self.key

    def compile(self) -> Compiled:
        """Return the key's value."""
        base, key = self.base.compile(), self.key.compile()
        keys = base.value.list.eval(pl.element().struct.field(KEY_FIELD))
        values = base.value.list.eval(pl.element().struct.field(VALUE_FIELD))
        if isinstance(self.key, Literal):
            wanted = pl.lit(self.key.value, dtype=self.key.type.polars)
            hit = base.value.list.eval(pl.element().struct.field(KEY_FIELD).eq(wanted).arg_true()).list.first()
            return Compiled(values.list.get(hit, null_on_oob=True), base.failures + key.failures)
        typed = cast(MapType, self.base.type)

        def look_up(row: dict[str, Any]) -> Any:
            found = dict(zip(row["keys"] or (), row["values"] or (), strict=True))
            return found.get(row["key"])

        # A key that differs by row has no columnar form in Polars' lists.
        columns = {"keys": keys, "values": values, "key": key.value}
        value = by_row(columns, look_up, typed.value.polars)
        return Compiled(value, base.failures + key.failures)


@dataclass(frozen=True)
class NewArray(TypedExpression):
    """ARRAY[a, b]; all items have the element's type."""

    items: tuple[TypedExpression, ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The items."""
        return self.items

    def compile(self) -> Compiled:
        """Return the array."""
        parts = [contained(item.compile()) for item in self.items]
        element = cast(ArrayType, self.type).element.polars
        items = [part.value.cast(element) for part in parts]
        if not isinstance(element, pl.List):
            return Compiled(pl.concat_list(items), all_failures(parts))
        # concat_list joins lists instead of nesting them; in a struct they stay apart.
        wrapped = pl.concat_list([pl.struct(item.alias(VALUE_FIELD)) for item in items])
        value = wrapped.list.eval(pl.element().struct.field(VALUE_FIELD))
        return Compiled(value, all_failures(parts))


@dataclass(frozen=True)
class NewMap(TypedExpression):
    """MAP(key := value); a later entry replaces an earlier one of the same key."""

    entries: tuple[tuple[TypedExpression, TypedExpression], ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Keys and values in turn."""
        return tuple(part for entry in self.entries for part in entry)

    def compile(self) -> Compiled:
        """Return the map."""
        typed = cast(MapType, self.type)
        compiled = [(contained(key.compile()), contained(value.compile())) for key, value in self.entries]
        structs = [
            pl.struct(
                key.value.cast(typed.key.polars).alias(KEY_FIELD),
                value.value.cast(typed.value.polars).alias(VALUE_FIELD),
            )
            for key, value in compiled
        ]
        value = pl.concat_list(structs)
        if len(structs) > 1:
            first = pl.element().struct.field(KEY_FIELD).is_last_distinct()
            value = value.list.eval(pl.element().filter(first))
        return Compiled(value, all_failures([part for entry in compiled for part in entry]))


@dataclass(frozen=True)
class NewStruct(TypedExpression):
    """STRUCT(a := x)."""

    items: tuple[tuple[str, TypedExpression], ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The fields' values."""
        return tuple(value for _, value in self.items)

    def compile(self) -> Compiled:
        """Return the struct."""
        if not self.items:  # pl.struct needs a field
            return Compiled(pl.lit(pl.Series([{}], dtype=self.type.polars)).first())
        parts = [(name, contained(item.compile()), item.type) for name, item in self.items]
        value = pl.struct([part.value.cast(type_.polars).alias(name) for name, part, type_ in parts])
        return Compiled(value, all_failures([part for _, part, _ in parts]))
