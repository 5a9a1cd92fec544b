"""Variables of a session: where ``${name}`` may stand in a statement, and what is put there.

Source: ksqlDB's ``VariableSubstitutor``. A statement is parsed with its variables first: one may stand for an identifier or for a
literal, nowhere else, so never for a number in a WINDOW clause, in LIMIT or in a type. What its value must be follows from where
it stands. Then the text is replaced, in string literals too, and parsed again. Files that are rendered before they are sent are
another thing: `ksqlengine.language.rendering`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from lark import Lark, Token, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from ksqlengine.language.lexer import KEYWORDS, OPERATORS, ParsedStatement, split_statements
from ksqlengine.types.errors import ParseError, Position, StatementError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?[dDfF]?\s*")
_IN_TEXT = re.compile(r"\$?\$\{([^{}]*)\}")
_MOST_EXPECTED = 3  # ksqlDB doesn't list more of what it would have taken

# Terminals that only an identifier, only a literal, and only a whole number of a clause begin with.
_OF_IDENTIFIERS, _OF_LITERALS, _OF_NUMBERS = "BACKQUOTED_IDENTIFIER", "TRUE", "INTEGER_VALUE"
_MAKE_IT_AN_IDENTIFIER = frozenset({"LPAR", "DOT", "STRING", "LAMBDA_ARROW"})
# A string literal after these is not looked through for variables.
_BEFORE_PLAIN_STRINGS = frozenset({"ESCAPE", "SCRIPT", "IDENTIFIER", "DATE", "TIME", "TIMESTAMP", "DECIMAL"})


def place(statement: ParsedStatement, grammar: Lark) -> ParsedStatement:
    """Find out what each variable of a statement stands for.

    Args:
        statement: with its variables as tokens of the type VARIABLE.
        grammar: ksqlDB's, with the start ``single_statement``.

    Returns:
        the statement, each variable's token being of the type IDENTIFIER or of a literal's type.

    Raises:
        ParseError: one stands where neither may. Another mistake is left to whoever parses the statement.
    """
    if not any(token.type == "VARIABLE" for token in statement.tokens):
        return statement
    roles = _roles(statement, grammar)
    tokens = [token.update(type=roles.get(number, token.type)) for number, token in enumerate(statement.tokens)]
    return ParsedStatement(statement.text, tuple(tokens))


def substitute(statement: ParsedStatement, variables: Mapping[str, str]) -> ParsedStatement:
    """Replace a statement's variables; nothing is replaced where none is defined.

    Args:
        statement: as `place` gave it.
        variables: values by name; the case of names doesn't matter.

    Raises:
        StatementError: a variable is unknown, or has a value that can't stand where it does.
    """
    if "${" not in statement.text:
        return statement
    if not variables:
        if any(_is_variable(token) and token.type != "IDENTIFIER" for token in statement.tokens):
            raise StatementError("Failed to prepare statement: not yet implemented", statement.text)
        return statement
    text = _replaced(statement.text, _Values(statement, variables).replacements)
    return statement if text == statement.text else split_statements(text)[0]


def stored_name(variables: Mapping[str, str], name: str) -> str:
    """Return the name under which a variable is kept: the case of names doesn't matter, the first definition's is kept."""
    return next((known for known in variables if known.lower() == name.lower()), name)


def _is_variable(token: Token) -> bool:
    return token.startswith("${")


# ------------------------------------------------------------------------------------------- where they stand
def _roles(statement: ParsedStatement, grammar: Lark) -> dict[int, str]:
    """Return for each variable, by its place among the tokens, which terminal it stands for: IDENTIFIER or a literal's."""
    parser = grammar.parse_interactive(start="single_statement")
    roles = {}
    for number, token in enumerate(statement.tokens):
        fed = token
        if token.type == "VARIABLE":
            roles[number] = _role(parser, statement, number)
            fed = token.update(type=roles[number])
        try:
            parser.feed_token(fed)
        except UnexpectedToken:
            # Whoever parses the statement says so: `choices` names tokens too that fit a rule only somewhere else.
            break
    later = range(len(roles) and max(roles) + 1, len(statement.tokens))
    return roles | {number: "IDENTIFIER" for number in later if statement.tokens[number].type == "VARIABLE"}


def _role(parser: InteractiveParser, statement: ParsedStatement, number: int) -> str:
    accepted = parser.accepts()
    is_literal = _OF_LITERALS in accepted or _is_schema_id(statement, number)
    is_identifier = _OF_IDENTIFIERS in accepted and (is_literal or _OF_NUMBERS not in accepted)
    if is_identifier and is_literal:
        following = statement.tokens[number + 1].type if number + 1 < len(statement.tokens) else ""
        return "IDENTIFIER" if following in _MAKE_IT_AN_IDENTIFIER else _OF_LITERALS
    if is_identifier:
        return "IDENTIFIER"
    if is_literal:
        return _OF_LITERALS if _OF_LITERALS in accepted else _OF_NUMBERS
    raise _misplaced(statement, number, accepted)


