"""The findings of one look at a sink, as it makes them."""

from __future__ import annotations

from heartwatch.proof.findings import Finding, Kind
from heartwatch.sink.reader import NO_END, SinkObject


class Ledger:
    """Collects what one look finds.

    Attributes:
        findings: what is wrong, in the order in which it was found.
        unsettled: paths of objects with which something is wrong: the next check looks at them as at new ones.
        past_end: by partition how many rows lie past Kafka's end.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.findings: list[Finding] = []
        self.unsettled: set[str] = set()
        self.past_end: dict[int, int] = {}
        self._reported: set[tuple[Kind, str]] = set()

    def report_object(self, kind: Kind, path: str, text: str, found: SinkObject | None, fault: bool = True) -> None:
        """Report what is wrong with an object, once.

        Args:
            kind: what.
            path: the object's.
            text: the same in words.
            found: the object; None where nothing is known of it.
            fault: whether it fails the check.
        """
        if (kind, path) not in self._reported:
            self._reported.add((kind, path))
            self.findings.append(object_finding(kind, path, text, found, fault))

    def report_unreadable(self, found: SinkObject, reason: str) -> None:
        """Report an object that is there and can't be read."""
        self.unsettled.add(found.path)
        self.report_object(Kind.UNDECODABLE, found.path, reason, found)

    def report_unplaced(self, found: SinkObject, count: int) -> None:
        """Report rows that don't say which record they are, such as those that somebody else has put into the table."""
        if count:
            self.unsettled.add(found.path)
            self.report_object(Kind.UNEXPECTED, found.path, f"{count:,} rows without partition or offset", found)


def object_finding(kind: Kind, path: str, text: str, found: SinkObject | None, fault: bool = True) -> Finding:
    """Return what is wrong with an object, with the offsets of its rows where they are of one partition."""
    detail = text if path in text else f"{path}: {text}"
    if found is None or found.partitions[0] != found.partitions[1]:
        return Finding(kind, detail=detail, fault=fault)
    last = found.offsets[1] - 1 if found.offsets[1] != NO_END else found.offsets[0]
    return Finding(kind, found.partitions[0], found.offsets[0], last, 1, detail, fault)
