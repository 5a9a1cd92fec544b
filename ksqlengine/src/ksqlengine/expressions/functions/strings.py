"""Text and byte functions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
import uuid
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import AnyStr

import polars as pl

from ksqlengine.expressions.overloads import TypedCall, register, row_by_row
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row
from ksqlengine.types.errors import NotSupportedError
from ksqlengine.types.sqltypes import BIGINT, BYTES, DOUBLE, INTEGER, STRING, ArrayType, MapType

_TEXT = "STRING"
_REGEXP = "REGULAR EXPRESSION"
_STRINGS = ArrayType(element=STRING)
_JAVA_BLANKS = "".join(map(chr, range(33)))  # String.trim: everything up to the space


def _concat(*parts: pl.Expr) -> pl.Expr:
    return pl.concat_str([part.fill_null("") for part in parts])


register("CONCAT", _TEXT, "Texts one after the other; NULLs are left out.", (STRING,), STRING, _concat,
         variadic=True, null_gives_null=False)  # fmt: skip
row_by_row("CONCAT", _TEXT, "Bytes one after the other; NULLs are left out.", (BYTES,), BYTES,
           lambda *parts: b"".join(part for part in parts if part is not None), variadic=True, null_gives_null=False)  # fmt: skip


def _concat_ws(separator: pl.Expr, *parts: pl.Expr) -> pl.Expr:
    # The first part has a row for each separator: Polars joins a list that stands for all rows with the first one only.
    first = pl.when(separator.is_not_null()).then(parts[0])
    joined = pl.concat_list([first, *parts[1:]]).list.drop_nulls().list.join(separator)
    return pl.when(separator.is_not_null()).then(joined)


register("CONCAT_WS", _TEXT, "Texts with a separator between them; NULLs are left out.", (STRING, STRING, STRING), STRING,
         _concat_ws, variadic=True, null_gives_null=False)  # fmt: skip
row_by_row("CONCAT_WS", _TEXT, "Bytes with a separator between them.", (BYTES, BYTES, BYTES), BYTES,
           lambda separator, *parts: separator.join(part for part in parts if part is not None),
           variadic=True, null_gives_null=False)  # fmt: skip

register("LCASE", _TEXT, "Lower case.", (STRING,), STRING, lambda text: text.str.to_lowercase())
register("UCASE", _TEXT, "Upper case.", (STRING,), STRING, lambda text: text.str.to_uppercase())
register(
    "TRIM", _TEXT, "Without white space around.", (STRING,), STRING, lambda text: text.str.strip_chars(_JAVA_BLANKS)
)
register("LEN", _TEXT, "Number of characters.", (STRING,), INTEGER, lambda text: text.str.len_chars().cast(pl.Int32))
register("LEN", _TEXT, "Number of bytes.", (BYTES,), INTEGER, lambda data: data.bin.size().cast(pl.Int32))


def _replace(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
    constants = [getattr(argument, "value", None) for argument in call.arguments[1:]]
    if None not in constants:
        return values[0].str.replace_all(*values[1:], literal=True)

    def replaced(row: dict[str, str | None]) -> str | None:
        text, old, new = row.values()
        return None if text is None or old is None or new is None else text.replace(old, new)

    return by_row({f"argument_{index}": value for index, value in enumerate(values)}, replaced, pl.String())


register("REPLACE", _TEXT, "A text with one part replaced by another.", (STRING, STRING, STRING), STRING, _replace,
         with_call=True)  # fmt: skip


def _start(length: pl.Expr, position: pl.Expr) -> pl.Expr:
    from_end = pl.max_horizontal(length + position, pl.lit(0))
    from_start = pl.max_horizontal(pl.min_horizontal(position - 1, length), pl.lit(0))
    return pl.when(position < 0).then(from_end).otherwise(from_start)


def _substring(text: pl.Expr, position: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    start = _start(text.str.len_chars().cast(pl.Int64), position.cast(pl.Int64))
    if length is None:
        return pl.when(position.is_not_null()).then(text.str.slice(start))
    cut = text.str.slice(start, pl.max_horizontal(length, pl.lit(0)))
    return pl.when(length.is_not_null()).then(cut)


register(
    "SUBSTRING",
    _TEXT,
    "A text from a position on (1 is the first, -1 the last).",
    (STRING, INTEGER),
    STRING,
    _substring,
)
register(
    "SUBSTRING", _TEXT, "A number of characters from a position on.", (STRING, INTEGER, INTEGER), STRING, _substring
)


def _slice_bytes(data: bytes, position: int, length: int | None = None) -> bytes:
    start = max(len(data) + position, 0) if position < 0 else max(min(position - 1, len(data)), 0)
    return data[start:] if length is None else data[start : max(min(start + length, len(data)), start)]


row_by_row("SUBSTRING", _TEXT, "Bytes from a position on.", (BYTES, INTEGER), BYTES, _slice_bytes)
row_by_row("SUBSTRING", _TEXT, "A number of bytes from a position on.", (BYTES, INTEGER, INTEGER), BYTES, _slice_bytes)


def _split(text: str, delimiter: str) -> list[str]:
    return text.split(delimiter) if delimiter else list(text) or [""]


row_by_row("SPLIT", _TEXT, "The parts of a text between delimiters.", (STRING, STRING), _STRINGS, _split)
row_by_row("SPLIT", _TEXT, "The parts of bytes between delimiters.", (BYTES, BYTES), ArrayType(element=BYTES),
           lambda data, end: data.split(end) if end else [data[i : i + 1] for i in range(len(data))])  # fmt: skip


def _split_to_map(text: str, entry: str, pair: str) -> list[dict[str, str]] | None:
    if not entry or not pair or entry == pair:
        return None
    found = {}
    for part in text.split(entry):
        if pair in part:
            key, value = part.split(pair)[:2]
            found[key] = value
    return [{KEY_FIELD: key, VALUE_FIELD: value} for key, value in found.items()]


row_by_row("SPLIT_TO_MAP", _TEXT, "Entries of a text as a map.", (STRING, STRING, STRING), MapType(key=STRING, value=STRING),
           _split_to_map)  # fmt: skip


_LONGEST_PADDED = 10_000_000  # more would end the engine


def _units(text: str) -> str:
    """Return a text as Java counts it: a character for each UTF-16 unit, so that one beyond U+FFFF is two."""
    return "".join(map(chr, memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")))


def _of_units(units: str) -> str:
    """Return the text of UTF-16 units; halves of a pair that lost the other one stay halves."""
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _pad(text: str | bytes, length: int, padding: str | bytes, *, left: bool) -> str | bytes | None:
    if not padding or length < 0:
        return None
    if length > _LONGEST_PADDED:
        raise ValueError(f"a length of {length} is too large, {_LONGEST_PADDED} is the largest")
    if isinstance(text, bytes) and isinstance(padding, bytes):
        return _filled(text, length, padding, left=left)
    return _of_units(_filled(_units(str(text)), length, _units(str(padding)), left=left))


def _filled(text: AnyStr, length: int, padding: AnyStr, *, left: bool) -> AnyStr:
    missing = max(length - len(text), 0)
    filled = (padding * (missing // len(padding) + 1))[:missing]
    return ((filled + text) if left else (text + filled))[:length]


for _kind in (STRING, BYTES):
    row_by_row("LPAD", _TEXT, "Filled up from the left to a length.", (_kind, INTEGER, _kind), _kind,
               lambda text, length, padding: _pad(text, length, padding, left=True))  # fmt: skip
    row_by_row("RPAD", _TEXT, "Filled up from the right to a length.", (_kind, INTEGER, _kind), _kind,
               lambda text, length, padding: _pad(text, length, padding, left=False))  # fmt: skip


def _initcap(text: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.findall(r"[^ \t-\r]+[ \t-\r]*", text.lower()))


row_by_row("INITCAP", _TEXT, "First letter of each word upper case, the rest lower case.", (STRING,), STRING, _initcap)


def _instr(text: str | None, part: str | None, position: int = 1, occurrence: int = 1) -> int:
    if text is None or part is None or abs(position) > len(text) or occurrence < 1:
        return 0
    back = position < 0
    where, what = (text[::-1], part[::-1]) if back else (text, part)
    start = max(abs(position) - 1, 0)
    found = start - 1
    for _ in range(occurrence):
        found = where.find(what, found + 1)
        if found < 0:
            return 0
    return len(text) - found - len(part) + 1 if back else found + 1


for _more in ((), (INTEGER,), (INTEGER, INTEGER)):
    row_by_row("INSTR", _TEXT, "Position of a part in a text, 0 where it isn't there.", (STRING, STRING, *_more), INTEGER,
               _instr, null_gives_null=False)  # fmt: skip


def _chr(code: int) -> str | None:
    return chr(code) if 0 <= code <= 0x10FFFF else None


def _chr_escape(code: str) -> str | None:
    if not code.startswith("\\u"):
        return None
    units = re.sub(r"\\u+([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), code)
    return units.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


row_by_row("CHR", _TEXT, "Character of a code point.", (INTEGER,), STRING, _chr)
row_by_row("CHR", _TEXT, "Character of a code like \\u004b.", (STRING,), STRING, _chr_escape)
register("UUID", _TEXT, "A random UUID.", (), STRING,
         lambda: pl.int_range(pl.len()).map_batches(lambda rows: pl.Series([str(uuid.uuid4()) for _ in range(len(rows))],
                                                                           dtype=pl.String), return_dtype=pl.String))  # fmt: skip
row_by_row("UUID", _TEXT, "The UUID that 16 bytes hold.", (BYTES,), STRING, lambda data: str(uuid.UUID(bytes=data)))
row_by_row("MD5", _TEXT, "The MD5 digest of a text, as hexadecimal digits.", (STRING,), STRING,
           lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())  # fmt: skip
register("ELT", _TEXT, "The n-th of the texts that follow.", (INTEGER, STRING), STRING,
         lambda n, *texts: pl.concat_list([text.cast(pl.String) for text in texts]).list.get(
             pl.when(n >= 1).then(n - 1), null_on_oob=True), variadic=True, null_gives_null=False)  # fmt: skip


def _field(text: pl.Expr, *options: pl.Expr) -> pl.Expr:
    chain = pl.when(pl.lit(False)).then(pl.lit(0, dtype=pl.Int32))
    for position, option in enumerate(options, start=1):
        chain = chain.when(text == option).then(pl.lit(position, dtype=pl.Int32))  # type: ignore[assignment]
    return chain.otherwise(pl.lit(0, dtype=pl.Int32))


register("FIELD", _TEXT, "Position of the first text among those that follow, 0 where it isn't.", (STRING, STRING), INTEGER,
         _field, variadic=True, null_gives_null=False)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- MASK
_DEFAULT_MASKS = ("X", "x", "n", "-")
_MASK_ORDER = {"Lu": 0, "Ll": 1, "Nd": 2}


def _masked(text: str, masks: tuple[str | None, ...]) -> str:
    out = []
    for character in text:
        mask = masks[_MASK_ORDER.get(unicodedata.category(character), 3)]
        out.append(character if mask is None else mask)
    return "".join(out)


def _checked_masks(masks: tuple[str | None, ...]) -> tuple[str | None, ...]:
    if any(mask is not None and len(mask) != 1 for mask in masks):
        raise ValueError("a mask must be one character")
    return masks or _DEFAULT_MASKS


def _mask(text: str | None, *masks: str | None) -> str | None:
    return None if text is None else _of_units(_masked(_units(text), _checked_masks(masks)))


def _mask_part(
    text: str | None, count: int | None, masks: tuple[str | None, ...], *, left: bool, keep: bool
) -> str | None:
    if count is None or count < 0:
        raise ValueError("a non-negative number of characters is needed")
    if text is None:
        return None
    units = _units(text)
    cut = min(count, len(units)) if left else max(len(units) - count, 0)
    first, last = units[:cut], units[cut:]
    mask_first = left is not keep
    checked = _checked_masks(masks)
    return _of_units(_masked(first, checked) + last if mask_first else first + _masked(last, checked))


for _masks in ((), (STRING,) * 4):
    row_by_row("MASK", _TEXT, "Every character masked: X, x, n and -.", (STRING, *_masks), STRING, _mask, null_gives_null=False,
               may_fail=True)  # fmt: skip
    for _name, _left, _keep in (("LEFT", True, False), ("RIGHT", False, False), ("KEEP_LEFT", True, True),
                                ("KEEP_RIGHT", False, True)):  # fmt: skip
        row_by_row(
            f"MASK_{_name}", _TEXT, "Some characters masked: X, x, n and -.", (STRING, INTEGER, *_masks), STRING,
            lambda text, count, *masks, left=_left, keep=_keep: _mask_part(text, count, masks, left=left, keep=keep),
            null_gives_null=False, may_fail=True,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- regular expressions
@lru_cache(maxsize=256)
def _java_regex(pattern: str) -> re.Pattern[str]:
    """Return a Java regular expression in Python's form.

    Raises:
        ValueError: it is none, or has what Python's don't have.
    """
    translated = re.sub(r"\(\?<([A-Za-z]\w*)>", r"(?P<\1>", pattern)
    if re.search(r"\{(?!\d+(?:,\d*)?\})", re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "", pattern)):
        raise ValueError("Illegal repetition")  # text to Python
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # sets inside of sets, which Python reads as something else
        try:
            return re.compile(translated, re.ASCII)
        except (re.error, FutureWarning) as error:
            raise ValueError(str(error)) from error


def _check_regex(index: int) -> Callable[[TypedCall], None]:
    """Return a check that refuses a constant pattern that can't be run here."""

    def check(call: TypedCall) -> None:
        pattern = getattr(call.arguments[index], "value", None)
        try:
            _java_regex(pattern or "")
        except ValueError as error:
            raise NotSupportedError(f"{call.name}: the regular expression {pattern!r} ({error})") from error

    return check


