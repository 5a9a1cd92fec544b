"""FIT files: fitdecode's messages as samples, as far as the file goes.

Protocol: Garmin's FIT SDK. Positions are semicircles; times are seconds since the end of 1989. Chest straps that store the
heart rate themselves have it sent later, in `hr` messages: a time and an event time together say when 0 of the event clock was,
all further event times (in 1/1024 s, or the lowest 12 bits of that) count from there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from heartwatch.files.samples import Reading, Sample

_EPOCH = datetime(1989, 12, 31, tzinfo=UTC)
_SEMICIRCLE = 180 / 2**31
_TICKS = 1024
_JOIN_SECONDS = 5.0
_FOOTER = 2


def is_fit(data: bytes) -> bool:
    """Return whether a file's bytes are those of a FIT file: the signature stands behind its first eight bytes."""
    return data[8:12] == b".FIT"


def read(data: bytes) -> Reading:
    """Return the samples of a FIT file, with the heart rates of `hr` messages joined by time.

    Args:
        data: the whole file; several FIT files after each other are read all.
    """
    records: list[dict[str, Any]] = []
    pulses = _Pulses()
    warnings: list[str] = []
    for message in _messages(data, warnings):
        if message.name == "record":
            records.append({name: _scalar(message, name) for name in _FIELDS})
        elif message.name == "hr":
            pulses.add(message)
    samples = [_sample(record) for record in _together(records)]
    pulses.join(samples)
    return Reading(samples, warnings)


_FIELDS = ("timestamp", "position_lat", "position_long", "heart_rate")


def _messages(data: bytes, warnings: list[str]) -> Iterator[Any]:
    """Yield data messages until the file ends or is damaged, and add what is wrong with it."""
    import fitdecode  # noqa: PLC0415  of the extra `recordings`

    whole = _with_length(data, warnings)
    lenient, readonly = fitdecode.ErrorHandling.IGNORE, fitdecode.CrcCheck.READONLY
    end, ended = 0, False
    with fitdecode.FitReader(io.BytesIO(whole), processor=None, error_handling=lenient, check_crc=readonly) as reader:
        try:
            for frame in reader:
                ended = isinstance(frame, fitdecode.FitCRC)
                if isinstance(frame, fitdecode.FitHeader):
                    end += frame.header_size + frame.body_size
                elif isinstance(frame, fitdecode.FitCRC):
                    end += _FOOTER
                    if not frame.matched:
                        warnings.append("the closing checksum is wrong: values may be damaged")
                elif isinstance(frame, fitdecode.FitDataMessage):
                    yield frame
        except Exception as error:  # the parser raises anything on broken bytes, AssertionError among it
            warnings.append(_problem(error, len(data), end, ended))
            return
    if end < len(whole):
        warnings.append(f"{len(whole) - end} bytes behind the end")


def _with_length(data: bytes, warnings: list[str]) -> bytes:
    """Return a file whose header says how long it is: devices that lose power leave 0 or the highest number there."""
    header = data[0] if data else 0
    length = int.from_bytes(data[4:8], "little")
    if length not in (0, 2**32 - 1) or len(data) <= header + _FOOTER or header < 12:
        return data
    warnings.append("the header doesn't say how long the file is")
    return data[:4] + (len(data) - header).to_bytes(4, "little") + data[8:]


def _problem(error: Exception, size: int, end: int, ended: bool) -> str:
    import fitdecode  # noqa: PLC0415  of the extra `recordings`

    if ended:
        return f"{size - end} bytes behind the end"
    if isinstance(error, fitdecode.FitEOFError):
        return "the closing checksum is missing" if 0 < end <= size else "the file ends early"
    return f"the file is damaged, the rest is not read: {type(error).__name__}: {error}"


def _scalar(message: Any, name: str) -> Any:
    """Return a field's first value that is there; None without the field."""
    for field in message.fields:
        if field.name == name and field.value is not None:
            values = field.value if isinstance(field.value, tuple) else (field.value,)
            return next((value for value in values if isinstance(value, int | float)), None)
    return None


def _together(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield records; those after each other with the same time that fill each other's gaps are one."""
    current: dict[str, Any] | None = None
    for record in records:
        if current is not None and _complement(current, record):
            current = {name: record[name] if value is None else value for name, value in current.items()}
            continue
        if current is not None:
            yield current
        current = record
    if current is not None:
        yield current


def _complement(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one["timestamp"] is None or one["timestamp"] != other["timestamp"]:
        return False
    return all(one[name] is None or other[name] is None for name in _FIELDS[1:])


def _sample(record: dict[str, Any]) -> Sample:
    seconds, north, east, rate = (record[name] for name in _FIELDS)
    return Sample(
        None if seconds is None else _EPOCH + timedelta(seconds=seconds),
        None if north is None else north * _SEMICIRCLE,
        None if east is None else east * _SEMICIRCLE,
        rate,
    )


class _Pulses:
    """Heart rates of `hr` messages, by time."""

    def __init__(self) -> None:
        self._zero: float | None = None
        self._ticks = 0
        self._found: list[tuple[float, int]] = []

    def add(self, message: Any) -> None:
        """Take a message's heart rates."""
        rates = [rate for name, rate in _values(message) if name == "filtered_bpm"]
        ticks = [round(value * _TICKS) for name, value in _raw_events(message)]
        begin = _scalar(message, "timestamp")
        if begin is not None and ticks:
            self._zero = begin + (_scalar(message, "fractional_timestamp") or 0) - ticks[0] / _TICKS
        if ticks:
            self._ticks = ticks[-1]
        else:
            ticks = list(self._unpacked(message))
        if self._zero is None:
            return
        self._found += [(self._zero + tick / _TICKS, rate) for tick, rate in zip(ticks, rates, strict=False) if rate]

    def _unpacked(self, message: Any) -> Iterator[int]:
        """Yield event times of which the file has the lowest 12 bits, two of them in three bytes."""
        for packed in (field.raw_value for field in message.fields if field.name == "event_timestamp_12"):
            octets = [octet or 0 for octet in packed] if isinstance(packed, tuple | list | bytes) else []
            bits = int.from_bytes(bytes(octets), "little")
            for number in range(len(octets) * 8 // 12):
                low = bits >> (12 * number) & 0xFFF
                self._ticks += (low - self._ticks) % 0x1000
                yield self._ticks

    def join(self, samples: list[Sample]) -> None:
        """Give samples without a heart rate the one that is nearest in time, at most five seconds away."""
        if not self._found:
            return
        found = sorted(self._found)
        moments = np.array([moment for moment, _ in found])
        for sample in samples:
            if sample.rate is not None or not isinstance(sample.time, datetime):
                continue
            moment = (sample.time - _EPOCH).total_seconds()
            after = int(np.searchsorted(moments, moment))
            near = min(
                range(max(after - 1, 0), min(after + 1, len(found))), key=lambda place: abs(moments[place] - moment)
            )
            if abs(moments[near] - moment) <= _JOIN_SECONDS:
                sample.rate = found[near][1]


def _values(message: Any) -> Iterator[tuple[str, Any]]:
    for field in message.fields:
        values = field.value if isinstance(field.value, tuple) else (field.value,)
        yield from ((field.name, value) for value in values)


def _raw_events(message: Any) -> Iterator[tuple[str, float]]:
    """Yield the event times that the file itself has, s: the parser adds those that it makes of 12 bits, in another way."""
    for field in message.fields:
        if field.name == "event_timestamp" and field.field_def is not None:
            values = field.value if isinstance(field.value, tuple) else (field.value,)
            yield from ((field.name, value) for value in values if isinstance(value, int | float))
