"""What a statement that changes something does to the catalog: pure, so that it can be tried before it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod

from ksqlengine.language import ast
from ksqlengine.language.parser import PreparedStatement
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.steps import QueryPlan, SourceKind
from ksqlengine.planning.replace_check import check_upgrade
from ksqlengine.planning.statements import Analyzer
from ksqlengine.types.errors import Phase, refusing


@dataclass(frozen=True)
class CatalogChange:
    """A change of the catalog, and what follows from it.

    Attributes:
        catalog: the catalog afterwards.
        command_id: as ksqlDB names the command (``stream/`A`/create``).
        message: ksqlDB's message when it is done.
        source: stream or table that it makes.
        plan: query that it starts.
        stopped: queries that it ends.
        paused: queries that it pauses (True) or resumes.
        deleted: source whose topic and subjects are to be deleted.
        nothing: the message where there is nothing to do (IF NOT EXISTS, IF EXISTS), None where there is.
    """

    catalog: Catalog
    command_id: str
    message: str
    source: Source | None = None
    plan: QueryPlan | None = None
    stopped: tuple[str, ...] = ()
    paused: Mapping[str, bool] = field(default_factory=dict)
    deleted: Source | None = None
    nothing: str | None = None


class CatalogChanger:
    """Works out changes against one catalog."""

    def __init__(self, analyzer: Analyzer, number: int, properties: Mapping[str, str]) -> None:
        """Prepare.

        Args:
            analyzer: has the catalog.
            number: the command's place in the command topic; it makes query ids unique.
            properties: session properties, kept with queries.
        """
        self._analyzer = analyzer
        self._catalog = analyzer.catalog
        self._number = number
        self._properties = properties
        self._text = ""

    def change(self, statement: PreparedStatement) -> CatalogChange:
        """Return what a statement changes.

        Raises:
            StatementError: the statement is wrong.
        """
        self._text = statement.text
        return self._of(statement.statement)

    @singledispatchmethod
    def _of(self, node: ast.Statement) -> CatalogChange:
        raise TypeError(f"{type(node).__name__} changes nothing")

    @_of.register
    def _create(self, node: ast.CreateSource) -> CatalogChange:
        kind = node.kind.lower()
        command = f"{kind}/`{node.name}`/create"
        source = self._analyzer.create_source(node, self._text)
        if node.if_not_exists and node.name in self._catalog.sources:
            return self._nothing(command, node.name)
        catalog = self._catalog.with_source(source, or_replace=node.or_replace)
        return CatalogChange(catalog, command, f"{kind.capitalize()} created", source)

    @_of.register
    def _alter(self, node: ast.AlterSource) -> CatalogChange:
        source = self._analyzer.alter_source(node, self._text)
        catalog = self._catalog.with_source(source, or_replace=True)
        message = f"{node.kind.capitalize()} {node.name} altered."
        return CatalogChange(catalog, f"{node.kind.lower()}/{node.name}/alter", message, source)

    @_of.register
    def _create_as(self, node: ast.CreateAsSelect) -> CatalogChange:
        command = f"{node.kind.lower()}/`{node.name}`/create"
        if node.if_not_exists and node.name in self._catalog.sources:
            return self._nothing(command, node.name)
        with refusing(Phase.PLANNED):
            source, plan = self._analyzer.create_as_select(node, self._text, self._number, self._properties)
            source = replace(source, query_id=plan.query_id)
            catalog = self._catalog.with_source(source, or_replace=node.or_replace).with_query(plan)
        stopped = (plan.query_id,) if plan.query_id in self._catalog.queries else ()
        if stopped and self._catalog.queries[plan.query_id].plan.statement != plan.statement:
            check_upgrade(self._catalog.queries[plan.query_id].plan, plan)
        return CatalogChange(catalog, command, f"Created query with ID {plan.query_id}", source, plan, stopped)

    @_of.register
    def _insert(self, node: ast.InsertInto) -> CatalogChange:
        plan = self._analyzer.insert_into(node, self._text, self._number, self._properties)
        command = f"stream/`{node.target}`/create"
        return CatalogChange(
            self._catalog.with_query(plan), command, f"Created query with ID {plan.query_id}", plan=plan
        )

    @_of.register
    def _drop(self, node: ast.DropSource) -> CatalogChange:
        kind = SourceKind(node.kind)
        command = f"{node.kind.lower()}/{node.name}/drop"
        source = self._catalog.sources.get(node.name)
        catalog = self._catalog.without_source(
            node.name, kind, if_exists=node.if_exists, delete_topic=node.delete_topic
        )
        if source is None:
            return CatalogChange(catalog, command, "", nothing=f"Source `{node.name}` does not exist.")
        deleted = source if node.delete_topic else None
        stopped = tuple(set(self._catalog.queries) - set(catalog.queries))
        message = f"Source `{node.name}` (topic: {source.topic}) was dropped."
        return CatalogChange(catalog, command, message, stopped=stopped, deleted=deleted)

    @_of.register
    def _terminate(self, node: ast.TerminateQuery) -> CatalogChange:
        ids = self._query_ids(node.query_id)
        catalog = self._catalog
        for query_id in ids:
            catalog = catalog.without_query(query_id)
        return CatalogChange(catalog, f"terminate/{node.query_id or 'ALL'}/execute", "Query terminated.", stopped=ids)

    @_of.register
    def _pause(self, node: ast.PauseQuery) -> CatalogChange:
        return self._set_paused(node.query_id, "pause", paused=True)

    @_of.register
    def _resume(self, node: ast.ResumeQuery) -> CatalogChange:
        return self._set_paused(node.query_id, "resume", paused=False)

    def _set_paused(self, query_id: str | None, verb: str, *, paused: bool) -> CatalogChange:
        catalog, ids = self._catalog, self._query_ids(query_id)
        for affected_id in ids:
            catalog = catalog.with_paused(affected_id, paused)
        command = f"{verb}/{query_id or 'ALL'}/execute"
        return CatalogChange(catalog, command, f"Query {verb}d.", paused=dict.fromkeys(ids, paused))

    @_of.register
    def _register_type(self, node: ast.RegisterType) -> CatalogChange:
        command = f"type/{node.name}/create"
        if node.if_not_exists and node.name in self._catalog.types:
            return CatalogChange(
                self._catalog,
                command,
                "",
                nothing=f"{node.name} is already registered with type {self._catalog.types[node.name]}",
            )
        type_ = self._catalog.resolve_type(node.type)
        catalog = self._catalog.with_type(node.name, type_, if_not_exists=node.if_not_exists)
        message = f"Registered custom type with name '{node.name}' and SQL type {type_}"
        return CatalogChange(catalog, command, message)

    @_of.register
    def _drop_type(self, node: ast.DropType) -> CatalogChange:
        command = f"type/{node.name}/drop"
        catalog = self._catalog.without_type(node.name, if_exists=node.if_exists)
        if node.name not in self._catalog.types:
            return CatalogChange(catalog, command, "", nothing=f"Type '{node.name}' does not exist")
        return CatalogChange(catalog, command, f"Dropped type '{node.name}'")

    def _query_ids(self, query_id: str | None) -> tuple[str, ...]:
        if query_id is None:
            return tuple(self._catalog.queries)
        return (self._catalog.query(query_id).query_id,)

    def _nothing(self, command: str, name: str) -> CatalogChange:
        existing = self._catalog.sources[name]
        kind = existing.kind.value.lower()
        return CatalogChange(
            self._catalog,
            command,
            "",
            nothing=f"Cannot add {kind} `{name}`: A {kind} with the same name already exists.",
        )


def is_change(node: ast.Statement) -> bool:
    """Say whether a statement changes the catalog."""
    return isinstance(
        node,
        ast.CreateSource | ast.AlterSource | ast.CreateAsSelect | ast.InsertInto | ast.DropSource | ast.TerminateQuery
        | ast.PauseQuery | ast.ResumeQuery | ast.RegisterType | ast.DropType,
    )  # fmt: skip