def _is_schema_id(statement: ParsedStatement, number: int) -> bool:
    return statement.tokens[0].type == "ASSERT" and statement.tokens[number - 1].type == "ID"


def _misplaced(statement: ParsedStatement, number: int, accepted: set[str]) -> ParseError:
    token, before = statement.tokens[number], statement.tokens[number - 1].type if number else ""
    position = Position(token.line or 1, token.column or 1)
    if _within_cast(statement.tokens[:number]) or before == "MINUS":
        said = f"Syntax error at or near '{token}' at line {position}"
    elif _OF_NUMBERS in accepted:
        said = "" if "MINUS" in accepted else "Expecting {'STRING', INTEGER_VALUE}"
    else:
        words = sorted(map(_shown, accepted))
        said = "" if len(words) > _MOST_EXPECTED else "Expecting " + (words[0] if len(words) == 1 else _listed(words))
    return ParseError(f"Syntax Error\n{said}", position, statement.text)


def _within_cast(before: tuple[Token, ...]) -> bool:
    """Say whether a CAST's bracket is open: ksqlDB looks ahead through the whole of it."""
    opened: list[bool] = []
    for previous, token in pairwise(before):
        if token.type == "LPAR":
            opened.append(previous.type == "CAST")
        elif token.type == "RPAR" and opened:
            opened.pop()
    return any(opened)


def _listed(words: list[str]) -> str:
    return "{" + ", ".join(words) + "}"


def _shown(terminal: str) -> str:
    if terminal == "$END":
        return "';'"
    symbol = next((text for text, name in OPERATORS.items() if name == terminal), None)
    return f"'{symbol or terminal}'" if symbol or terminal in KEYWORDS else terminal


# ---------------------------------------------------------------------------------------- what is put in place
@dataclass
class _Values:
    """Checks a statement's variables in their order and keeps what stands for each: the first place decides."""

    statement: ParsedStatement
    variables: Mapping[str, str]
    replacements: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, token in enumerate(self.statement.tokens):
            if _is_variable(token):
                name = str(token[2:-1])
                value = self._value(name, str(token))
                is_identifier = token.type == "IDENTIFIER"
                (self._check_identifier if is_identifier else self._check_literal)(value, token)
                self.replacements.setdefault(name, value if is_identifier else _sanitized(value))
            elif token.type == "STRING" and not self._is_plain(number):
                for name in _names(str(token)):
                    value = self._value(name, "")
                    if stored_name(self.variables, name) in self.variables:
                        self.replacements.setdefault(name, _sanitized(value))

    def _value(self, name: str, unknown: str) -> str:
        return self.variables.get(stored_name(self.variables, name), unknown)

    def _is_plain(self, number: int) -> bool:
        return number > 0 and self.statement.tokens[number - 1].type in _BEFORE_PLAIN_STRINGS

    def _check_identifier(self, value: str, token: Token) -> None:
        if not value:
            raise StatementError(
                "Exception while preparing statement: String index out of range: 0", self.statement.text
            )
        quoted = value[0] == value[-1] and value[0] in '"`'
        if not _IDENTIFIER.fullmatch(value[1:-1] if quoted else value):
            raise self._illegal(
                token,
                f" Identifier names cannot start with '@' and may only contain alphanumeric values and '_'. Got: '{value}'",
            )

    def _check_literal(self, value: str, token: Token) -> None:
        is_text = len(value) > 1 and value[0] == value[-1] == "'"
        if not is_text and value.lower() not in ("true", "false") and not _NUMBER.fullmatch(value):
            raise self._illegal(token, f" Got: '{value}'")

    def _illegal(self, token: Token, reason: str) -> StatementError:
        position = Position(token.line or 1, token.column or 1)
        return StatementError(f"Illegal argument at {position.located}.{reason}", self.statement.text)


def _names(text: str) -> list[str]:
    return [match[1].partition(":-")[0] for match in _IN_TEXT.finditer(text) if not match[0].startswith("$$")]


def _replaced(text: str, values: Mapping[str, str]) -> str:
    """Replace ``${name}`` and ``${name:-default}`` in a text; unknown names stay, ``$${name}`` gives ``${name}``."""

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        name, separator, default = match[1].partition(":-")
        return values.get(name, default if separator else match[0])

    return _IN_TEXT.sub(replace, text)


def _sanitized(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return "'" + value[1:-1].replace("''", "'").replace("'", "''") + "'"
    return value.replace("'", "''")
