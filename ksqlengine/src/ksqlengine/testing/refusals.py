"""Errors under the names that ksqlDB's Java classes have, and whether one is the refusal that a test expects.

Source: ksqlDB's ``KsqlExpectedException``: the error must be of the class (a super-class will do), and its message must contain
the expected text.
"""

from __future__ import annotations

import re

from ksqlengine.errors import KsqlEngineError
from ksqlengine.testing.cases import Refusal
from ksqlengine.types.errors import KsqlError, ParseError, StatementError

_BASE = ("java.lang.RuntimeException", "java.lang.Exception", "java.lang.Throwable")
_KSQL = ("io.confluent.ksql.util.KsqlException", *_BASE)
# ksqlDB gives ParseFailedException too for what it refuses while it builds the tree, such as a wrong WITH clause. Which stage
# of the work finds a mistake differs between engines, so both names fit a statement that is refused.
_STATEMENT = (
    "io.confluent.ksql.util.KsqlStatementException",
    "io.confluent.ksql.parser.exception.ParseFailedException",
    *_KSQL,
)
_PARSING = ("io.confluent.ksql.parser.ParsingException", *_STATEMENT)
_ASSERTION = (
    "java.lang.AssertionError",
    "java.lang.Error",
    "java.lang.Throwable",
    "io.confluent.ksql.util.KsqlException",
)
_FUNCTION = re.compile(r"(?<=Function ')\w+(?=')")
_PREPARING = "Failed to prepare statement: "


class AssertionMismatch(KsqlEngineError):
    """An ASSERT of a test is not true; the message shows what was expected and what is there."""


def java_classes(error: Exception) -> tuple[str, ...]:
    """Return the Java classes that an error is an instance of, the most special one first."""
    if isinstance(error, ParseError):
        return _PARSING
    if isinstance(error, StatementError):
        return _STATEMENT
    if isinstance(error, KsqlError):
        return _KSQL
    if isinstance(error, AssertionMismatch):
        return _ASSERTION
    return _BASE


def _comparable(message: str) -> str:
    """Return a message with functions' names in capitals: ksqlDB shows each as its Java class happens to write it."""
    return _FUNCTION.sub(lambda found: found[0].upper(), message)


def mismatch(expected: Refusal, error: Exception) -> str | None:
    """Return why an error is not the expected refusal, None when it is."""
    classes = java_classes(error)
    simple = {name.rpartition(".")[2] for name in classes}
    if expected.type is not None and expected.type not in classes and expected.type not in simple:
        return f"expected an exception of type {expected.type}, it is {classes[0]}: {error}"
    if expected.message is not None and _comparable(expected.message.removeprefix(_PREPARING)) not in _comparable(
        str(error)
    ):
        return f"expected a message with {expected.message!r}, it is {str(error)!r}"
    return None
