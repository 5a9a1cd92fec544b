"""What ksqlDB says of a text that is not KSQL.

Source: ksqlDB's ``SyntaxErrorValidator``, which makes a sentence of what its parser generator (ANTLR) reports. ANTLR looks ahead
until it knows which rule a statement or a call is: a mistake before that point is only located ("at or near"), a later one says
what was expected, where that is little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lark import Token, UnexpectedToken
from lark.exceptions import UnexpectedInput

from ksqlengine.language.lexer import KEYWORDS, NON_RESERVED, RESERVED, SYMBOLS, ParsedStatement
from ksqlengine.types.errors import Position

_COMMANDS = (
    "SELECT", "CREATE", "INSERT", "DESCRIBE", "PRINT", "EXPLAIN", "SHOW", "LIST", "TERMINATE", "PAUSE", "RESUME", "DROP", "SET",
    "DEFINE", "UNDEFINE", "UNSET", "ASSERT", "ALTER",
)  # fmt: skip
_UNITS = ("DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "DAYS", "HOURS", "MINUTES", "SECONDS", "MILLISECONDS")
_MOST_EXPECTED = 3
_NAMES = frozenset({"IDENTIFIER", "QUOTED_IDENTIFIER", "BACKQUOTED_IDENTIFIER", "DIGIT_IDENTIFIER"})
# What may follow a whole expression and go on with it.
_OPERATORS = frozenset(
    {
        "PLUS", "MINUS", "ASTERISK", "SLASH", "PERCENT", "CONCAT", "ARROW", "LBRACKET", "EQ", "NEQ", "LT", "LTE", "GT", "GTE",
        "AND", "OR", "NOT", "IN", "IS", "LIKE", "BETWEEN",
    }
)  # fmt: skip
_SEVERAL_RULES = frozenset({"SHOW", "LIST", "CREATE", "DESCRIBE", "DROP", "INSERT", "ASSERT", "EXPLAIN", "ALTER"})


def syntax_message(error: UnexpectedInput, statement: ParsedStatement, position: Position, text: str) -> str:
    """Return what is said of a token that may not stand where it does.

    Args:
        error: the parser's.
        statement: what was parsed.
        position: where the token is.
        text: the token's text, a semicolon at the statement's end.
    """
    return f"Syntax Error\n{_reason(cast(UnexpectedToken, error), statement, position, text)}"


def _reason(error: UnexpectedToken, statement: ParsedStatement, position: Position, text: str) -> str:
    token = cast(Token, error.token)
    at_end = token.type == "$END"
    before = [known for known in statement.tokens if at_end or (known.start_pos or 0) < (token.start_pos or 0)]
    expected = set(error.accepts or error.expected)
    if not before:
        return f"Unknown statement '{text}'\nDid you mean '{_nearest(text)}'?"
    if _is_undecided(before) or _is_in_call(before):
        return f"Syntax error at or near '{text}' at line {position}"
    rest = [] if at_end else statement.tokens[len(before) + 1 :]
    if _is_reserved_name(token, rest, expected):
        return (
            f'"{text}" is a reserved keyword and it can\'t be used as an identifier. '
            f"You can use it as an identifier by escaping it as '{text}' "
        )
    missing = _missing(error, expected)
    if missing is not None:
        return f"missing {missing} at '{text}'"
    return _expecting(expected)


def syntax_detail(error: UnexpectedInput, text: str) -> str:
    """Return what stands in a wrong place, and everything that could stand there instead."""
    names = set(cast(UnexpectedToken, error).accepts or cast(UnexpectedToken, error).expected)
    if "IDENTIFIER" in names:  # every non-reserved word is expected as well then: they only hide the rest
        names = {name for name in names if name not in NON_RESERVED}
    words = sorted(map(_shown, names))
    return f"mismatched input '{text}' expecting {words[0] if len(words) == 1 else '{' + ', '.join(words) + '}'}"


def _is_undecided(before: Sequence[Token]) -> bool:
    """Say whether the statement could still be one of several rules."""
    kinds = [token.type for token in before]
    if kinds[0] not in _SEVERAL_RULES:
        return False
    if kinds[0] == "CREATE":
        return not _is_decided_create(kinds)
    if kinds[0] == "INSERT":
        return len(kinds) <= 3 and not {"SELECT", "VALUES", "WITH", "LPAR"} & set(kinds)
    return len(kinds) == 1


def _is_decided_create(kinds: Sequence[str]) -> bool:
    """Say whether it is known which CREATE it is: with columns, AS SELECT, a type, a connector."""
    if "TYPE" in kinds[1:2] or "CONNECTOR" in kinds[1:3] or "AS" in kinds:
        return True
    return "LPAR" in kinds and ("WITH" not in kinds or kinds.index("LPAR") < kinds.index("WITH"))


def _is_in_call(before: Sequence[Token]) -> bool:
    """Say whether the place is inside the brackets of a function's call, or of CAST."""
    depth = 0
    for place in range(len(before) - 1, 0, -1):
        kind = before[place].type
        if kind == "RPAR":
            depth += 1
        elif kind == "LPAR" and depth:
            depth -= 1
        elif kind == "LPAR":
            name = before[place - 1].type
            in_query = any(token.type in ("SELECT", "VALUES") for token in before[:place])
            in_window = "WINDOW" in [token.type for token in before[max(place - 3, 0) : place]]
            if in_query and not in_window and (name in _NAMES or name == "CAST" or name in NON_RESERVED):
                return True
    return False


def _is_reserved_name(token: Token, rest: Sequence[Token], expected: set[str]) -> bool:
    """Say whether a reserved word stands where a name may, and what comes after it would be right in its place."""
    return token.type in RESERVED and "IDENTIFIER" in expected and bool(rest) and rest[0].type in expected


def _missing(error: UnexpectedToken, expected: set[str]) -> str | None:
    """Return what is missing, where the token would be right behind it and nothing else could stand there."""
    is_unit = expected == set(_UNITS)
    if (not is_unit and len(expected) != 1) or "$END" in expected or error.interactive_parser is None:
        return None
    first = next(iter(expected))
    parser = error.interactive_parser.copy()
    parser.feed_token(Token(first, first))
    if cast(Token, error.token).type not in parser.accepts():
        return None
    return f"{{{', '.join(map(_shown, _UNITS))}}}" if is_unit else _shown(first)


def _expecting(expected: set[str]) -> str:
    if expected & _OPERATORS:
        # The parser generator is through with an expression before it looks for what comes next; a select item may get a name.
        names = _NAMES | {"AS"} if "FROM" in expected else frozenset()
        expected = expected - _OPERATORS - names - NON_RESERVED
    if (expected & _NAMES and len(expected) > 1) or not 0 < len(expected) <= _MOST_EXPECTED:
        return ""
    words = sorted(map(_shown, expected))
    return f"Expecting {words[0] if len(words) == 1 else '{' + ', '.join(words) + '}'}"


def _shown(kind: str) -> str:
    if kind == "$END":
        return "';'"
    return f"'{SYMBOLS.get(kind, kind)}'" if kind in KEYWORDS or kind in SYMBOLS else kind


def _nearest(word: str) -> str:
    """Return the command that is most alike, the first of several."""
    return min(_COMMANDS, key=lambda command: _distance(command, word.upper()))


def _distance(one: str, other: str) -> int:
    """Return Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for number, character in enumerate(one, 1):
        previous, row[0] = row[0], number
        for place, against in enumerate(other, 1):
            previous, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, previous + (character != against)),
            )
    return row[-1]
