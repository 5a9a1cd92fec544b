"""What ksqlDB answers when it refuses something: error codes, exceptions and their JSON.

Source: ksqlDB's ``Errors`` (a code is the HTTP status times 100 plus a counter) and its ``KsqlErrorMessage`` entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ksqlengine.errors import KsqlEngineError

BAD_REQUEST = 40000
BAD_STATEMENT = 40001
QUERY_ENDPOINT = 40002
HTTP2_ONLY = 40004
NOT_FOUND = 40400
ASSERTION_FAILED = 41700
SCHEMA_REGISTRY_UNCONFIGURED = 42801
SERVER_ERROR = 50000
COMMAND_QUEUE_CATCHUP_TIMEOUT = 50301
SERVER_NOT_READY = 50302
SERVER_SHUTTING_DOWN = 50303


@dataclass(frozen=True)
class Position:
    """Where something stands in the text of a request; line and column count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        """Return ``line:column`` as messages show it."""
        return f"{self.line}:{self.column}"

    @property
    def located(self) -> str:
        """The same as ksqlDB's ``NodeLocation`` prints it: ``Line: 1, Col: 2``."""
        return f"Line: {self.line}, Col: {self.column}"


class KsqlError(KsqlEngineError):
    """A request that can't be served, in the form that the REST API returns.

    Attributes:
        message: what is wrong, in ksqlDB's words.
        error_code: one of this module's codes.
    """

    error_code = BAD_REQUEST

    def __init__(self, message: str, error_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if error_code is not None:
            self.error_code = error_code

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        return self.error_code // 100

    def entity(self) -> dict[str, Any]:
        """Return the body of the answer (ksqlDB's ``generic_error``)."""
        return {"@type": "generic_error", "error_code": self.error_code, "message": self.message}


class Phase(Enum):
    """How far ksqlDB had come with a statement when it refused it; its message begins with it."""

    PARSED = "Failed to prepare statement"
    NAMED = "Exception while preparing statement"
    PLANNED = "Could not determine output schema for query due to error"


class StatementError(KsqlError):
    """A statement that can't be run.

    Attributes:
        statement: text of the statement; filled in by whoever knows it.
        phase: how far it had come, None where ksqlDB's message doesn't say.
        quoted: whether the message ends with the statement once it is known.
    """

    error_code = BAD_STATEMENT

    def __init__(
        self, message: str, statement: str = "", error_code: int | None = None, *, quoted: bool = False
    ) -> None:
        super().__init__(message, error_code)
        self.statement = statement
        self.quoted = quoted
        self.phase: Phase | None = None

    def with_statement(self, statement: str) -> StatementError:
        """Name the statement unless it is known, and return the error."""
        if not self.statement:
            self.statement = statement
            if self.quoted:
                self.message = f"{self.message}\nStatement: {statement}"
                self.args = (self.message,)
        return self

    def in_phase(self, phase: Phase) -> StatementError:
        """Say how far the statement had come, unless that is known, and return the error."""
        # What ksqlDB didn't foresee is told as its server's own error, without a phase.
        if self.phase is None and self.error_code != SERVER_ERROR:
            self.phase = phase
            self.message = f"{phase.value}: {self.message}"
            self.args = (self.message,)
        return self

    def entity(self, entities: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Return the body of the answer (ksqlDB's ``statement_error``).

        Args:
            entities: answers of the request's earlier statements, which did run.
        """
        return {
            "@type": "statement_error",
            "error_code": self.error_code,
            "message": self.message,
            "statementText": self.statement,
            "entities": entities or [],
        }


class ExpressionError(StatementError):
    """An expression whose parts don't fit together; ksqlDB names it at the message's end."""

    def __init__(self, message: str, expression: object) -> None:
        super().__init__(f"{message}\nStatement: {expression}")


class ParseError(StatementError):
    """Text that is not KSQL; the message starts with its ``line L:C``.

    Attributes:
        position: where the mistake is.
        detail: what stands there and all that could stand there instead; ksqlDB's message often says neither.
    """

    def __init__(self, message: str, position: Position, statement: str = "", detail: str = "") -> None:
        super().__init__(f"line {position}: {message}", statement)
        self.position = position
        self.detail = detail or message


class NotSupportedError(StatementError):
    """KSQL that ksqlDB runs and this engine doesn't: refused by name, never accepted and wrong.

    Attributes:
        feature: what was asked for.
    """

    def __init__(self, feature: str) -> None:
        """Name the feature; it is the sentence's subject, in the singular: ``A foreign-key table-table join``."""
        super().__init__(f"{feature} is not supported by the embedded engine; run it on ksqlDB")
        self.feature = feature


@contextmanager
def refusing(phase: Phase) -> Iterator[None]:
    """Let errors of a block say how far ksqlDB had come; what only this engine refuses stays as it is."""
    try:
        yield
    except NotSupportedError:
        raise
    except StatementError as error:
        error.in_phase(phase)
        raise


def query_endpoint_error(statement: str) -> StatementError:
    """Return ksqlDB's answer to a SELECT or PRINT that was sent to ``/ksql``."""
    message = (
        "The following statement types should be issued to the websocket endpoint '/query':\n\t* PRINT\n\t* SELECT"
    )
    return StatementError(message, statement, QUERY_ENDPOINT)
