"""Says of changed rows which fields differ, and how; only the first ones, each of which is read once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from heartwatch.proof.findings import Finding, Kind
from heartwatch.proof.hashes import comparable, differences, positions, wanted_schema
from heartwatch.proof.look import Look
from heartwatch.proof.rows import RowReader
from heartwatch.sink.reader import OFFSET, TIMESTAMP

_EXPLAINED = 3


def explained(findings: Sequence[Finding], look: Look, reader: RowReader) -> Iterator[Finding]:
    """Return findings, the first changed rows among them with the fields that differ."""
    left = _EXPLAINED
    for finding in findings:
        if finding.kind == Kind.CHANGED and left:
            left -= 1
            yield _explained(finding, look, reader)
        else:
            yield finding


def _explained(finding: Finding, look: Look, reader: RowReader) -> Finding:
    partition, offset = finding.partition or 0, finding.first or 0
    kafka = _record(look, partition, offset)
    there, fields = look.objects_of([(partition, offset, offset + 1)]), look.check.fields
    for source, batch in reader.batches(there, wanted_schema(fields)):
        if OFFSET not in batch.schema.names:
            return replace(finding, detail=source.path)
        partitions, offsets = positions(batch, (source.partitions[0], source.offsets[0]))
        rows = batch.filter(pa.array((partitions == partition) & (offsets == offset)))
        for row in comparable(rows, fields):
            if other := differences(kafka, row):
                values = "; ".join(f"{name}: {values}" for name, values in other.items())
                return replace(finding, detail=f"{', '.join(other)} differ", sample=f"offset {offset}: {values}")
    return finding


def _record(look: Look, partition: int, offset: int) -> dict[str, object]:
    """Read one of Kafka's records as a mapping of its fields and its Kafka timestamp."""
    record: dict[str, object] = {}
    for records in look.check.log.read({partition: (offset, offset + 1)}):
        decoded = look.check.decoder.decode(records.value.to_pylist())
        times = pa.array(records.timestamp, pa.timestamp("ms"))
        record = {**decoded.batch.to_pylist()[0], TIMESTAMP: times[0].as_py()}
    return record
