"""Names in a query: its sources, their columns' names in the frame, and names for select items without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import chain, count
from typing import Any, TypeVar, cast

from ksqlengine.language import ast
from ksqlengine.plan.catalog import Source
from ksqlengine.plan.steps import PSEUDO_COLUMNS, ROWOFFSET, ROWPARTITION, ROWTIME, WINDOWEND, WINDOWSTART
from ksqlengine.types.errors import Phase, StatementError
from ksqlengine.types.sqltypes import BIGINT, INTEGER, SqlType

WINDOW_BOUNDS = (WINDOWSTART, WINDOWEND)
PSEUDO_TYPES: Mapping[str, SqlType] = {ROWTIME: BIGINT, ROWPARTITION: INTEGER, ROWOFFSET: BIGINT}
SYSTEM_COLUMNS = (*PSEUDO_COLUMNS, *WINDOW_BOUNDS)

Node = TypeVar("Node")


def rewrite(node: Node, change: Callable[[Any], Any]) -> Node:
    """Return a syntax tree with `change` applied to each node from the bottom up."""
    if isinstance(node, tuple):
        return cast(Node, tuple(rewrite(part, change) for part in node))
    if not isinstance(node, ast.Node) or not is_dataclass(node):
        return node
    changed = {}
    for part in fields(node):
        value = getattr(node, part.name)
        new = rewrite(value, change)
        if new is not value:
            changed[part.name] = new
    return cast(Node, change(replace(node, **changed) if changed else node))


def nodes(node: Any) -> Iterable[ast.Node]:
    """Yield the nodes of a syntax tree, from the top."""
    if isinstance(node, tuple):
        for part in node:
            yield from nodes(part)
    elif isinstance(node, ast.Node):
        yield node
        for part in fields(node):
            yield from nodes(getattr(node, part.name))


def joined_words(words: Sequence[str], last: str = "and") -> str:
    """Return words as a list in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


@dataclass(frozen=True)
class AliasedSource:
    """A stream or table under its name in the query."""

    alias: str
    source: Source

    def types(self) -> dict[str, SqlType]:
        """Return the columns that can be named, pseudo columns included."""
        types = {column.name: column.type for column in self.source.schema.columns}
        types.update(PSEUDO_TYPES)
        if self.source.key_window is not None:
            types.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        return types


@dataclass(frozen=True)
class Scope:
    """The sources of a query; resolves references to the names of the frame's columns."""

    sources: tuple[AliasedSource, ...]

    @property
    def is_join(self) -> bool:
        """Whether columns carry their source's alias."""
        return len(self.sources) > 1

    def frame_name(self, alias: str, column: str) -> str:
        """Return a source's column's name in the frame."""
        if not self.is_join:
            return column
        return f"{alias}_{column}"

    def types(self) -> dict[str, SqlType]:
        """Return the frame's columns."""
        return {
            self.frame_name(source.alias, name): type_
            for source in self.sources
            for name, type_ in source.types().items()
        }

    def sources_of(self, reference: ast.ColumnReference) -> list[AliasedSource]:
        """Return the sources that a reference may mean."""
        return [
            source
            for source in self.sources
            if (reference.qualifier is None or reference.qualifier == source.alias) and reference.name in source.types()
        ]

    def clashes(self, column: str) -> bool:
        """Return whether several sources have a column of this name."""
        return sum(column in source.types() for source in self.sources) > 1

    def resolve(self, expression: Node, clause: str, extra: Iterable[str] = ()) -> Node:
        """Return an expression whose column references are names of the frame.

        Args:
            expression: what to resolve.
            clause: where it stands, for messages.
            extra: further names that are known (window bounds, the key of a join).

        Raises:
            StatementError: a column is unknown or ambiguous.
        """
        known = set(extra)

        def change(node: Any) -> Any:
            if not isinstance(node, ast.ColumnReference):
                return node
            named = {None, *(source.alias for source in self.sources)}
            if node.name in known and node.qualifier in named and not self.sources_of(node):
                return ast.ColumnReference(node.name, position=node.position)
            return self._resolved(node, clause)

        return outside_lambdas(expression, change)

    def qualified(self, expression: Node) -> Node:
        """Return an expression whose column references name their source, as ksqlDB's messages show them."""

        def change(node: ast.ColumnReference) -> ast.ColumnReference:
            found = self.sources_of(node)
            return replace(node, qualifier=found[0].alias) if len(found) == 1 else node

        return outside_lambdas(expression, change)

    def _resolved(self, node: ast.ColumnReference, clause: str) -> ast.ColumnReference:
        if node.qualifier is not None and all(node.qualifier != source.alias for source in self.sources):
            raise unknown_source(node.qualifier)
        found = self.sources_of(node)
        if not found:
            raise StatementError(f"{node.position.located}: {clause} column '{node}' cannot be resolved.")
        if len(found) > 1:
            options = joined_words(sorted(f"{source.alias}.{node.name}" for source in found), "or")
            message = f"{node.position.located}: Column '{node.name}' is ambiguous. Could be {options}."
            raise StatementError(message).in_phase(Phase.NAMED)
        return ast.ColumnReference(self.frame_name(found[0].alias, node.name), position=node.position)


def unknown_source(alias: str) -> StatementError:
    """Return ksqlDB's error for ``alias.column`` where FROM has no such alias."""
    return StatementError(f"'{alias}' is not a valid stream/table name or alias.").in_phase(Phase.PARSED)


def outside_lambdas(expression: Node, change: Callable[[Any], Any]) -> Node:
    """Apply `change` to column references that aren't lambda parameters."""

    def protected(node: Any, names: frozenset[str]) -> Any:
        if isinstance(node, tuple):
            return tuple(protected(part, names) for part in node)
        if isinstance(node, ast.Lambda):
            return replace(node, body=protected(node.body, names | frozenset(node.parameters)))
        if isinstance(node, ast.ColumnReference):
            return node if node.qualifier is None and node.name in names else change(node)
        if not isinstance(node, ast.Node):
            return node
        parts = {
            part.name: protected(getattr(node, part.name), names) for part in fields(node) if part.name != "position"
        }
        return replace(node, **parts)

    return cast(Node, protected(expression, frozenset()))


class AliasGenerator:
    """Names select items that have none: KSQL_COL_0, …, or the field's name for ``x->field``."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def name(self, expression: ast.SyntaxExpression) -> str:
        """Return a name for an expression."""
        if isinstance(expression, ast.Dereference):
            field_name = expression.field_name
            return self._unused(chain([field_name], (f"{field_name}_{number}" for number in count(1))))
        return self.column()

    def column(self) -> str:
        """Return the next KSQL_COL_n."""
        return self._unused(f"KSQL_COL_{number}" for number in count())

    def _unused(self, names: Iterable[str]) -> str:
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class ResolvedItem:
    """A select item whose names are resolved: its name in the result and its expression over the frame's names."""

    name: str
    expression: ast.SyntaxExpression
