"""KSQL text to tokens, split into statements.

The token rules are those of ksqlDB's SqlBase grammar: keywords in any case, identifiers upper-cased unless quoted, comments
dropped. A keyword that may also name something becomes an identifier in the parser's `identifier` rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
MISSING_SEMICOLON = "Syntax Error\nSyntax error at or near \";\"\n'}', ']', or ')' is missing"
SYMBOLS = {name: text for text, name in OPERATORS.items()} | {"NEQ": "<>"}

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
    """Yield the tokens of a text; positions count from 1. A character that begins no token is one of the type UNRECOGNIZED."""
    line, line_start = 1, 0
    for match in _TOKEN.finditer(sql):
        kind, text, start = match.lastgroup or "", match.group(), match.start()
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
        ParseError: the last statement lacks its semicolon.
    """
    statements, rest = split_request(sql)
    if rest is not None:
        position = Position(sql.count("\n") + 1, len(sql) - sql.rfind("\n"))
        raise ParseError(MISSING_SEMICOLON, position, rest.text, "the last statement's semicolon is missing; add it")
    return statements


def split_request(sql: str) -> tuple[list[ParsedStatement], ParsedStatement | None]:
    """Split a request at its semicolons; also return what comes after the last one, None for nothing."""
    statements: list[ParsedStatement] = []
    tokens: list[Token] = []
    for token in tokenize(sql):
        tokens.append(token)
        if token.type == "SEMICOLON":
            text = sql[tokens[0].start_pos : token.end_pos]
            statements.append(ParsedStatement(text, tuple(tokens[:-1])))
            tokens = []
    rest = ParsedStatement(sql[tokens[0].start_pos :], tuple(tokens)) if tokens else None
    return statements, rest


class TokenLexer(Lexer):
    """Hands ready tokens to lark's parser."""

    def __init__(self, lexer_conf: Any) -> None:
        pass

    def lex(self, lexer_state: Any, parser_state: Any = None) -> Iterator[Token]:
        """Yield the tokens."""
        yield from lexer_state
