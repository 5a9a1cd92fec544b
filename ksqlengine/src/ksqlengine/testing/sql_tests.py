"""SQL test files: tests that insert their own records and assert what comes out, one after another in one file.

Source: ksqlDB's ``run-ksql-test`` (``SqlTestLoader``, ``TestDirective``): ``--@test: name`` begins a test,
``--@expected.error: class`` and ``--@expected.message: text`` say that it must end with an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ksqlengine.testing.cases import CaseFileError, Refusal, read_text

_DIRECTIVE = re.compile(r"^[ \t]*--@(?P<type>[a-zA-Z.]+):[ \t]*(?P<contents>.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class SqlTest:
    """One test of a file.

    Attributes:
        name: from ``--@test:``.
        sql: its statements, after as many line ends as stand before them in the file, so errors name the file's lines.
        refusal: the error that must end it.
    """

    name: str
    sql: str
    refusal: Refusal | None


def read_sql_tests(path: Path) -> list[SqlTest]:
    """Read a file of SQL tests.

    Raises:
        CaseFileError: it can't be read, or something stands before its first test.
    """
    text = read_text(path)
    starts = [match for match in _DIRECTIVE.finditer(text) if match["type"].lower() == "test"]
    before = text[: starts[0].start()] if starts else text
    if re.sub(r"--[^\n]*|\s+", "", before) or not starts:
        raise CaseFileError(f"file {str(path)!r}: its tests must each begin with a line '--@test: name'; put one first")
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [_test(text, start, end) for start, end in zip(starts, ends, strict=True)]


def sql_test_files(folder: Path) -> list[Path]:
    """Return the files of SQL tests in a folder.

    Raises:
        CaseFileError: one can't be read.
    """
    return [path for path in sorted(folder.glob("*.sql")) if _DIRECTIVE.search(read_text(path))]


def _test(text: str, start: re.Match[str], end: int) -> SqlTest:
    body = text[start.end() : end]
    given = {match["type"].lower(): match["contents"] for match in _DIRECTIVE.finditer(body)}
    error, message = given.get("expected.error"), given.get("expected.message")
    refusal = Refusal(type=error, message=message) if error or message else None
    return SqlTest(start["contents"], "\n" * text.count("\n", 0, start.end()) + body, refusal)
