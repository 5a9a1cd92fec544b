"""KSQL text to the syntax tree of `ksqlengine.language.ast`.

`parse_statements` is the entry: it splits a request, replaces variables as the request's DEFINE statements change them, and
builds each statement. Positions count from the start of the request (of the statement once variables were replaced).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from lark import Lark, Token, Tree, UnexpectedToken
from lark.exceptions import VisitError

from ksqlengine.language import ast
from ksqlengine.language.lexer import (
    KEYWORDS,
    OPERATORS,
    ParsedStatement,
    TokenLexer,
    split_request,
    split_statements,
    tokenize,
)
from ksqlengine.language.syntax_errors import syntax_detail, syntax_message
from ksqlengine.language.tree_builder import TreeBuilder
from ksqlengine.language.variables import place, stored_name, substitute
from ksqlengine.types.errors import NotSupportedError, ParseError, Phase, Position, StatementError, refusing
from ksqlengine.types.sqltypes import SqlType

_TOKENS = KEYWORDS | set(OPERATORS.values()) | {
    "STRING", "QUOTED_IDENTIFIER", "BACKQUOTED_IDENTIFIER", "FLOATING_POINT_VALUE", "DECIMAL_VALUE", "DIGIT_IDENTIFIER",
    "INTEGER_VALUE", "IDENTIFIER", "VARIABLE", "UNRECOGNIZED",
}  # fmt: skip


@dataclass(frozen=True)
class PreparedStatement:
    """A statement ready to be analysed: its text (variables replaced, with the semicolon), its tree, and what to warn of."""

    text: str
    statement: ast.Statement
    warning: str | None = None


@cache
def _lark() -> Lark:
    grammar = files("ksqlengine.language").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        f"{grammar}\n%declare {' '.join(sorted(_TOKENS))}\n",
        parser="lalr",
        lexer=TokenLexer,
        propagate_positions=True,
        maybe_placeholders=True,
        start=["single_statement", "single_expression"],
        cache=_cache_file(),
    )


def _cache_file() -> str | bool:
    """Return where the grammar's tables are kept: to make them takes ten times as long as to read them.

    The file is in the user's own folder, for it is unpickled; without one nothing is kept. lark checks that it fits the grammar.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ksqlengine"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder / "grammar")
    except (OSError, RuntimeError):
        return False


def parse_statements(sql: str, variables: MutableMapping[str, str] | None = None) -> list[PreparedStatement]:
    """Parse a request.

    Args:
        sql: statements, each with its semicolon.
        variables: values of ``${name}``; DEFINE and UNDEFINE in the request change them for the statements that follow.

    Raises:
        StatementError: the text is not KSQL, or a variable is unknown.
    """
    values = {} if variables is None else variables
    return [prepare(statement, values) for statement in split_statements(sql)]


def check_request(sql: str) -> None:
    """Refuse a request that is not KSQL, before any of its statements is looked at, as ksqlDB does.

    Raises:
        ParseError: it isn't; the error's statement is the line of the mistake.
    """
    statements, rest = split_request(sql)
    try:
        for parsed in statements:
            _check_syntax(place(_with_variable_name(parsed), _lark()))
        if rest is not None:
            _check_beginning(rest)
            split_statements(sql)
    except ParseError as error:
        error.statement = sql.split("\n")[error.position.line - 1]
        raise


def _check_beginning(statement: ParsedStatement) -> None:
    """Refuse the beginning of a statement where no end could make KSQL of it."""
    try:
        _lark().parse(cast(Any, place(statement, _lark()).tokens), start="single_statement")
    except UnexpectedToken as error:
        if cast(Token, error.token).type != "$END":
            raise _parse_error(error, statement) from error


def prepare(parsed: ParsedStatement, variables: MutableMapping[str, str]) -> PreparedStatement:
    """Replace variables in one statement and build its tree; DEFINE and UNDEFINE change `variables`.

    Raises:
        StatementError: the text is not KSQL, or a variable is unknown.
    """
    placed = place(_with_variable_name(parsed), _lark())
    if "${" in placed.text:
        _check_syntax(placed)
    replaced = substitute(placed, variables)
    statement = cast(ast.Statement, _build(replaced, "single_statement"))
    if isinstance(statement, ast.DefineVariable):
        variables[stored_name(variables, statement.name)] = statement.value
    elif (
        isinstance(statement, ast.UndefineVariable)
        and variables.pop(stored_name(variables, statement.name), None) is None
    ):
        message = f"Cannot undefine variable '{statement.name}' which was never defined"
        return PreparedStatement(replaced.text, statement, message)
    return PreparedStatement(replaced.text, statement)


