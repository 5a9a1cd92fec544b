"""The KSQL prompt: statements in, tables out, against a running KSQL server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ksqlengine.client.rest_client import Ksqldb, KsqldbError, ResultRows, StatementRefusedError
from ksqlengine.client.settings import KsqldbSettings
from ksqlengine.language import ast
from ksqlengine.language.lexer import KEYWORDS, ParsedStatement, split_statements
from ksqlengine.language.parser import PreparedStatement, prepare
from ksqlengine.types.errors import StatementError

_RETRY_SECONDS = 5  # how long a file of statements waits for a server
_LEAVE, _HELP = {"exit", "quit"}, "help"
_HELP_TEXT = """Statements end with a semicolon and may take several lines. Ctrl-C ends a push query or drops what is typed.
SET, UNSET, DEFINE and UNDEFINE hold until the prompt is left; RUN SCRIPT 'file' runs a file; exit leaves."""
# What is shown of the server's answers: the field with the items, and of each item its fields under their headings.
_COLUMNS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "streams": (
        "streams",
        {"name": "Stream", "topic": "Topic", "keyFormat": "Key", "valueFormat": "Value", "isWindowed": "Windowed"},
    ),
    "tables": (
        "tables",
        {"name": "Table", "topic": "Topic", "keyFormat": "Key", "valueFormat": "Value", "isWindowed": "Windowed"},
    ),
    "queries": (
        "queries",
        {"id": "Query", "queryType": "Type", "statusCount": "Status", "sinks": "Sink", "queryString": "Statement"},
    ),
    "kafka_topics": ("topics", {"name": "Topic", "replicaInfo": "Replicas of each partition"}),
    "kafka_topics_extended": (
        "topics",
        {"name": "Topic", "replicaInfo": "Replicas", "consumerCount": "Consumers", "consumerGroupCount": "Groups"},
    ),
    "properties": ("properties", {"name": "Property", "scope": "Scope", "value": "Value"}),
    "function_names": ("functions", {"name": "Function", "category": "Category", "type": "Type"}),
    "variables": ("variables", {"name": "Variable", "value": "Value"}),
}


class Shell:
    """A KSQL session: properties and variables, and what runs statements with them."""

    def __init__(self, ksqldb: Ksqldb, console: Console) -> None:
        """Begin without properties and variables.

        Args:
            ksqldb: the server.
            console: where answers go.
        """
        self._ksqldb = ksqldb
        self._console = console
        self._properties: dict[str, str] = {}
        self._variables: dict[str, str] = {}

    def run(self, sql: str) -> None:
        """Run statements one after another; the first that fails ends it.

        Args:
            sql: any number of statements.

        Raises:
            ksqlengine.client.rest_client.KsqldbError: the server refused one, or none is ready.
            ksqlengine.types.errors.StatementError: a text is not KSQL.
        """
        for parsed in split_statements(sql):
            self._run_one(parsed)

    def _run_one(self, parsed: ParsedStatement) -> None:
        prepared = self._prepared(parsed)
        text = parsed.text if prepared is None else prepared.text
        match None if prepared is None else prepared.statement:
            case ast.SetProperty(name, value):
                self._properties[name] = value
                self._console.print(f"{name} is set to {value!r} for this session", markup=False)
            case ast.UnsetProperty(name):
                self._properties.pop(name, None)
                self._console.print(f"{name} is no longer set", markup=False)
            case ast.DefineVariable() | ast.UndefineVariable():
                if prepared is not None and prepared.warning:
                    self._console.print(prepared.warning, style="yellow", markup=False)
            case ast.RunScript(path):
                self.run(Path(path).expanduser().read_text(encoding="utf-8"))
            case ast.QueryStatement(query):
                self._select(text, is_push=query.emit is not None)
            case ast.PrintTopic():
                with self._ksqldb.print_topic(text, self._properties) as lines:
                    self._until_interrupted(lambda: self._printed(lines))
            case _:
                for entity in self._ksqldb.entities(text, self._properties, self._variables):
                    show(entity, self._console)

    def _prepared(self, parsed: ParsedStatement) -> PreparedStatement | None:
        """Return a statement with its tree; None for what only the server may know, so the server says what is wrong."""
        try:
            return prepare(parsed, self._variables)
        except StatementError:
            return None

    def _select(self, sql: str, is_push: bool) -> None:
        with self._ksqldb.select(sql, self._properties, self._variables) as result:
            rows = self._pushed(result) if is_push else self._pulled(result)
        self._console.print(f"{rows} row{'' if rows == 1 else 's'}", style="dim")

    def _pulled(self, result: ResultRows) -> int:
        rows = list(result.rows)
        self._console.print(_grid(result.names, rows))
        return len(rows)

    def _pushed(self, result: ResultRows) -> int:
        """Print rows as they come, in columns of equal width, for nothing is known of the later ones."""
        self._console.print(_grid(result.names, [], expand=True))
        count = 0

        def show_rows() -> None:
            nonlocal count
            for row in result.rows:
                self._console.print(_grid(result.names, [row], expand=True, with_header=False))
                count += 1

        self._until_interrupted(show_rows)
        return count

    def _printed(self, lines: Iterator[str]) -> None:
        for line in lines:
            self._console.print(line, markup=False, highlight=False)

    def _until_interrupted(self, work: Callable[[], None]) -> None:
        try:
            work()
        except KeyboardInterrupt:
            self._console.print("ended", style="dim")

    def names(self) -> list[str]:
        """Return the names of streams and tables for completion; none while the server can't be asked."""
        try:
            return [source.name for source in [*self._ksqldb.streams(), *self._ksqldb.tables()]]
        except KsqldbError:
            return []


