"""Times as devices, spreadsheets and data frames write them, decided by rule.

- ISO 8601 text, with any number of digits of a second, a space or ``T``, and a zone or none (then UTC). A date alone is not a
  time.
- A number is a time since the epoch. Its unit is decided by its size: seconds, milliseconds, microseconds or nanoseconds,
  whichever puts it between `EARLIEST` and a day from now. These spans don't overlap, so at most one unit fits; where none does,
  the number is not a time. So nothing lands in January 1970 because of its unit.
- Either way, a time before `EARLIEST` is a clock that isn't set, and a time after tomorrow one that is ahead.
"""

from __future__ import annotations

import math
import re
import time as clock
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from heartwatch.errors import HeartWatchError

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No wearable recorded a heart rate before: an earlier time is that of a clock that isn't set."""

_AHEAD = timedelta(days=1)
_EARLIEST_MS = round(EARLIEST.timestamp() * 1000)
_UNITS = {"s": Fraction(1000), "ms": Fraction(1), "µs": Fraction(1, 1_000), "ns": Fraction(1, 1_000_000)}
_NUMBER = re.compile(r"[+-]?\d{1,30}(\.\d*)?([eE][+-]?\d{1,2})?", re.ASCII)
_ISO = re.compile(
    r"(\d{4})[-/.]?(\d\d)[-/.]?(\d\d)[T ]+(\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d*))?)?)?\s*(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)


class TimeError(HeartWatchError):
    """A text or number is not a time; the message says why, with the value."""


def latest_ms() -> int:
    """Return the latest time that isn't ahead of the clock, ms since the epoch."""
    return round((clock.time() + _AHEAD.total_seconds()) * 1000)


def milliseconds(value: str | float | datetime) -> int:
    """Return a time as ms since the epoch.

    Args:
        value: ISO 8601 text, a number since the epoch as text or number, or a datetime (UTC where it has no zone).

    Raises:
        TimeError: it is not a time, or not a plausible one.
    """
    if isinstance(value, datetime):
        return plausible(_of_datetime(value), value.isoformat())
    if isinstance(value, str):
        text = " ".join(value.split()).upper()
        if not text:
            raise TimeError("the time is empty")
        if not _NUMBER.fullmatch(text):
            return plausible(_of_iso(text, value), value.strip())
        return _of_number(_exact(text), text)
    if isinstance(value, bool) or not math.isfinite(value):
        raise TimeError(f"time {value!r} is not a number")
    return _of_number(Fraction(value), repr(value))


def plausible(found_ms: int, shown: str) -> int:
    """Return a time that is between `EARLIEST` and tomorrow.

    Args:
        found_ms: time, ms since the epoch.
        shown: the time as the source has it.

    Raises:
        TimeError: it isn't.
    """
    if found_ms < _EARLIEST_MS:
        raise TimeError(f"time {shown!r} is before {EARLIEST.year}: the clock was not set")
    if found_ms > latest_ms():
        raise TimeError(f"time {shown!r} is in the future: the clock is ahead")
    return found_ms


def _of_number(number: Fraction, shown: str) -> int:
    limit = latest_ms()
    for factor in _UNITS.values():
        found = number * factor
        if _EARLIEST_MS <= found <= limit:
            return round(found)
    raise TimeError(
        f"time {shown!r} is not a plausible time: in {', '.join(_UNITS)} since 1970 it is outside {EARLIEST.year} to tomorrow"
    )


def _exact(text: str) -> Fraction:
    """Return a number's value; scientific notation must have all digits of a second: spreadsheets cut them off."""
    mantissa, _, exponent = text.partition("E")
    digits = mantissa.lstrip("+-").replace(".", "").lstrip("0")
    if exponent and len(digits) < 10:
        raise TimeError(f"time {text!r} has lost its last digits; format the column as a number and export it again")
    return Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)


def _of_iso(text: str, shown: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise TimeError(f"time {shown.strip()!r} is neither ISO 8601 with a time of day nor a number since 1970")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    late = timedelta(days=1) if (hour, int(minute or 0), int(second or 0)) == ("24", 0, 0) else timedelta()
    leap = timedelta(seconds=1) if second == "60" else timedelta()
    try:
        found = datetime(
            int(year),
            int(month),
            int(day),
            0 if late else int(hour),
            int(minute or 0),
            59 if leap else int(second or 0),
        )
        moment = found.replace(tzinfo=UTC) + late + leap - _offset(zone)
    except (ValueError, OverflowError) as error:
        raise TimeError(f"time {shown.strip()!r} is not a time: {error}") from error
    return _of_datetime(moment) + int((fraction or "")[:3].ljust(3, "0"))


def _offset(zone: str | None) -> timedelta:
    if zone in (None, "Z", "UTC", "GMT"):
        return timedelta()
    assert zone is not None  # noqa: S101 - one of those above
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    if hours > 18 or minutes > 59:
        raise ValueError(f"zone {zone} does not exist")
    return timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)


def _of_datetime(value: datetime) -> int:
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(milliseconds=1)