def _with_variable_name(parsed: ParsedStatement) -> ParsedStatement:
    """Return DEFINE or UNDEFINE with its variable as an identifier: keywords may name variables, quoted identifiers may not.

    Raises:
        ParseError: the name or the value is of another kind.
    """
    if len(parsed.tokens) < 2 or parsed.tokens[0].type not in ("DEFINE", "UNDEFINE"):
        return parsed
    name = parsed.tokens[1].update(type="IDENTIFIER") if parsed.tokens[1].type in KEYWORDS else parsed.tokens[1]
    tokens = (parsed.tokens[0], name, *parsed.tokens[2:])
    for token, wanted in zip(tokens[1:4:2], ("IDENTIFIER", "STRING"), strict=False):
        if token.type != wanted:
            position = Position(token.line or 1, token.column or 1)
            raise ParseError(f"Syntax Error\nExpecting {wanted}", position, parsed.text)
    return ParsedStatement(parsed.text, tokens)


def parse_expression(text: str) -> ast.SyntaxExpression:
    """Parse one expression.

    Raises:
        StatementError: the text is not an expression.
    """
    return cast(ast.SyntaxExpression, _build(ParsedStatement(text, tuple(tokenize(text))), "single_expression"))


def parse_type(text: str) -> SqlType:
    """Parse a type as DESCRIBE prints it, for example ``ARRAY<DECIMAL(4, 2)>``.

    Raises:
        StatementError: the text is not a type.
    """
    expression = parse_expression(f"CAST(NULL AS {text})")
    return cast(ast.Cast, expression).type


def _check_syntax(statement: ParsedStatement) -> None:
    """Refuse what is not KSQL before its variables are replaced, with the places of the text as it was sent."""
    _parse(statement, "single_statement")


def _parse(statement: ParsedStatement, start: str) -> Tree[Token]:
    try:
        return _lark().parse(cast(Any, statement.tokens), start=start)
    except UnexpectedToken as error:
        raise _parse_error(error, statement) from error


def _build(statement: ParsedStatement, start: str) -> ast.Node:
    tree = _parse(statement, start)
    _check_depth(tree, statement)
    try:
        return cast(ast.Node, TreeBuilder().transform(tree))
    except VisitError as error:
        if isinstance(error.orig_exc, StatementError):
            if error.orig_exc.statement:
                raise error.orig_exc from None
            with refusing(Phase.PARSED):
                raise error.orig_exc.with_statement(statement.text) from None
        raise


_DEEPEST = 300  # levels of a statement; ORs and sums without brackets are a level a term
_FRAMES_A_LEVEL = 10
# Whatever walks a statement's tree, here, in the analyzer or when it is compiled, calls itself for each level.
sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEEPEST * _FRAMES_A_LEVEL))


def _check_depth(tree: Tree[Token], statement: ParsedStatement) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise NotSupportedError(f"A statement that is nested more than {_DEEPEST} levels deep").with_statement(
                statement.text
            )
        level = [child for node in level for child in node.children if isinstance(child, Tree)]


def _parse_error(error: UnexpectedToken, statement: ParsedStatement) -> ParseError:
    token = cast(Token, error.token)
    at_end = token.type == "$END"
    position = _end(statement) if at_end else Position(token.line or 1, token.column or 1)
    text = ";" if at_end else str(token)
    message = syntax_message(error, statement, position, text)
    return ParseError(message, position, statement.text, syntax_detail(error, text))


def _end(statement: ParsedStatement) -> Position:
    """Return where a statement's semicolon is."""
    if not statement.tokens:
        return Position(1, 1)
    first, before = statement.tokens[0], statement.text.removesuffix(";")
    newline = before.rfind("\n")
    column = len(before) - newline if newline >= 0 else (first.column or 1) + len(before)
    return Position((first.line or 1) + before.count("\n"), column)