def open_prompt(settings: KsqldbSettings, history: Path) -> None:
    """Say which server answers, and read statements from the terminal until the user leaves.

    Args:
        settings: the servers.
        history: file that keeps what was typed.

    Raises:
        ksqlengine.client.rest_client.KsqldbError: no server is ready.
    """
    console = Console()
    client = Ksqldb(settings, retry_seconds=0)
    try:
        info = client.info()
        console.print(f"KSQL server {info.version} at {info.url}, service {info.service_id}", highlight=False)
        prompt(Shell(client, console), console, history)
    finally:
        client.close()


def run_statements(settings: KsqldbSettings, sql: str) -> bool:
    """Run statements and print the answers, and on the standard error stream what is wrong; say whether all went well.

    Args:
        settings: the servers.
        sql: any number of statements; the first that fails ends it.
    """
    client = Ksqldb(settings, retry_seconds=_RETRY_SECONDS)
    try:
        return run_shown(Shell(client, Console()), Console(stderr=True), sql)
    finally:
        client.close()


def prompt(shell: Shell, console: Console, history: Path) -> None:
    """Read statements from the terminal and run them until the user leaves.

    Args:
        shell: runs them.
        console: where answers and errors go.
        history: file that keeps what was typed.
    """
    history.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        completer=KsqlCompleter(shell.names),
        lexer=PygmentsLexer(SqlLexer),
        key_bindings=_bindings(),
        multiline=True,
        prompt_continuation=lambda width, line, wrapped: " " * (width - 2) + "> ",
        complete_while_typing=False,
    )
    console.print(f"Type statements, {_HELP} or exit.", style="dim")
    while True:
        try:
            text = session.prompt(HTML("<b>ksql> </b>")).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.rstrip(";").lower() in _LEAVE:
            return
        if text.rstrip(";").lower() == _HELP:
            console.print(_HELP_TEXT)
            continue
        run_shown(shell, console, text)


def run_shown(shell: Shell, console: Console, sql: str) -> bool:
    """Run statements and print what is wrong as ksqlDB's own prompt does; say whether all went well."""
    try:
        shell.run(sql)
    except StatementRefusedError as error:
        console.print(error.reason, style="red", markup=False)
        return False
    except (StatementError, KsqldbError, OSError) as error:
        console.print(str(error), style="red", markup=False)
        return False
    return True


def is_complete(text: str) -> bool:
    """Say whether what was typed can be run: a word of the prompt itself, or statements with their last semicolon."""
    stripped = text.strip()
    if not stripped or stripped.lower() in {*_LEAVE, _HELP}:
        return True
    without = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", "", stripped, flags=re.DOTALL)
    return without.rstrip().endswith(";") and not re.search(r"['\"`]|/\*", without)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return bindings


