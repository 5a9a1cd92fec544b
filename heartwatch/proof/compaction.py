"""Rows whose records Kafka has compacted away since the sink got them: a later record of the same key is the evidence."""

from __future__ import annotations

import polars as pl

from heartwatch.proof.hashes import KEYS
from heartwatch.proof.look import Look
from heartwatch.proof.rows import RowReader
from kafkakit.topic_reader import Records


def without_superseded(
    look: Look, reader: RowReader, rows: pl.DataFrame, kafka: pl.DataFrame
) -> tuple[pl.DataFrame, dict[int, int]]:
    """Take out rows whose records a later one of the same key has replaced.

    Args:
        look: what there is.
        reader: reads the sink's rows.
        rows: the sink's rows of some offsets.
        kafka: Kafka's records of the same offsets.

    Returns:
        the other rows, and by partition how many were taken out.
    """
    key = look.check.compacted_key
    surplus = rows.join(kafka, on=KEYS, how="anti") if key is not None else rows.clear()
    if key is None or surplus.is_empty():
        return rows, {}
    bounds = surplus.group_by("partition").agg(begin=pl.col("offset").min(), end=pl.col("offset").max() + 1)
    spans = [(int(partition), int(begin), int(end)) for partition, begin, end in bounds.iter_rows()]
    keys = reader.keys(spans, key).join(surplus.select(KEYS), on=KEYS, how="semi")
    gone = keys.join(_latest(look, [partition for partition, _, _ in spans]), on=["partition", "key"])
    gone = gone.filter(pl.col("latest") > pl.col("offset"))
    counts = {int(partition): part.height for (partition,), part in gone.group_by("partition")}
    return rows.join(gone, on=KEYS, how="anti"), counts


def _latest(look: Look, partitions: list[int]) -> pl.DataFrame:
    """Return the offset of the last record of each key that Kafka has in some partitions."""
    ranges = {partition: (look.log_starts[partition], look.limits[partition][1]) for partition in partitions}
    return (
        pl.concat([_keys_of(records) for records in look.check.log.read(ranges)])
        .group_by("partition", "key")
        .agg(latest=pl.col("offset").max())
    )


def _keys_of(records: Records) -> pl.DataFrame:
    keys = [key.decode(errors="replace") if key is not None else None for key in records.key.to_pylist()]
    return pl.DataFrame({"partition": records.partition, "offset": records.offset, "key": keys})
