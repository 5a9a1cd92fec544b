"""Times as text: Java's date-time patterns, time zones, and ksqlDB's partial timestamps.

Source: the pattern letters of ``java.time.format.DateTimeFormatter`` and ksqlDB's ``PartialStringToTimestampParser``. Patterns
that Polars can follow column-wise are translated (`polars_pattern`); `JavaPattern` formats and parses the others row by row.
"""

from __future__ import annotations

import re
from calendar import IllegalMonthError, monthrange
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ksqlengine.errors import KsqlEngineError

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class PatternError(KsqlEngineError, ValueError):
    """A date-time pattern, a time zone or a text that can't be used."""


def zone(name: str) -> tzinfo:
    """Return a time zone by name, ``+hh:mm``, ``Z`` or ``UTC``.

    Raises:
        PatternError: there is no such zone.
    """
    offset = _OFFSET.fullmatch(name.removeprefix("UTC").removeprefix("GMT"))
    if name in ("Z", "UTC", "GMT"):
        return UTC
    if offset:
        hours, minutes, seconds = (int(part or 0) for part in offset.group(2, 3, 4))
        moved = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return timezone(-moved if offset.group(1) == "-" else moved)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise PatternError(f"Unknown time-zone ID: {name}") from error


_OFFSET = re.compile(r"([+-])(\d{1,2}):?(\d{2})?:?(\d{2})?")


# ---------------------------------------------------------------------------------------------------- partial texts
# Source: ksqlDB's SqlTimeTypes and PartialStringToTimestampParser; below them Java's DateTimeFormatter, smart for timestamps and
# strict for dates and times.
_WHOLE_TIME = "00:00:00.000"
_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_STAMP = re.compile(rf"{_DAY.pattern}T(\d{{2}}):(\d{{2}}):(\d{{2}})\.(\d{{3}})")
_CLOCK = re.compile(r"(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{0,9}))?)?")
_LAST_HOUR = 24  # 24:00 is the next day's beginning


def parse_partial_timestamp(text: str) -> datetime | None:
    """Return a timestamp (UTC) whose end may be missing (``2020``, ``2020-02-03T04``), None where the text is none.

    A day that its month lacks is the month's last one, as long as some month has it.
    """
    day, separator, rest = text.partition("T")
    offset = next((rest.index(sign) for sign in "+-" if sign in rest), len(rest))
    clock = rest[:offset].removesuffix("Z")
    match = _STAMP.fullmatch(f"{day if separator else _completed(text)}T{clock}{_WHOLE_TIME[len(clock) :]}")
    if match is None:
        return None
    year, month, day_of_month, hour, minute, second, millisecond = map(int, match.groups())
    try:
        moment = datetime.combine(_smart_date(year, month, day_of_month), time())
        if (
            hour > _LAST_HOUR
            or minute > 59
            or second > 59
            or (hour == _LAST_HOUR and (minute or second or millisecond))
        ):
            return None
        moment += timedelta(hours=hour, minutes=minute, seconds=second, milliseconds=millisecond)
        if rest[offset:].strip():
            moment = moment.replace(tzinfo=zone(rest[offset:])).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return moment


def _smart_date(year: int, month: int, day: int) -> date:
    """Return a date; a day that the month lacks this year, but some month has, is its last one."""
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        raise ValueError("no month or no day")
    last = monthrange(year, month)[1]
    return date(year, month, min(day, last))


def _completed(text: str) -> str:
    """Return the text of a date with the month and the day that it lacks."""
    parts = text.rstrip("-").split("-")  # Java's split drops what is empty at the end
    return text + {1: "-01-01", 2: "-01"}.get(len(parts), "")


def parse_partial_date(text: str) -> date | None:
    """Return a date whose end may be missing, None where the text is none."""
    match = _DAY.fullmatch(_completed(text))
    try:
        return None if match is None else date(*map(int, match.groups()))
    except ValueError:
        return None