def _extract(pattern: str, text: str, group: int = 0) -> str | None:
    regex = _java_regex(pattern)
    match = regex.search(text)
    return match.group(group) if match and group <= regex.groups else None


def _extract_all(pattern: str, text: str, group: int = 0) -> list[str | None] | None:
    regex = _java_regex(pattern)
    return None if group > regex.groups else [match.group(group) for match in regex.finditer(text)]


_REPLACEMENT = re.compile(r"\\(.)|\$\{(\w+)\}|\$(\d+)|([^\\$]+)|(.)", re.DOTALL)


def _regex_replace(text: str, pattern: str, new: str) -> str:
    """Replace matches. Source: ``java.util.regex.Matcher.appendReplacement``: ``$1`` and ``${name}`` are groups."""
    regex = _java_regex(pattern)
    parts: list[tuple[str | int | None, str]] = []
    for escaped, name, number, plain, wrong in _REPLACEMENT.findall(new):
        if wrong:
            raise ValueError(f"the replacement {new!r} has a loose {wrong!r}")
        digits = number
        while len(digits) > 1 and int(digits) > regex.groups:  # more digits than there are groups are text
            digits = digits[:-1]
        parts.append((int(digits) if number else name or None, escaped or plain or number[len(digits) :]))
    return regex.sub(lambda match: "".join(_group(match, group) + rest for group, rest in parts), text)


