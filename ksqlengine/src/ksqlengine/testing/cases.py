"""The files of ksqlDB's test runner: statements, input records, and output records or the refusal that is expected.

Source: ksqlDB's ``ksql-test-runner`` and its ``RecordNode``, ``InputRecordsNode``, ``OutputRecordsNode`` and
``ExpectedExceptionNode``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ksqlengine.errors import KsqlEngineError
from ksqlengine.language.rendering import RenderingError, render, render_json

STATEMENTS, INPUT, OUTPUT, VARIABLES = "statements.sql", "input.json", "output.json", "variables.json"
_MIGRATIONS = "V*__*.sql"
_TESTS = "tests"

Model = TypeVar("Model", bound=BaseModel)


class CaseFileError(KsqlEngineError):
    """A test's file can't be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class Surroundings:
    """What migrations stand in when they are tested: what their project defines outside the SQL files.

    Attributes:
        variables: returns all variables of the statements, given those that a test sets itself.
        schemas: Avro schemas of the registry, by subject.
    """

    variables: Callable[[dict[str, Any]], Mapping[str, str]]
    schemas: Mapping[str, str]


def _no_others(own: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in own.items()}


class WindowBounds(BaseModel):
    """Window of a windowed key; bounds in ms."""

    model_config = ConfigDict(frozen=True)

    start: int
    end: int
    type: Annotated[Literal["time", "session"], BeforeValidator(lambda value: str(value).lower())]


def _decoded(value: Any) -> Any:
    return base64.b64decode(value) if isinstance(value, str) else value


class Header(BaseModel):
    """A record's header; its value is base64 in the file."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(alias="KEY")
    value: Annotated[bytes | None, BeforeValidator(_decoded)] = Field(alias="VALUE")


class Record(BaseModel):
    """A record of an input or output file; an output's timestamp and headers are compared only where given."""

    model_config = ConfigDict(frozen=True)

    topic: str = Field(min_length=1)
    timestamp: int | None = None
    key: Any = None
    value: Any
    window: WindowBounds | None = None
    headers: tuple[Header, ...] | None = None