def parse_partial_time(text: str) -> time | None:
    """Return a time of day (ms) whose seconds may be missing, None where the text is none."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, fraction = match.groups(default="0")
    try:
        return time(int(hour), int(minute), int(second), int(fraction.ljust(3, "0")[:3]) * 1_000)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------- patterns
@dataclass(frozen=True)
class _Part:
    """A run of one pattern letter, a literal text (letter is empty), or the begin or end of an optional section (a bracket)."""

    letter: str
    count: int
    text: str = ""


_TOKEN = re.compile(r"'(?P<quoted>(?:[^']|'')*)'|(?P<letter>[A-Za-z])(?P=letter)*|(?P<other>[^'])", re.DOTALL)


def _parts(pattern: str) -> list[_Part]:
    parts: list[_Part] = []
    position = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None:
            raise PatternError(f"Pattern ends with an incomplete string literal: {pattern}")
        position = token.end()
        if token["letter"]:
            parts.append(_Part(token["letter"], len(token[0])))
        else:
            quoted, other = token["quoted"], token["other"]
            letter = other if other and other in "[]" else ""
            parts.append(_Part(letter, 0, other if quoted is None else quoted.replace("''", "'") or "'"))
    return parts


_POLARS: dict[tuple[str, int], str] = {
    ("y", 4): "%Y", ("u", 4): "%Y", ("M", 2): "%m", ("d", 2): "%d", ("H", 2): "%H", ("m", 2): "%M", ("s", 2): "%S",
    ("M", 3): "%b", ("M", 4): "%B", ("E", 3): "%a", ("E", 1): "%a", ("E", 2): "%a", ("E", 4): "%A", ("D", 3): "%j",
    ("h", 2): "%I", ("a", 1): "%p", ("y", 2): "%y",
}  # fmt: skip


@lru_cache(maxsize=1024)
def polars_pattern(pattern: str) -> str | None:
    """Return the strftime pattern that formats UTC times as a Java pattern does, None where there is none.

    Raises:
        PatternError: the Java pattern is malformed.
    """
    out = []
    for part in _parts(pattern):
        if not part.letter:
            out.append(part.text.replace("%", "%%"))
        elif part.letter == "S" and part.count in (3, 6, 9) and out and out[-1] == ".":
            out[-1] = f"%.{part.count}f"
        elif (part.letter, part.count) in _POLARS:
            out.append(_POLARS[part.letter, part.count])
        else:
            return None
    return "".join(out)


_FIXED: dict[tuple[str, int], tuple[str, str]] = {
    ("y", 4): ("%Y", r"\d{4}"), ("u", 4): ("%Y", r"\d{4}"), ("M", 2): ("%m", r"\d{2}"), ("d", 2): ("%d", r"\d{2}"),
    ("H", 2): ("%H", r"\d{2}"), ("m", 2): ("%M", r"\d{2}"), ("s", 2): ("%S", r"\d{2}"),
}  # fmt: skip


@lru_cache(maxsize=1024)
def columnar_pattern(pattern: str) -> tuple[str, str] | None:
    """Return the strptime pattern and the exact shape (a regular expression) of texts that a Java pattern parses.

    None where Polars can't parse alike: a part isn't a number of fixed width, or the date isn't whole.

    Raises:
        PatternError: the Java pattern is malformed.
    """
    out, shape, letters = [], [], set()
    for part in _parts(pattern):
        fixed = _FIXED.get((part.letter, part.count))
        if not part.letter:
            out.append(part.text.replace("%", "%%"))
            shape.append(re.escape(part.text))
        elif part.letter == "S" and part.count in (3, 6, 9) and out and out[-1] == ".":
            out[-1] = f"%.{part.count}f"
            shape.append(rf"\d{{{part.count}}}")
        elif fixed is not None and part.letter not in letters:
            out.append(fixed[0])
            shape.append(fixed[1])
            letters.add(part.letter)
        else:
            return None
    has_date = {"M", "d"} <= letters and bool({"y", "u"} & letters)
    has_time = {"H", "m"} <= letters or not ({"H", "m", "s"} & letters)
    return ("".join(out), f"^{''.join(shape)}$") if has_date and has_time else None


@dataclass
class TimeFields:
    """What a text gave: numbers by pattern letter (``M`` for ``L``, ``y`` for ``u``) and the zone's text."""

    numbers: dict[str, int] = field(default_factory=dict)
    zone: str | None = None

    def moment(self, default: tzinfo) -> datetime:
        """Return the time in UTC, without zone; missing parts are those of 1970-01-01T00:00.

        Args:
            default: zone where the text has none.

        Raises:
            PatternError: the parts are no time.
        """
        numbers = self.numbers
        try:
            day = self.day()
            moment = datetime.combine(day, self.clock())
        except (ValueError, OverflowError) as error:
            raise PatternError(f"no such time: {numbers}") from error
        where = zone(self.zone) if self.zone else default
        return moment.replace(tzinfo=where).astimezone(UTC).replace(tzinfo=None)

    def day(self) -> date:
        """Return the date; missing parts are those of 1970-01-01, and a month's last day stands for later ones up to the 31st.

        Raises:
            PatternError: the parts are no date.
        """
        numbers = self.numbers
        year, month, number = numbers.get("y", 1970), numbers.get("M", 1), numbers.get("d", 1)
        try:
            if "D" in numbers:
                found = date(year, 1, 1) + timedelta(days=numbers["D"] - 1)
            else:
                last = monthrange(year, month)[1]
                found = date(year, month, min(number, last) if number <= _LONGEST_MONTH else number)
        except (ValueError, OverflowError, IllegalMonthError) as error:
            raise PatternError(f"no such date: {numbers}") from error
        if found.year != year or (self.is_date and numbers.get("E", found.isoweekday()) != found.isoweekday()):
            raise PatternError(f"no such date: {numbers}")
        return found

    @property
    def is_date(self) -> bool:
        """Whether year, month and day are there, or the year and its day."""
        return {"y", "M", "d"} <= self.numbers.keys() or {"y", "D"} <= self.numbers.keys()

    @property
    def is_time(self) -> bool:
        """Whether an hour of the day is there, and no part is missing between it and the smallest one."""
        given = self.numbers.keys()
        if given & {"A", "N"}:
            return True
        has_hour = bool(given & {"H", "k"}) or ("a" in given and bool(given & {"h", "K"}))
        return has_hour and ("m" in given or not given & {"s", "S", "n"}) and ("s" in given or not given & {"S", "n"})

    def clock(self) -> time:
        """Return the time of day; missing parts are 0.

        Raises:
            PatternError: the parts are no time of day.
        """
        numbers = self.numbers
        if "A" in numbers or "N" in numbers:
            midnight = datetime(1970, 1, 1)
            passed = timedelta(milliseconds=numbers.get("A", 0), microseconds=numbers.get("N", 0) // 1000)
            return (midnight + passed).time()
        hour = numbers.get("H", numbers.get("k", 0) % 24)
        if "h" in numbers or "K" in numbers:
            hour = numbers.get("K", numbers.get("h", 0) % 12) + 12 * numbers.get("a", 0)
        nanoseconds = numbers.get("S", numbers.get("n", 0))
        try:
            return time(hour, numbers.get("m", 0), numbers.get("s", 0), nanoseconds // 1000)
        except ValueError as error:
            raise PatternError(f"no such time of day: {numbers}") from error


_Parts = tuple["_Part | _Parts", ...]  # a tuple inside is an optional section


@dataclass(frozen=True)
class JavaPattern:
    """A DateTimeFormatter pattern; letters G y u M L d D E e H k h K a m s S A n N z V x X Z O Q w are known.

    Attributes:
        parts: what it consists of.
        letters: its pattern letters.
    """

    parts: _Parts
    letters: frozenset[str]

    def format(self, moment: datetime) -> str:
        """Return a time as text; the zone is the time's own."""
        return _format_parts(self.parts, moment)

    def parse(self, text: str) -> TimeFields:
        """Return the fields that a text gives.

        Raises:
            PatternError: the text doesn't follow the pattern.
        """
        fields = TimeFields()
        position = _parse_parts(self.parts, text, 0, fields)
        if position < len(text):
            raise PatternError(f"Text '{text}' could not be parsed, unparsed text found at index {position}")
        return fields


def _format_parts(parts: _Parts, moment: datetime) -> str:
    texts = []
    for part in parts:
        if isinstance(part, tuple):
            texts.append(_format_parts(part, moment))
        else:
            texts.append(_format(part, moment) if part.letter else part.text)
    return "".join(texts)


def _parse_parts(parts: _Parts, text: str, position: int, fields: TimeFields) -> int:
    for index, part in enumerate(parts):
        if isinstance(part, tuple):
            attempt = TimeFields(dict(fields.numbers), fields.zone)
            try:
                position = _parse_parts(part, text, position, attempt)
            except PatternError:
                continue
            fields.numbers, fields.zone = attempt.numbers, attempt.zone
        else:
            following = parts[index + 1] if index + 1 < len(parts) else None
            position = _parse(
                part, text, position, fields, isinstance(following, _Part) and following.letter in _NUMERIC
            )
    return position


@lru_cache(maxsize=1024)
def java_pattern(pattern: str) -> JavaPattern:
    """Return a parsed pattern.

    Raises:
        PatternError: the pattern is malformed or has an unknown letter.
    """
    sections: list[list[Any]] = [[]]
    letters = set()
    for part in _parts(pattern):
        if part.letter == "[":
            sections.append([])
        elif part.letter == "]":
            if len(sections) == 1:
                raise PatternError("Pattern invalid as it contains ] without previous [")
            sections[-2].append(tuple(sections.pop()))
        elif part.letter and part.letter not in _KNOWN:
            raise PatternError(f"Unknown pattern letter: {part.letter}")
        else:
            sections[-1].append(part)
            letters.add(part.letter)
    while len(sections) > 1:  # a section may stay open
        sections[-2].append(tuple(sections.pop()))
    return JavaPattern(tuple(sections[0]), frozenset(letters - {""}))


DATE_LETTERS = frozenset("GyuMLdDEeQw")
TIME_LETTERS = frozenset("HkhKmsSAnNa")
_LONGEST_MONTH = 31


def _american_week(moment: datetime) -> int:
    """Return the week of the year as ksqlDB's default locale counts: weeks begin on Sunday, the first one has 1 January."""
    saturday = moment.date().toordinal() + 6 - moment.isoweekday() % 7
    if saturday > date.max.toordinal() or date.fromordinal(saturday).year > moment.year:
        return 1
    return (date.fromordinal(saturday).timetuple().tm_yday + 6) // 7


_NUMBERS: Mapping[str, Callable[[datetime], int]] = {
    "d": lambda t: t.day,
    "D": lambda t: t.timetuple().tm_yday,
    "H": lambda t: t.hour,
    "k": lambda t: t.hour or 24,
    "h": lambda t: t.hour % 12 or 12,
    "K": lambda t: t.hour % 12,
    "m": lambda t: t.minute,
    "s": lambda t: t.second,
    "e": lambda t: t.isoweekday() % 7 + 1,
    "w": _american_week,
    "n": lambda t: t.microsecond * 1000,
    "A": lambda t: (t.hour * 3600 + t.minute * 60 + t.second) * 1000 + t.microsecond // 1000,
    "N": lambda t: (t.hour * 3600 + t.minute * 60 + t.second) * 1_000_000_000 + t.microsecond * 1000,
}
_NUMERIC = frozenset("yuMLdDHkhKmsSenwAN")
_KNOWN = _NUMERIC | frozenset("GEazVxXZOQ")
_TEXT_COUNT = 3  # from this many letters on, months and days are words


def _format(part: _Part, moment: datetime) -> str:  # noqa: PLR0911 - one case a letter
    letter, count = part.letter, part.count
    if letter in _NUMBERS:
        return str(_NUMBERS[letter](moment)).zfill(count)
    if letter in "yu":
        return f"{moment.year % 100:02d}" if count == 2 else str(moment.year).zfill(count)
    if letter in "ML":
        name = _MONTHS[moment.month - 1]
        return str(moment.month).zfill(count) if count < _TEXT_COUNT else name[:3] if count == _TEXT_COUNT else name
    if letter == "E":
        name = _DAYS[moment.weekday()]
        return name[:3] if count <= _TEXT_COUNT else name
    if letter == "S":
        return f"{moment.microsecond:06d}".ljust(9, "0")[:count]
    if letter == "a":
        return "AM" if moment.hour < 12 else "PM"
    if letter == "G":
        return "AD"
    if letter == "Q":
        return str((moment.month + 2) // 3).zfill(count)
    return _format_zone(letter, count, moment)


def _format_zone(letter: str, count: int, moment: datetime) -> str:
    if letter in "zV":
        info = moment.tzinfo
        return info.key if letter == "V" and isinstance(info, ZoneInfo) else moment.tzname() or "UTC"
    seconds = int((moment.utcoffset() or timedelta()).total_seconds())
    if letter == "X" and seconds == 0:
        return "Z"
    sign, minutes = "-" if seconds < 0 else "+", abs(seconds) // 60
    hour_text, minute_text = f"{minutes // 60:02d}", f"{minutes % 60:02d}"
    if letter == "O":
        short = f"{minutes // 60}" + (f":{minute_text}" if minutes % 60 else "")
        return "GMT" if seconds == 0 else f"GMT{sign}{short if count == 1 else f'{hour_text}:{minute_text}'}"
    if letter == "Z":
        return f"{sign}{hour_text}{minute_text}" if count < 5 else f"{sign}{hour_text}:{minute_text}"
    if count == 1:
        return f"{sign}{hour_text}" + (minute_text if minutes % 60 else "")
    return f"{sign}{hour_text}{minute_text}" if count in (2, 4) else f"{sign}{hour_text}:{minute_text}"


def _parse(part: _Part, text: str, position: int, fields: TimeFields, adjacent: bool) -> int:  # noqa: PLR0911 - one case a kind
    if not part.letter:
        if not text.startswith(part.text, position):
            raise _unparsed(text, position)
        return position + len(part.text)
    letter, count = part.letter, part.count
    if letter in "ML" and count >= _TEXT_COUNT:
        return _parse_name(text, position, _MONTHS, "M", count, fields)
    if letter == "E":
        return _parse_name(text, position, _DAYS, "E", count, fields)
    if letter in _NUMERIC or letter == "Q":
        return _parse_number(part, text, position, fields, adjacent)
    if letter == "a":
        half = text[position : position + 2].upper()
        if half not in ("AM", "PM"):
            raise _unparsed(text, position)
        fields.numbers["a"] = int(half == "PM")
        return position + 2
    if letter == "G":
        return position + 2
    return _parse_zone(text, position, fields)


def _unparsed(text: str, position: int) -> PatternError:
    return PatternError(f"Text '{text}' could not be parsed at index {position}")


def _parse_number(part: _Part, text: str, position: int, fields: TimeFields, adjacent: bool) -> int:
    letter, count = part.letter, part.count
    fixed = adjacent or letter == "S" or (count > 1 and letter not in "yu") or (letter in "yu" and count == 2)
    most = count if fixed else 10
    match = re.compile(rf"[+-]?\d{{{max(count, 1)},{most}}}").match(text, position)
    if match is None:
        raise _unparsed(text, position)
    digits = match.group()
    name = {"u": "y", "L": "M"}.get(letter, letter)
    value = int(digits)
    if letter == "S":
        value = int(digits.ljust(9, "0")[:9])
    elif name == "y" and count == 2:
        value += 2000
    fields.numbers[name] = value
    return match.end()


def _parse_name(text: str, position: int, names: tuple[str, ...], letter: str, count: int, fields: TimeFields) -> int:
    for number, name in enumerate(names, start=1):
        wanted = name if count > _TEXT_COUNT else name[:3]
        if text[position : position + len(wanted)].lower() == wanted.lower():  # ksqlDB's patterns ignore case
            fields.numbers[letter] = number
            return position + len(wanted)
    raise _unparsed(text, position)


# Zones whose short names Java reads as zones with their daylight saving time, whichever half of the year the name is of.
_ZONE_NAMES = {
    "PST": "America/Los_Angeles", "PDT": "America/Los_Angeles", "MST": "America/Denver", "MDT": "America/Denver",
    "CST": "America/Chicago", "CDT": "America/Chicago", "EST": "America/New_York", "EDT": "America/New_York",
    "BST": "Europe/London", "CET": "Europe/Paris", "CEST": "Europe/Paris", "EET": "Europe/Helsinki",
    "EEST": "Europe/Helsinki", "WET": "Europe/Lisbon", "WEST": "Europe/Lisbon", "JST": "Asia/Tokyo", "KST": "Asia/Seoul",
}  # fmt: skip
_ZONE_TEXT = re.compile(
    r"[Zz](?![A-Za-z])|(?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2}){0,2}|[A-Za-z][A-Za-z0-9_+\-]*(?:/[A-Za-z0-9_+\-]+)*"
)


def _parse_zone(text: str, position: int, fields: TimeFields) -> int:
    match = _ZONE_TEXT.match(text, position)
    if match is None:
        raise _unparsed(text, position)
    name = match.group().upper()
    fields.zone = "Z" if name == "Z" else _ZONE_NAMES.get(name, match.group())
    return match.end()


# ---------------------------------------------------------------------------------------------------- SimpleDateFormat
_SIMPLE_NUMBERS = frozenset("yYMdDHkhKmsS")
_AGES = {"ad": 1, "bc": 0}
_HALVES = {"am": 0, "pm": 1}
_SIMPLE_ZONE = r"(?P<zone>[Zz](?![A-Za-z])|(?:GMT)?[+-]\d{1,2}:?(?:\d{2})?|[A-Za-z]+(?:/[A-Za-z_]+)*)"


@lru_cache(maxsize=1024)
def simple_pattern(pattern: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """Return the expression of texts that a SimpleDateFormat pattern reads, and the pattern letters of each of its groups.

    Raises:
        PatternError: the pattern can't be.
    """
    parts = _parts(pattern)
    shape, groups = [], {}
    for index, part in enumerate(parts):
        name, following = f"g{index}", parts[index + 1] if index + 1 < len(parts) else _Part("", 0)
        if part.letter in "[]":  # an empty text is in it too
            shape.append(re.escape(part.text))
            continue
        if part.letter in "XZz":
            shape.append(_SIMPLE_ZONE)
            continue
        if part.letter == "M" and part.count >= _TEXT_COUNT:
            words = [*_MONTHS, *(month[:3] for month in _MONTHS)]
        elif part.letter == "E":
            words = [*_DAYS, *(day[:3] for day in _DAYS)]
        elif part.letter in "aG":
            words = [*(_HALVES if part.letter == "a" else _AGES)]
        elif part.letter in _SIMPLE_NUMBERS:
            next_is_number = following.letter in _SIMPLE_NUMBERS and not (
                following.letter == "M" and following.count >= _TEXT_COUNT
            )
            shape.append(rf"(?P<{name}>[0-9]{{1,{part.count}}}+)" if next_is_number else rf"\s*(?P<{name}>[0-9]++)")
            groups[name] = part.letter * part.count
            continue
        else:
            raise PatternError(f"Format '{part.letter}' not supported")
        shape.append(f"(?P<{name}>{'|'.join(words)})")
        groups[name] = part.letter * part.count
    return re.compile("".join(shape), re.IGNORECASE), groups


def parse_simple_date(text: str, pattern: str) -> date:
    """Return the date that a text says by a SimpleDateFormat pattern: what follows is left, and days and months may overflow.

    Source: commons-lang's ``FastDateParser``, with a lenient calendar.

    Raises:
        PatternError: the pattern can't be, the text doesn't follow it, or it has a time of day.
    """
    expression, groups = simple_pattern(pattern)
    match = expression.match(text)
    if match is None:
        raise PatternError(f"Unparseable date: {text}")
    numbers: dict[str, int] = {}
    for name, letters in groups.items():
        letter = "y" if letters[0] == "Y" else letters[0]
        numbers[letter] = _simple_number(match[name], letters)
    try:
        moment = _lenient(numbers)
        if match.groupdict().get("zone"):
            zone_name = match["zone"]
            moment = moment.replace(tzinfo=zone(_ZONE_NAMES.get(zone_name.upper(), zone_name))).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise PatternError(f"no such date: {text}") from error
    if moment.time() != time():
        raise PatternError("Date format contains time field.")
    return moment.date()


def _simple_number(text: str, letters: str) -> int:
    lower = text.lower()
    if letters[0] == "M" and len(letters) >= _TEXT_COUNT:
        return next(number for number, month in enumerate(_MONTHS, start=1) if month.lower().startswith(lower[:3]))
    if letters[0] == "E":
        return 0
    if letters[0] in "aG":
        return (_HALVES | _AGES)[lower]
    number = int(text)
    if letters in ("y", "yy", "Y", "YY") and number < 100:  # within the 80 years before and the 20 after now
        first = datetime.now(UTC).year - 80
        return first + (number - first) % 100
    return number


def _lenient(numbers: Mapping[str, int]) -> datetime:
    if numbers.get("G") == _AGES["bc"]:
        raise PatternError("dates before the year 1 can't be held")
    months = numbers.get("y", 1970) * 12 + numbers.get("M", 1) - 1
    first = datetime(months // 12, months % 12 + 1, 1)
    if "D" in numbers:
        first = datetime(numbers.get("y", 1970), 1, 1)
    hour = numbers.get("H", numbers.get("k", 0) % 24)
    if "h" in numbers or "K" in numbers:
        hour = numbers.get("K", numbers.get("h", 0) % 12) + 12 * numbers.get("a", 0)
    return first + timedelta(
        days=numbers.get("D", numbers.get("d", 1)) - 1,
        hours=hour,
        minutes=numbers.get("m", 0),
        seconds=numbers.get("s", 0),
        milliseconds=numbers.get("S", 0),
    )