def _group(match: re.Match[str], group: str | int | None) -> str:
    return "" if group is None else match.group(group) or ""


def _regex_split(text: str, pattern: str) -> list[str]:
    """Split between matches. Source: Java's ``Pattern.split`` for patterns that match nothing, else Guava's ``Splitter``."""
    regex = _java_regex(pattern)
    matches_nothing = regex.fullmatch("") is not None
    parts, start = [], 0
    for match in regex.finditer(text):
        if matches_nothing and match.end() == 0:
            continue
        parts.append(text[start : match.start()])
        start = match.end()
    parts.append(text[start:])
    while matches_nothing and len(parts) > 1 and not parts[-1]:
        del parts[-1]
    return parts


for _more, _description in (
    ((), "The part that a pattern matches."),
    ((INTEGER,), "A group of what a pattern matches."),
):
    row_by_row(
        "REGEXP_EXTRACT",
        _REGEXP,
        _description,
        (STRING, STRING, *_more),
        STRING,
        _extract,
        may_fail=True,
        check=_check_regex(0),
    )
    row_by_row("REGEXP_EXTRACT_ALL", _REGEXP, f"{_description} Each match.", (STRING, STRING, *_more), _STRINGS, _extract_all,
               may_fail=True, check=_check_regex(0))  # fmt: skip
