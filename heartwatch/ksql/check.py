"""Checks an analytic's KSQL migrations without a server.

Every file is rendered with the analytic's variables and its statements are planned by the embedded engine, in memory. On top of
what would be refused, it finds what ksqlDB accepts and then runs otherwise than meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heartwatch.analytic import Analytic
from heartwatch.deploy.migrations import FILE_NAME, VARIABLE, migration_files
from heartwatch.settings import ROOT
from ksqlengine.formats.factory import FormatError
from ksqlengine.language import ast
from ksqlengine.language.lexer import ParsedStatement, split_statements
from ksqlengine.language.parser import prepare
from ksqlengine.language.rendering import RenderingError, errors, placeholders, render
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.types.errors import KsqlError, NotSupportedError, ParseError

_PARAMETER = re.compile(r"\$(\w+)")  # of DuckDB's statements
_LINE = re.compile(r"\bLine: (\d+), Col: \d+")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        file: path below the project's top folder; what is wrong with the settings: the profile and the variable.
        line: where in it, from 1; 0 for the settings.
        what: what is wrong, with the value.
        remedy: what to do.
    """

    file: str
    line: int
    what: str
    remedy: str


def known_analytics(root: Path = ROOT) -> list[str]:
    """Return the analytics of a project."""
    return sorted(path.parent.name for path in (root / "schemas").glob("*/analytic.toml"))


def check_analytic(name: str, overrides: Mapping[str, Any] | None = None, root: Path = ROOT) -> list[Finding]:
    """Check an analytic's migrations.

    Args:
        name: folder below ``ksql/`` and ``schemas/``.
        overrides: values of variables to use instead of the analytic's own.
        root: top folder of the project.

    Returns:
        what was found, in the order of files and lines.

    Raises:
        heartwatch.analytic.AnalyticError: there is no such analytic, its definition can't be read, or an override isn't its.
    """
    analytic = Analytic.load(name, 1, root)
    variables = analytic.variables(dict(overrides or {}))
    schemas = {f"{analytic.name(topic)}-value": analytic.schema_text(topic) for topic in analytic.topics}
    paths = migration_files(analytic.migrations_folder, analytic.repartition)
    files = {_below(path, root): path.read_text(encoding="utf-8") for path in paths}
    findings = [
        *_misnamed(files),
        *_wrong_placeholders(files, variables),
        *_refused_statements(files, variables, schemas),
        *_windows_without_retention(files, variables),
        *_unused_variables(analytic, files, root),
    ]
    return sorted(findings, key=lambda finding: (finding.file, finding.line))


def shown(findings: Iterable[Finding]) -> str:
    """Return the findings as text, one per line: ``file:line: what; remedy``."""
    lines = [
        f"{one.file}{f':{one.line}' if one.line else ''}: {' '.join(one.what.split())}; {one.remedy}"
        for one in findings
    ]
    return "\n".join(lines) if lines else "nothing found"


