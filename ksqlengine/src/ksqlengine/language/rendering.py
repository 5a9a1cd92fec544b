"""SQL files with placeholders to SQL that any server takes: `${name}` replaced before anything is sent.

ksqlDB replaces variables only after it has parsed a statement with them, so there they can't stand for a number in a WINDOW
clause, in WITHIN or in a type. Files are therefore rendered on the client's side. What a value must be is decided by where its
placeholder stands: inside a string literal any text, whose quotes are doubled; elsewhere an identifier or a number, and nothing
that could end or change the statement. Comments stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lark import Token

from ksqlengine.errors import KsqlEngineError
from ksqlengine.language.lexer import RESERVED, tokenize
from ksqlengine.types.errors import Position

_IN_TEXT = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_@]*)\}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*|`[A-Za-z_][A-Za-z0-9_@]*`")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_LITERAL_WORDS = frozenset({"TRUE", "FALSE", "NULL"})
_QUOTED_NAMES = frozenset({"QUOTED_IDENTIFIER", "BACKQUOTED_IDENTIFIER"})
# Two tokens of these kinds without a space between them become one word when a placeholder is replaced.
_NOT_WORDS = re.compile(r"[^\w@`\"'$]")


def render_json(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``${name}`` in the strings of a JSON text; unknown names stay, ``$${name}`` gives ``${name}``."""

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return json.dumps(variables[match[1]])[1:-1] if match[1] in variables else match[0]

    return _IN_TEXT.sub(replace, text)


class RenderingError(KsqlEngineError):
    """A placeholder can't be replaced.

    Attributes:
        position: where it stands in the text; line and column count from 1.
        variable: its name; "" where the text can't be read at all.
        value: the variable's value, None without one.
        reason: what is wrong and the remedy.
    """

    def __init__(self, position: Position, variable: str, value: str | None, reason: str) -> None:
        super().__init__(position, variable, value, reason)
        self.position = position
        self.variable = variable
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        """Return ``line:column: what is wrong``, with the variable and its value."""
        if not self.variable:
            return f"{self.position}: {self.reason}"
        value = "" if self.value is None else f" with the value {self.value!r}"
        return f"{self.position}: variable {self.variable!r}{value} {self.reason}"


@dataclass(frozen=True)
class Placeholder:
    """A ``${name}`` of a text, comments left out.

    Attributes:
        name: the variable.
        start: index of its first character.
        end: index after its last character.
        position: the same as line and column, which count from 1.
        in_text: whether it stands inside a string literal.
        escaped: whether it is ``$${name}`` in a string literal, which stands for the text ``${name}``.
    """

    name: str
    start: int
    end: int
    position: Position
    in_text: bool
    escaped: bool = False


def placeholders(sql: str) -> list[Placeholder]:
    """Return the placeholders of a text in their order; ``$${name}`` in a string literal is not one.

    Raises:
        RenderingError: a character begins no token, or a placeholder stands inside a quoted identifier or against another word.
    """
    return [found for found in _found(sql) if not found.escaped]


def render(sql: str, variables: Mapping[str, str]) -> str:
    """Replace the placeholders of a text.

    Args:
        sql: any number of statements, with comments.
        variables: the values.

    Raises:
        RenderingError: a variable is unknown, or its value can't stand where its placeholder does.
    """
    parts, position = [], 0
    for placeholder in _found(sql):
        before = sql[position : placeholder.start]
        value = f"${{{placeholder.name}}}" if placeholder.escaped else _text_of(placeholder, variables)
        two_signs = not placeholder.in_text and before.endswith("-") and value.startswith("-")
        parts += [before, " " if two_signs else "", value]  # two signs without a space would begin a comment
        position = placeholder.end
    return "".join([*parts, sql[position:]])


def errors(sql: str, variables: Mapping[str, str]) -> list[RenderingError]:
    """Return what `render` would raise, of every placeholder; of a text that can't be read the first mistake only."""
    found = []
    try:
        for placeholder in placeholders(sql):
            try:
                _text_of(placeholder, variables)
            except RenderingError as error:
                found.append(error)
    except RenderingError as error:
        return [error]
    return found


def _found(sql: str) -> list[Placeholder]:
    tokens = list(tokenize(sql))
    wrong = next((token for token in tokens if token.type == "UNRECOGNIZED"), None)
    if wrong is not None:
        position = Position(wrong.line or 1, wrong.column or 1)
        raise RenderingError(position, "", None, f"{str(wrong)!r} can't stand here; correct the text")
    return [found for token in tokens for found in _placeholders_of(token, sql)]


def _placeholders_of(token: Token, sql: str) -> Iterator[Placeholder]:
    start = token.start_pos or 0
    if token.type == "VARIABLE":
        placeholder = _placeholder(str(token[2:-1]), sql, start, start + len(token), in_text=False)
        _check_borders(placeholder, sql)
        yield placeholder
    elif token.type == "STRING" or token.type in _QUOTED_NAMES:
        for match in _IN_TEXT.finditer(token):
            placeholder = _placeholder(
                match[1],
                sql,
                start + match.start(),
                start + match.end(),
                in_text=True,
                escaped=match.group().startswith("$$"),
            )
            if token.type in _QUOTED_NAMES:
                raise RenderingError(
                    placeholder.position,
                    placeholder.name,
                    None,
                    f"can't be a part of the quoted identifier {str(token)!r}; write the identifier without quotes",
                )
            yield placeholder


def _placeholder(name: str, sql: str, start: int, end: int, *, in_text: bool, escaped: bool = False) -> Placeholder:
    position = Position(sql.count("\n", 0, start) + 1, start - sql.rfind("\n", 0, start))
    return Placeholder(name, start, end, position, in_text, escaped)


def _check_borders(placeholder: Placeholder, sql: str) -> None:
    borders = sql[max(placeholder.start - 1, 0) : placeholder.start] + sql[placeholder.end : placeholder.end + 1]
    if any(not character.isspace() and not _NOT_WORDS.match(character) for character in borders):
        raise RenderingError(
            placeholder.position,
            placeholder.name,
            None,
            "can't be a part of a word; make the whole word a variable, or put a space between them",
        )


def _text_of(placeholder: Placeholder, variables: Mapping[str, str]) -> str:
    value = variables.get(placeholder.name)
    if value is None:
        known = ", ".join(sorted(variables)) or "none"
        raise RenderingError(placeholder.position, placeholder.name, None, f"is unknown; known are: {known}")
    if placeholder.in_text:
        return value.replace("'", "''")
    if value.upper() in RESERVED - _LITERAL_WORDS:
        raise RenderingError(placeholder.position, placeholder.name, value, "is a reserved word; choose another value")
    if not _IDENTIFIER.fullmatch(value) and not _NUMBER.fullmatch(value):
        raise RenderingError(
            placeholder.position,
            placeholder.name,
            value,
            "is neither an identifier nor a number; correct the value, or put the placeholder between single quotes for a text",
        )
    return value
