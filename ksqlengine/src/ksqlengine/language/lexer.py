"""KSQL text to tokens, split into statements, with variables replaced.

The token rules are those of ksqlDB's SqlBase grammar: keywords in any case, identifiers upper-cased unless quoted, comments
dropped. A keyword that may also name something becomes an identifier in the parser's `identifier` rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lark import Token
from lark.lexer import Lexer

from ksqlengine.types.errors import ParseError, Position

# Reserved words are dropped from the parse tree; non-reserved ones can be names, so they stay in it.
NON_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        SHOW TABLES COLUMNS COLUMN PARTITIONS FUNCTIONS FUNCTION SESSION STRUCT MAP ARRAY PARTITION INTEGER DATE TIME
        TIMESTAMP INTERVAL ZONE YEAR MONTH DAY HOUR MINUTE SECOND EXPLAIN ANALYZE TYPE TYPES SET RESET IF SOURCE SINK
        PRIMARY KEY EMIT CHANGES FINAL ESCAPE REPLACE ASSERT ALTER ADD HEADER HEADERS GRACE PERIOD DEFINE UNDEFINE
        VARIABLES PLUGINS SYSTEM TIMEOUT SCHEMA SUBJECT ID PAUSE RESUME
        """,
    )
)
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        SELECT FROM AS ALL DISTINCT WHERE WITHIN WINDOW GROUP BY HAVING LIMIT AT OR AND IN NOT EXISTS BETWEEN LIKE IS
        NULL TRUE FALSE MILLISECOND YEARS MONTHS DAYS HOURS MINUTES SECONDS MILLISECONDS TUMBLING HOPPING SIZE ADVANCE
        RETENTION CASE WHEN THEN ELSE END JOIN FULL OUTER INNER LEFT RIGHT ON WITH VALUES CREATE TABLE TOPIC STREAM
        STREAMS INSERT DELETE INTO DESCRIBE EXTENDED PRINT CAST LIST TOPICS QUERY QUERIES TERMINATE LOAD DROP TO RENAME
        SAMPLE EXPORT CATALOG PROPERTIES BEGINNING UNSET RUN SCRIPT DECIMAL CONNECTOR CONNECTORS NAMESPACE MATERIALIZED
        VIEW
        """,
    )
)
KEYWORDS = NON_RESERVED | RESERVED

OPERATORS = {
    "=": "EQ", "<>": "NEQ", "!=": "NEQ", "<": "LT", "<=": "LTE", ">": "GT", ">=": "GTE", "+": "PLUS", "-": "MINUS",
    "*": "ASTERISK", "/": "SLASH", "%": "PERCENT", "||": "CONCAT", ":=": "ASSIGN", "->": "ARROW", "=>": "LAMBDA_ARROW",
    "(": "LPAR", ")": "RPAR", "[": "LBRACKET", "]": "RBRACKET", ",": "COMMA", ".": "DOT", ";": "SEMICOLON",
}  # fmt: skip

_TOKEN = re.compile(
    r"""
      (?P<SKIP>\s+|--[^\r\n]*|/\*.*?\*/)
    | (?P<STRING>'(?:[^']|'')*')
    | (?P<QUOTED_IDENTIFIER>"(?:[^"]|"")*")
    | (?P<BACKQUOTED_IDENTIFIER>`(?:[^`]|``)*`)
    | (?P<VARIABLE>\$\{[A-Za-z_][A-Za-z0-9_@]*\})
    | (?P<FLOATING_POINT_VALUE>(?:\d+(?:\.\d*)?|\.\d+)[eE][+-]?\d+(?![A-Za-z0-9_@]))
    | (?P<DECIMAL_VALUE>\d+\.\d*|\.\d+)
    | (?P<DIGIT_IDENTIFIER>\d+[A-Za-z_@][A-Za-z0-9_@]*)
    | (?P<INTEGER_VALUE>\d+)
    | (?P<IDENTIFIER>[A-Za-z_][A-Za-z0-9_@]*)
    | (?P<OPERATOR><>|!=|<=|>=|\|\||:=|->|=>|[=<>+\-*/%()\[\],.;])
    | (?P<UNRECOGNIZED>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class ParsedStatement:
    """One statement of a request: its text (with the semicolon) and its tokens."""

    text: str
    tokens: tuple[Token, ...]


def tokenize(sql: str) -> Iterator[Token]:
    """Yield the tokens of a text; positions count from 1.

    Raises:
        ParseError: a character begins no token.
    """
    line, line_start = 1, 0
    for match in _TOKEN.finditer(sql):
        kind, text, start = match.lastgroup or "", match.group(), match.start()
        if kind == "UNRECOGNIZED":
            raise ParseError(f"token recognition error at: {text!r}", Position(line, start - line_start + 1))
        if kind != "SKIP":
            yield _token(kind, text, start, line, start - line_start + 1)
        newlines = text.count("\n")
        if newlines:
            line, line_start = line + newlines, start + text.rindex("\n") + 1


def _token(kind: str, text: str, start: int, line: int, column: int) -> Token:
    if kind == "OPERATOR":
        kind = OPERATORS[text]
    elif kind == "IDENTIFIER" and text.upper() in KEYWORDS:
        kind = text.upper()
    return Token(kind, text, start, line, column, line, column + len(text), start + len(text))


def split_statements(sql: str) -> list[ParsedStatement]:
    """Split a request at its semicolons.

    Raises:
        ParseError: the last statement lacks its semicolon, or a character begins no token.
    """
    statements, tokens = [], []
    for token in tokenize(sql):
        tokens.append(token)
        if token.type == "SEMICOLON":
            text = sql[tokens[0].start_pos : token.end_pos]
            statements.append(ParsedStatement(text, tuple(tokens[:-1])))
            tokens = []
    if tokens:
        last = tokens[-1]
        position = Position(last.line or 1, last.end_column or 1)
        raise ParseError("missing ';' at '<EOF>'", position, sql[tokens[0].start_pos :])
    return statements


def substitute(statement: ParsedStatement, variables: Mapping[str, str]) -> ParsedStatement:
    """Replace ``${name}`` where ksqlDB does: as an identifier or a literal, and inside string literals.

    Raises:
        ParseError: a name outside a string is not defined, or its value is neither an identifier nor a literal.
    """
    if not statement.tokens or "${" not in statement.text:
        return statement
    base = statement.tokens[0].start_pos or 0
    parts, position = [], 0
    for token in statement.tokens:
        start = (token.start_pos or 0) - base
        replaced = _replacement(token, variables, statement.text)
        parts += [statement.text[position:start], replaced]
        position = start + len(token)
    text = "".join([*parts, statement.text[position:]])
    return statement if text == statement.text else split_statements(text)[0]


def _replacement(token: Token, variables: Mapping[str, str], statement: str) -> str:
    if token.type == "STRING":
        return substitute_text(str(token), variables)
    if token.type != "VARIABLE":
        return str(token)
    value = variables.get(token[2:-1], str(token))
    if not _VALUE.fullmatch(value):
        position = Position(token.line or 1, token.column or 1)
        message = (
            f"Illegal argument at {position}. Identifier names cannot start with '@' and may only contain alphanumeric "
            f"values and '_'. Got: '{value}'"
        )
        raise ParseError(message, position, statement)
    return value


_VALUE = re.compile(
    r"""'(?:[^']|'')*' | "[A-Za-z_][A-Za-z0-9_@]*" | `[A-Za-z_][A-Za-z0-9_@]*` | [A-Za-z_][A-Za-z0-9_@]*
    | [+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?""",
    re.VERBOSE,
)
_IN_TEXT = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_@]*)\}")


def substitute_text(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``${name}`` inside a string literal; unknown names stay, ``$${name}`` gives ``${name}``."""

    def replace(match: re.Match[str]) -> str:
        if match.group().startswith("$$"):
            return match.group()[1:]
        value = variables.get(match.group(1))
        return match.group() if value is None else _sanitized(value)

    return _IN_TEXT.sub(replace, text)


def _sanitized(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] == "'"
    return (value[1:-1] if quoted else value).replace("'", "''")


class TokenLexer(Lexer):
    """Hands ready tokens to lark's parser."""

    def __init__(self, lexer_conf: Any) -> None:
        pass

    def lex(self, lexer_state: Any, parser_state: Any = None) -> Iterator[Token]:
        """Yield the tokens."""
        yield from lexer_state