row_by_row("REGEXP_REPLACE", _REGEXP, "Every match of a pattern replaced.", (STRING, STRING, STRING), STRING, _regex_replace,
           may_fail=True, check=_check_regex(1))  # fmt: skip
row_by_row("REGEXP_SPLIT_TO_ARRAY", _REGEXP, "The parts of a text between a pattern's matches.", (STRING, STRING), _STRINGS,
           _regex_split, may_fail=True, check=_check_regex(1))  # fmt: skip


# ---------------------------------------------------------------------------------------------------- encodings
def _hex_digits(text: str) -> str:
    if text.startswith("0x"):
        return ("0" if len(text) % 2 else "") + text[2:]
    match = re.fullmatch(r"[xX]'(.*)'", text)
    return match.group(1) if match else text


def _strict_base64(text: str) -> bytes:
    """Source: ``java.util.Base64.Decoder``, to which the padding may be missing."""
    return base64.b64decode(text if "=" in text else text + "=" * (-len(text) % 4), validate=True)


def _loose_base64(text: str) -> bytes:
    """Source: commons-codec's ``Base64``: other characters and a last one that is too many are skipped."""
    letters = re.sub(r"[^A-Za-z0-9+/]", "", text.partition("=")[0].translate(_URL_LETTERS))
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return base64.b64decode(letters + "=" * (-len(letters) % 4))