class Refusal(BaseModel):
    """How the statements must be refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str | None = None
    message: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Refusal:
        if self.type is None and self.message is None:
            raise ValueError("expectedException needs a type or a message")
        return self


class _InputFile(BaseModel):
    inputs: tuple[Record, ...]


class _OutputFile(BaseModel):
    outputs: tuple[Record, ...] | None = None
    expected_exception: Refusal | None = Field(None, alias="expectedException")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> _OutputFile:
        if (self.outputs is None) == (self.expected_exception is None):
            raise ValueError("either 'outputs' or 'expectedException' must be there")
        return self


@dataclass(frozen=True)
class Case:
    """A test.

    Attributes:
        name: how it is reported.
        statements: the SQL under test.
        inputs: records that go in, in this order.
        outputs: records that must come out, in this order a topic.
        refusal: how the statements must be refused instead.
        schemas: Avro schemas that the registry holds before the first statement, by subject.
    """

    name: str
    statements: str
    inputs: tuple[Record, ...]
    outputs: tuple[Record, ...] = ()
    refusal: Refusal | None = None
    schemas: Mapping[str, str] = field(default_factory=dict)


def read_case(statements: Path, inputs: Path | None, outputs: Path, name: str | None = None) -> Case:
    """Read a test from its files.

    Args:
        statements: SQL.
        inputs: records that go in; None where the statements insert their own.
        outputs: what must come out.
        name: how the test is reported, the statements' file by default.

    Raises:
        CaseFileError: a file can't be read or is wrong.
    """
    return make_case(name or statements.stem, read_text(statements), inputs, outputs)


def make_case(
    name: str,
    statements: str,
    inputs: Path | None,
    outputs: Path,
    variables: Mapping[str, str] | None = None,
    schemas: Mapping[str, str] | None = None,
) -> Case:
    """Make a test of SQL and its JSON files.

    Args:
        name: how the test is reported.
        statements: the SQL, rendered.
        inputs: records that go in; None where the statements insert their own.
        outputs: what must come out.
        variables: values of ``${name}`` in the JSON files.
        schemas: Avro schemas of the registry, by subject.

    Raises:
        CaseFileError: a file can't be read or is wrong.
    """
    values = variables or {}
    given = _InputFile(inputs=()) if inputs is None else _model(_InputFile, inputs, values)
    expected = _model(_OutputFile, outputs, values)
    return Case(name, statements, given.inputs, expected.outputs or (), expected.expected_exception, schemas or {})


def read_folder(folder: Path, surroundings: Callable[[Path], Surroundings] | None = None) -> list[Case]:
    """Read the tests of a folder: its sub-folders, or the tests of the migrations that it holds.

    A folder of migrations (``V000001__what.sql``) has its tests in ``tests/``: the migrations themselves are the statements,
    with the variables and schemas that `surroundings` gives. ``tests/variables.json`` sets some variables for all tests, a test's
    own ``variables.json`` for that one.

    Args:
        folder: the folder.
        surroundings: returns a migrations folder's surroundings; None: no schemas, and no variables but the tests' own.

    Raises:
        CaseFileError: there are no tests, or a file is wrong.
    """
    if not folder.is_dir():
        raise CaseFileError(f"there is no folder {str(folder)!r}; give a folder of tests")
    migrations = sorted(folder.glob(_MIGRATIONS))
    cases = _migration_cases(folder, migrations, surroundings) if migrations else _plain_cases(folder)
    if not cases:
        raise CaseFileError(
            f"folder {str(folder)!r} has no tests: give each one a sub-folder with {STATEMENTS}, {INPUT} and {OUTPUT}"
        )
    return cases


def _plain_cases(folder: Path) -> list[Case]:
    if (folder / STATEMENTS).exists():
        return [_plain_case(folder)]
    return [
        _plain_case(path)
        for path in sorted(folder.iterdir())
        if (path / STATEMENTS).exists() or (path / OUTPUT).exists()
    ]


def _plain_case(folder: Path) -> Case:
    return read_case(folder / STATEMENTS, _there(folder / INPUT), folder / OUTPUT, folder.name)


def _migration_cases(
    folder: Path, migrations: list[Path], surroundings: Callable[[Path], Surroundings] | None
) -> list[Case]:
    given = surroundings(folder.resolve()) if surroundings else Surroundings(_no_others, {})
    texts = {path: read_text(path) for path in migrations}
    common = _variables(folder / _TESTS)
    cases = []
    for path in sorted((folder / _TESTS).glob("*/")):
        variables = given.variables(common | _variables(path))
        sql = "\n".join(_rendered(file, text, variables) for file, text in texts.items())
        cases.append(make_case(path.name, sql, _there(path / INPUT), path / OUTPUT, variables, given.schemas))
    return cases


def _rendered(file: Path, sql: str, variables: Mapping[str, str]) -> str:
    """Replace a migration's variables as those who deploy it do."""
    try:
        return render(sql, variables)
    except RenderingError as error:
        raise CaseFileError(f"file {file}:{error}") from error


def _variables(folder: Path) -> dict[str, Any]:
    path = folder / VARIABLES
    found = _json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise CaseFileError(f"file {str(path)!r} must be a JSON object of variables and their values; fix it")
    return found


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        CaseFileError: it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaseFileError(f"file {str(path)!r} can't be read: {error}; give a UTF-8 text file") from error


def parse_json(text: str) -> Any:
    """Read JSON with its numbers as they are written: a fraction keeps its digits, as DECIMAL needs.

    Raises:
        ValueError: it is not JSON.
    """
    return json.loads(text, parse_float=Decimal, parse_int=_whole)


def _whole(text: str) -> int | Decimal:
    """Return a whole number as what JSON can be written of again: no int of more than 64 bits."""
    number = Decimal(text)
    return int(text) if -(2**63) <= number < 2**63 else number


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _json(path: Path, variables: Mapping[str, str] | None = None) -> Any:
    text = read_text(path)
    try:
        return parse_json(render_json(text, variables) if variables else text)
    except ValueError as error:
        raise CaseFileError(f"file {str(path)!r} is not JSON: {error}; fix it") from error


def _model(model: type[Model], path: Path, variables: Mapping[str, str]) -> Model:
    try:
        return model.model_validate(_json(path, variables))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CaseFileError(f"file {str(path)!r} is wrong at {where}: {first['msg']}; fix it") from error