class KsqlCompleter(Completer):
    """Completes keywords, and names of streams and tables."""

    def __init__(self, names: Callable[[], list[str]]) -> None:
        """Take what gives the names, asked whenever the user wants a completion."""
        self._names = names

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what the word before the cursor may become."""
        word = document.get_word_before_cursor(pattern=re.compile(r"[\w`]+"))
        found = sorted(name for name in self._names() if name.upper().startswith(word.strip("`").upper()))
        for name in found:
            yield Completion(
                name if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else f"`{name}`", -len(word), name, None, "source"
            )
        for keyword in sorted(KEYWORDS):
            if word and keyword.startswith(word.upper()):
                yield Completion(keyword, -len(word))


# ------------------------------------------------------------------------------------------------------- answers
def show(entity: Mapping[str, Any], console: Console) -> None:
    """Print one answer of the server: a list as a table, a description as its parts, anything else as JSON."""
    kind = str(entity.get("@type", ""))
    if kind in _COLUMNS and isinstance(entity.get(_COLUMNS[kind][0]), list):
        field, columns = _COLUMNS[kind]
        _show_items(entity[field], columns, console)
    elif "commandStatus" in entity:
        console.print(entity["commandStatus"]["message"], markup=False)
    elif kind in _SHOWN:
        _SHOWN[kind](entity, console)
    else:
        console.print_json(json.dumps(entity))
    for warning in entity.get("warnings") or ():
        console.print(warning["message"], style="yellow", markup=False)


def _show_items(items: list[Mapping[str, Any]], columns: Mapping[str, str], console: Console) -> None:
    there = [name for name in columns if any(name in item for item in items)] or list(columns)
    rows = [[item.get(name) for name in there] for item in items]
    console.print(_grid([columns[name] for name in there], rows))


def _show_description(description: Mapping[str, Any], console: Console) -> None:
    window = f", {description['windowType']} windows" if description.get("windowType") else ""
    console.print(f"[bold]{escape(description['name'])}[/bold] {escape(description.get('type', ''))}{window}")
    fields = [[field["name"], _type_text(field), field.get("type", "")] for field in description.get("fields", ())]
    console.print(_grid(["Field", "Type", ""], fields))
    shown = {
        "Topic": description.get("topic"),
        "Formats": f"{description.get('keyFormat')} key, {description.get('valueFormat')} value",
        "Timestamp": description.get("timestamp"),
        "Statement": description.get("statement"),
        "Read by": [query["id"] for query in description.get("readQueries", ())],
        "Written by": [query["id"] for query in description.get("writeQueries", ())],
        "Statistics": description.get("statistics"),
        "Errors": description.get("errorStats"),
    }
    for label, value in shown.items():
        if value:
            console.print(f"{label}: {_text(value)}", markup=False, highlight=False)


def _show_function(description: Mapping[str, Any], console: Console) -> None:
    console.print(f"[bold]{escape(description['name'])}[/bold] {escape(str(description.get('description') or ''))}")
    calls = [
        [
            ", ".join(
                f"{argument['name']} {argument['type']}{'…' if argument.get('isVariadic') else ''}".strip()
                for argument in call["arguments"]
            ),
            call["returnType"],
            call.get("description"),
        ]
        for call in description["functions"]
    ]
    console.print(_grid(["Arguments", "Returns", "What"], calls))


def _show_assertion(entity: Mapping[str, Any], console: Console) -> None:
    what = [
        f"{label} {entity[name]}"
        for label, name in (("Topic", "topicName"), ("Subject", "subject"), ("Schema id", "id"))
        if entity.get(name) is not None
    ]
    console.print(f"{', '.join(what)}: {'exists' if entity['exists'] else 'does not exist'}", markup=False)


def _show_query(description: Mapping[str, Any], console: Console) -> None:
    fields = [[field["name"], _type_text(field), field.get("type", "")] for field in description.get("fields", ())]
    console.print(
        f"[bold]{escape(str(description.get('id') or ''))}[/bold] {escape(str(description.get('state') or ''))}"
    )
    console.print(description.get("statementText", ""), markup=False)
    console.print(_grid(["Field", "Type", ""], fields))
    for label, name in (("Reads", "sources"), ("Writes", "sinks"), ("Plan", "executionPlan"), ("Topology", "topology")):
        if description.get(name):
            console.print(f"{label}: {_text(description[name])}", markup=False, highlight=False)


def _show_types(entity: Mapping[str, Any], console: Console) -> None:
    types = [[name, _type_text({"schema": schema})] for name, schema in sorted(entity["types"].items())]
    console.print(_grid(["Type", "Schema"], types))


def _each(
    field: str, show_one: Callable[[Mapping[str, Any], Console], None]
) -> Callable[[Mapping[str, Any], Console], None]:
    """Return what shows an answer's one description, or the list of them in a field."""

    def show_all(entity: Mapping[str, Any], console: Console) -> None:
        found = entity.get(field)
        for description in found if isinstance(found, list) else [entity[field.removesuffix("s")]]:
            show_one(description, console)

    return show_all


_SHOWN: Mapping[str, Callable[[Mapping[str, Any], Console], None]] = {
    "sourceDescription": _each("sourceDescriptions", _show_description),
    "source_descriptions": _each("sourceDescriptions", _show_description),
    "queryDescription": _each("queryDescriptions", _show_query),
    "queryDescriptions": _each("queryDescriptions", _show_query),
    "describe_function": _show_function,
    "type_list": _show_types,
    "assert_topic": _show_assertion,
    "assert_schema": _show_assertion,
}


def _type_text(field: Mapping[str, Any]) -> str:
    schema = field.get("schema") or {}
    kind = str(schema.get("type", ""))
    if kind == "ARRAY":
        return f"ARRAY<{_type_text({'schema': schema['memberSchema']})}>"
    if kind == "MAP":
        return f"MAP<STRING, {_type_text({'schema': schema['memberSchema']})}>"
    if kind == "STRUCT":
        inner = (f"{inner_field['name']} {_type_text(inner_field)}" for inner_field in schema.get("fields") or ())
        return f"STRUCT<{', '.join(inner)}>"
    parameters = schema.get("parameters")
    return f"{kind}({parameters['precision']}, {parameters['scale']})" if parameters else kind


def _grid(
    names: Iterable[str], rows: Iterable[Iterable[Any]], *, expand: bool = False, with_header: bool = True
) -> Table:
    table = Table(show_header=with_header, header_style="bold", expand=expand)
    for name in names:
        table.add_column(escape(name), overflow="fold", ratio=1 if expand else None)
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row))
    return table


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