_URL_LETTERS = str.maketrans("-_", "+/")
_DECODERS: Mapping[str, Callable[[str], bytes]] = {
    "hex": binascii.unhexlify,
    "utf8": lambda text: text.encode(),
    "ascii": lambda text: text.encode("ascii", "replace"),
    "base64": _strict_base64,
}
_ENCODE_DECODERS = {**_DECODERS, "hex": lambda text: binascii.unhexlify(_hex_digits(text)), "base64": _loose_base64}
_ENCODERS = {
    "hex": lambda data: data.hex(),
    "utf8": lambda data: data.decode("utf-8", "replace"),
    "ascii": lambda data: data.decode("ascii", "replace"),
    "base64": lambda data: base64.b64encode(data).decode(),
}


def _encode(text: str, source: str, target: str) -> str:
    if source.lower() == target.lower():
        raise ValueError("input and output encodings are the same")
    return str(_ENCODERS[target.lower()](_ENCODE_DECODERS[source.lower()](text)))


row_by_row("ENCODE", _TEXT, "A text from one encoding (hex, utf8, ascii, base64) in another.", (STRING, STRING, STRING), STRING,
           _encode, may_fail=True)  # fmt: skip
row_by_row("TO_BYTES", _TEXT, "Bytes of a text in hex, utf8, ascii or base64.", (STRING, STRING), BYTES,
           lambda text, encoding: _DECODERS[encoding.lower()](text), may_fail=True)  # fmt: skip


def _from_bytes(data: bytes, encoding: str) -> str:
    text = _ENCODERS[encoding.lower()](data)
    return text.upper() if encoding.lower() == "hex" else text  # ENCODE's digits are lower case, these are not


row_by_row("FROM_BYTES", _TEXT, "Bytes as text in hex, utf8, ascii or base64.", (BYTES, STRING), STRING,
           _from_bytes, may_fail=True)  # fmt: skip


def _number_from_bytes(data: bytes, order: str, size: int) -> int:
    if len(data) != size:
        raise ValueError(f"{size} bytes are needed")
    endian = {"BIG_ENDIAN": "big", "LITTLE_ENDIAN": "little"}[order.upper()]
    return int.from_bytes(data, endian, signed=True)  # type: ignore[arg-type]


def _double_from_bytes(data: bytes, order: str = "BIG_ENDIAN") -> float:
    bits = _number_from_bytes(data, order, 8)
    return float(pl.Series([bits], dtype=pl.Int64).reinterpret(dtype=pl.Float64)[0])


for _more in ((), (STRING,)):
    row_by_row("INT_FROM_BYTES", "CONVERSIONS", "The INTEGER that 4 bytes hold.", (BYTES, *_more), INTEGER,
               lambda data, order="BIG_ENDIAN": _number_from_bytes(data, order, 4), may_fail=True)  # fmt: skip
    row_by_row("BIGINT_FROM_BYTES", "CONVERSIONS", "The BIGINT that 8 bytes hold.", (BYTES, *_more), BIGINT,
               lambda data, order="BIG_ENDIAN": _number_from_bytes(data, order, 8), may_fail=True)  # fmt: skip
    row_by_row("DOUBLE_FROM_BYTES", "CONVERSIONS", "The DOUBLE that 8 bytes hold.", (BYTES, *_more), DOUBLE, _double_from_bytes,
               may_fail=True)  # fmt: skip
