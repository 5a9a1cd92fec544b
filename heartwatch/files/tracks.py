"""GPX and TCX files: track points as samples, whatever else is wrong with the file.

Both are XML, and read by one walk over expat's events: it takes the time, position and heart rate of each track point and
nothing else, so that an empty or wrong field that nobody uses refuses nothing. Namespaces don't count, so that any vendor's
prefix does, declared or not. Where the XML is damaged, reading goes on with the next track point.
"""

from __future__ import annotations

import re
from typing import Any
from xml.parsers import expat

from heartwatch.errors import HeartWatchError
from heartwatch.files.samples import Reading, Sample
from heartwatch.files.text import decoded

_POINTS = {"trkpt", "trackpoint"}
_ACTIVITIES = {"trk", "activity"}
_SEGMENTS = {"trkseg", "track"}
_RATES = ("hr", "heartrate", "heartratebpm", "bpm", "hrbpm", "pulse", "hrm")
_PLACES = {"latitudedegrees": "latitude", "longitudedegrees": "longitude"}
_NEXT_POINT = re.compile(rb"<(?:[\w.-]+:)?(?:trkpt|trackpoint)[\s>/]", re.IGNORECASE)
_BARE_AMPERSAND = re.compile(rb"&(?!#\d+;|#x[0-9a-fA-F]+;|[A-Za-z_][\w.-]*;)")
_NO_CHARACTERS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ENDS_EARLY = {3, 5, 6, 20}  # expat: no element found, unclosed token, partial character, unclosed CDATA section
_WHAT_FOLLOWS = 9  # expat: junk after document element


def read(data: bytes) -> Reading:
    """Return the track points of a GPX or TCX file.

    Args:
        data: the whole file, in any encoding.
    """
    text, problem = decoded(data)
    warnings = [problem] if problem else []
    clean = _NO_CHARACTERS.sub(b"", text.lstrip("\ufeff \t\r\n\0").rstrip().encode("utf-8", errors="replace"))
    clean = _BARE_AMPERSAND.sub(b"&amp;", clean)
    if not clean:
        return Reading([], ["the file is empty"])
    walk = _Walk()
    position = 0
    while position < len(clean):
        failed = walk.parse(memoryview(clean)[position:], first=position == 0)
        if failed is None:
            break
        place = position + failed[1]
        following = _NEXT_POINT.search(clean, max(place, position + 1))
        if following is None:
            warnings += walk.last_problem(failed[0], len(clean) - place)
            break
        walk.cut(f"damaged XML: {expat.ErrorString(failed[0])}")
        position = following.start()
    return Reading(walk.samples, warnings)


class _Walk:
    """Takes track points from expat's events."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._point: Sample | None = None
        self._path: list[str] = []
        self._texts: list[str] = []
        self._activity = self._segment = self._courses = 0
        self._resumed = False

    def parse(self, data: memoryview, first: bool) -> tuple[int, int] | None:
        """Walk over a document, or over the rest of one.

        Returns:
            number and place of the error that ended it; None at the end of the document.
        """
        self._point, self._path, self._resumed = None, [], not first
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.UseForeignDTD(True)  # entities that nobody declared are left out instead of being errors
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._texts.append
        # Neither format has entities of its own; what declares some wants to fill the memory.
        parser.EntityDeclHandler = _refuse_entities
        before = 0
        try:
            if not first:
                before = len(b"<rest>")
                parser.Parse(b"<rest>", False)
            parser.Parse(bytes(data) if len(data) < 1 << 16 else data, True)
        except expat.ExpatError as error:
            return error.code, max(parser.ErrorByteIndex - before, 0)
        except _EntityError:
            return expat.errors.codes[expat.errors.XML_ERROR_SYNTAX], len(data)
        return None

    def cut(self, reason: str) -> None:
        """Count the track point that damage cut off, if there was one."""
        if self._point is not None:
            self._point.broken = reason
            self.samples.append(self._point)
            self._point = None

    def last_problem(self, code: int, left: int) -> list[str]:
        """Return what is wrong with a document that no track point follows any more."""
        if self._point is None and self._resumed and code not in _ENDS_EARLY:
            return []  # the ends of elements that began before the damage
        if code in _ENDS_EARLY:
            return [] if self._point is None and self._resumed else ["the file ends early"]
        if code == _WHAT_FOLLOWS:
            return [f"{left} bytes behind the end"]
        self.cut(f"damaged XML: {expat.ErrorString(code)}")
        return [f"the file is damaged, the rest is not read: {expat.ErrorString(code)}"]

    def _start(self, name: str, attributes: dict[str, Any]) -> None:
        local = _local(name)
        self._texts.clear()
        if self._point is not None:
            self._path.append(local)
            if local in _RATES and self._point.rate is None:
                given = {_local(key): value for key, value in attributes.items()}
                self._point.rate = next((given[key] for key in ("value", *_RATES) if key in given), None)
        elif local == "courses":
            self._courses += 1
        elif local in _POINTS and not self._courses:
            given = {_local(key): value for key, value in attributes.items()}
            self._point = Sample(
                latitude=given.get("lat"), longitude=given.get("lon"), activity=self._activity, segment=self._segment
            )
            self._path = [local]
        elif local in _ACTIVITIES:
            self._activity += 1
        elif local in _SEGMENTS:
            self._segment += 1

    def _end(self, name: str) -> None:
        local, text = _local(name), "".join(self._texts).strip()
        self._texts.clear()
        if self._point is None:
            self._courses -= local == "courses"
            return
        self._path.pop()
        if not self._path:
            self.samples.append(self._point)
            self._point = None
        elif text:
            self._take(local, text, self._point)

    def _take(self, local: str, text: str, point: Sample) -> None:
        if local == "time" and len(self._path) == 1 and point.time is None:
            point.time = text
        elif local in _PLACES and getattr(point, _PLACES[local]) is None:
            setattr(point, _PLACES[local], text)
        elif (local in _RATES or (local == "value" and self._path[-1] in _RATES)) and point.rate is None:
            point.rate = text


class _EntityError(HeartWatchError):
    """A document declares entities."""


def _refuse_entities(*_: object) -> None:
    raise _EntityError


def _local(name: str) -> str:
    return name.rpartition(":")[2].lower().replace("_", "").replace("-", "")