def shown_as_json(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON list of objects with the fields of `Finding`."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


# --------------------------------------------------------------------------------------------- what is looked for
def _misnamed(files: Iterable[str]) -> Iterator[Finding]:
    expected = 1
    for file in files:
        name = Path(file).name
        shape = FILE_NAME.fullmatch(name)
        if shape is None:
            yield Finding(file, 1, f"the migration's name {name!r} is wrong", "call it V000001__what_it_does.sql")
            continue
        if int(shape[1]) != expected:
            what = f"the migration has the number {int(shape[1])} where {expected} is next"
            yield Finding(file, 1, what, "number the migrations from 1 without gaps")
        expected = int(shape[1]) + 1


def _wrong_placeholders(files: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[Finding]:
    for file, text in files.items():
        found = errors(text, variables)
        for error in found:
            value = "" if error.value is None else f" with the value {error.value!r}"
            reason, _, remedy = error.reason.partition("; ")
            what = f"variable {error.variable!r}{value} {reason}" if error.variable else reason
            yield Finding(file, error.position.line, what, _remedy(error.variable, error.value, remedy))
        named = {error.variable for error in found}
        for match in VARIABLE.finditer(text):
            if match[1] not in variables and match[1] not in named:
                named.add(match[1])
                what = f"variable {match[1]!r} is unknown, which is refused in a comment too"
                yield Finding(file, text.count("\n", 0, match.start()) + 1, what, _remedy(match[1], None, ""))


def _remedy(variable: str, value: str | None, remedy: str) -> str:
    if variable and value is None and not remedy.startswith(("write", "make")):
        return f"add {variable!r} under [variables] in analytic.toml, or correct the name"
    return remedy


def _refused_statements(
    files: Mapping[str, str], variables: Mapping[str, str], schemas: Mapping[str, str]
) -> Iterator[Finding]:
    """Run the statements until one is refused: what follows may need what it would have made."""
    engine = InMemoryEngine({}, schemas)
    for file, text in files.items():
        if errors(text, variables):
            return
        first_line = 1
        try:
            for parsed in split_statements(render(text, variables)):
                first_line = _line_of(parsed)
                engine.execute(parsed)
        except (KsqlError, FormatError) as error:
            remedy = "correct the statement"
            if isinstance(error, NotSupportedError):
                remedy = "write it otherwise, or run this analytic on ksqlDB only"
            what = error.detail if isinstance(error, ParseError) else str(error)
            yield Finding(file, _line_of_error(error, first_line), what, remedy)
            return


def _line_of(parsed: ParsedStatement) -> int:
    return (parsed.tokens[0].line if parsed.tokens else None) or 1


def _line_of_error(error: KsqlError | FormatError, first_line: int) -> int:
    if isinstance(error, ParseError):
        return error.position.line
    place = _LINE.search(str(error))
    return int(place[1]) if place is not None else first_line


def _windows_without_retention(files: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[Finding]:
    for file, text in files.items():
        for window, size_ms in _final_windows(text, variables):
            yield Finding(
                file,
                window.position.line,
                f"the windowed query is EMIT FINAL and has no RETENTION: ksqlDB keeps a window for {size_ms:,} ms (size and "
                "grace period), and never writes those that have left its store before it looks for closed ones",
                "add RETENTION after the window's size (and ADVANCE BY), longer than event time ever jumps, for example "
                "RETENTION 1 DAY",
            )


def _final_windows(text: str, variables: Mapping[str, str]) -> Iterator[tuple[ast.WindowClause, int]]:
    """Yield the windows of a file's EMIT FINAL queries that say no retention; a file that can't be read has none."""
    if errors(text, variables):
        return
    try:
        statements = [prepare(parsed, {}).statement for parsed in split_statements(render(text, variables))]
    except KsqlError:
        return
    for statement in statements:
        query = statement.query if isinstance(statement, ast.CreateAsSelect | ast.InsertInto) else None
        window = query.window if query is not None and query.emit == "FINAL" else None
        if window is not None and window.retention_ms is None:
            yield window, window.size_ms + (window.grace_ms or 0)


def _unused_variables(analytic: Analytic, files: Mapping[str, str], root: Path) -> Iterator[Finding]:
    """Find the analytic's own variables that no statement uses, those for DuckDB included."""
    used: set[str] = set()
    for text in files.values():
        try:
            used |= {placeholder.name for placeholder in placeholders(text)}
        except RenderingError:
            used |= set(VARIABLE.findall(text))
    for path in analytic.migrations_folder.glob("*/*.sql"):
        used |= set(_PARAMETER.findall(path.read_text(encoding="utf-8")))
    path = analytic.schemas_folder / "analytic.toml"
    lines = path.read_text(encoding="utf-8").splitlines()
    for name in analytic.default_variables:
        if name not in used:
            line = next((number for number, one in enumerate(lines, 1) if re.match(rf"\s*{name}\s*=", one)), 1)
            what = f"variable {name!r} is used by no statement"
            yield Finding(_below(path, root), line, what, "remove it, or use it")
