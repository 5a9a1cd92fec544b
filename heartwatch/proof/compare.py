"""Compares what Kafka has in some offsets with what the sink has there. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from heartwatch.proof.findings import COUNTS, Finding, Kind
from heartwatch.proof.hashes import KEYS, ROW_SCHEMA, RecordKind, in_order

Ranges = Mapping[int, tuple[int, int]]
"""For each partition the first offset and the offset after the last one."""

_FAULTS = {
    "missing": Kind.MISSING,
    "duplicates": Kind.DUPLICATE,
    "unexpected": Kind.UNEXPECTED,
    "changed": Kind.CHANGED,
}
MOST_RUNS = 20
"""Runs of one kind and partition that are reported one by one; the counts hold all."""


def judge(kafka: pl.DataFrame, sink: pl.DataFrame, dead_letters: pl.DataFrame) -> pl.DataFrame:
    """Return one row per offset that Kafka or the sink has, sorted, with what is to be said of it.

    Args:
        kafka: what `kafka_frame` gave, in order.
        sink: rows of the same offsets as `row_frame` gives them, in order.
        dead_letters: partition and offset of each record in the dead-letter topic.
    """
    joined = _side_by_side(kafka, sink)
    dead = dead_letters.select(pl.col("partition").cast(pl.Int32), "offset").unique().with_columns(dead=pl.lit(True))
    joined = joined.join(dead, on=KEYS, how="left", maintain_order="left")
    in_kafka, in_sink, is_dead = (
        pl.col("kind").is_not_null(),
        pl.col("copies").is_not_null(),
        pl.col("dead").is_not_null(),
    )
    is_row, is_tombstone = pl.col("kind") == RecordKind.ROW, pl.col("kind") == RecordKind.TOMBSTONE
    other = (pl.col("digest") != pl.col("digest_sink")) | (pl.col("kinds") > 1)
    other_time = (pl.col("timestamp") != pl.col("timestamp_sink")).fill_null(False)
    return joined.with_columns(
        in_kafka=in_kafka,
        in_sink=in_kafka & in_sink,
        tombstones=(in_kafka & is_tombstone).fill_null(False),
        dead_letters=in_kafka & is_dead,
        missing=(in_kafka & ~in_sink & ~is_dead & ~is_tombstone).fill_null(False),
        unexpected=(~in_kafka | (in_sink & is_tombstone)).fill_null(False),
        changed=(in_sink & is_row & (other | other_time)).fill_null(False),
        duplicates=pl.col("copies").fill_null(1).cast(pl.Int64) - 1,
    ).select(*KEYS, *COUNTS)


def _side_by_side(kafka: pl.DataFrame, sink: pl.DataFrame) -> pl.DataFrame:
    """Return one row per offset in order: Kafka's columns, the sink's, how many rows the sink has there and of how many kinds."""
    # As a rule each offset is there once, and Kafka has it: that needs no join.
    if (places := _places(kafka, sink)) is not None:
        rows = np.full(kafka.height, -1)
        rows[places] = np.arange(sink.height)
        index = pl.Series(rows)
        single = pl.lit(index >= 0).replace(False, None).cast(pl.UInt32)
        return kafka.with_columns(
            copies=single,
            kinds=single,
            **{f"{name}_sink": _picked(sink[name], index) for name in ("digest", "timestamp")},
        )
    copies = sink.group_by(KEYS).agg(
        copies=pl.len(),
        digest=pl.col("digest").first(),
        kinds=pl.col("digest").n_unique(),
        timestamp=pl.col("timestamp").first(),
    )
    return in_order(kafka.join(copies, on=KEYS, how="full", coalesce=True, suffix="_sink"))


def _picked(values: pl.Series, index: pl.Series) -> pl.Series:
    """Return the values at an index, null where it is negative."""
    if values.is_empty():
        return pl.repeat(None, len(index), dtype=values.dtype, eager=True)
    return values.gather(index.set(index < 0, None))


def _places(kafka: pl.DataFrame, sink: pl.DataFrame) -> npt.NDArray[np.int64] | None:
    """Return which of Kafka's records each of the sink's rows is; None where a row is none of them, or the same as another."""
    (partitions, offsets), (own_partitions, own_offsets) = (
        (rows["partition"].to_numpy(), rows["offset"].to_numpy()) for rows in (kafka, sink)
    )
    places = np.empty(sink.height, dtype=np.int64)
    for partition in np.unique(own_partitions):
        first, end = np.searchsorted(partitions, [partition, partition + 1])
        own = slice(*np.searchsorted(own_partitions, [partition, partition + 1]))
        places[own] = first + np.searchsorted(offsets[first:end], own_offsets[own])
    if np.any(places >= kafka.height) or np.any(places[1:] <= places[:-1]):
        return None
    same = (partitions[places] == own_partitions) & (offsets[places] == own_offsets)
    return places if same.all() else None


def on_the_way(judged: pl.DataFrame, targets: Mapping[int, int]) -> dict[int, int]:
    """Return by partition the first missing record that wasn't there when the check began: the sink may still be writing it."""
    bounds = pl.DataFrame(list(targets.items()), schema={"partition": pl.Int32, "target": pl.Int64}, orient="row")
    # A partition that was added since had no record then.
    due = judged.filter("missing").join(bounds, on="partition", how="left").with_columns(pl.col("target").fill_null(0))
    late = due.filter(pl.col("offset") >= pl.col("target"))
    return dict(late.group_by("partition").agg(pl.col("offset").min()).iter_rows())


def before(rows: pl.DataFrame, ends: Mapping[int, int]) -> pl.DataFrame:
    """Return the rows whose offset lies before their partition's end, where it has one."""
    if not ends:
        return rows
    bounds = pl.DataFrame(list(ends.items()), schema={"partition": pl.Int32, "end": pl.Int64}, orient="row")
    joined = rows.join(bounds, on="partition", how="left", maintain_order="left")
    return joined.filter(pl.col("end").is_null() | (pl.col("offset") < pl.col("end"))).select(rows.columns)


def counts(judged: pl.DataFrame) -> dict[int, dict[str, int]]:
    """Return by partition the sums of what was said of its offsets, and how many runs of missing ones there are."""
    begins = pl.col("missing") & ~pl.col("missing").shift(1, fill_value=False).over("partition")
    flagged = judged.with_columns(gaps=begins if judged["missing"].any() else pl.lit(False))
    summed = flagged.group_by("partition").agg(pl.col(*COUNTS, "gaps").cast(pl.Int64).sum())
    return {int(row.pop("partition")): row for row in summed.iter_rows(named=True)}


def runs(judged: pl.DataFrame) -> list[Finding]:
    """Return what is wrong, offsets that follow on each other together, `MOST_RUNS` of a kind and partition at most."""
    found = []
    for name, kind in _FAULTS.items():
        wrong = pl.col(name).cast(pl.Int64) > 0
        if not judged.select(wrong.any()).item():
            continue
        numbered = judged.with_columns(wrong=wrong).with_columns(
            # A new run begins after each offset with which nothing is wrong, and in each partition.
            run=(~pl.col("wrong")).cast(pl.Int64).cum_sum().over("partition")
        )
        grouped = (
            numbered.filter("wrong")
            .group_by("partition", "run", maintain_order=True)
            .agg(first=pl.col("offset").min(), last=pl.col("offset").max(), count=pl.col(name).cast(pl.Int64).sum())
            .group_by("partition", maintain_order=True)
            .agg(pl.col("first", "last", "count").head(MOST_RUNS))
        )
        for row in grouped.iter_rows(named=True):
            found += [
                Finding(kind, row["partition"], first, last, count)
                for first, last, count in zip(row["first"], row["last"], row["count"], strict=True)
            ]
    return found


def first_fault(judged: pl.DataFrame, none: int) -> int:
    """Return the first offset of a partition's with which something is wrong; `none` where nothing is."""
    wrong = pl.any_horizontal(pl.col(name).cast(pl.Int64) > 0 for name in _FAULTS)
    found = judged.filter(wrong)["offset"].min()
    return none if found is None else int(found)  # type: ignore[arg-type]


def due_records(kafka: pl.DataFrame, dead_letters: pl.DataFrame, partition: int, first: int) -> pl.DataFrame:
    """Return those of Kafka's records that the sink had to write: no tombstones, no dead letters.

    Args:
        kafka: Kafka's records, sorted.
        dead_letters: partition and offset of each record in the dead-letter topic.
        partition: whose records.
        first: offset from which on.
    """
    dead = dead_letters.filter(pl.col("partition") == partition)["offset"]
    return kafka.filter(
        (pl.col("partition") == partition)
        & (pl.col("offset") >= first)
        & (pl.col("kind") != RecordKind.TOMBSTONE)
        & ~pl.col("offset").is_in(dead.implode())
    )


def without_removed(rows: pl.DataFrame, due: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of an object without offsets whose records Kafka still has, where it has removed the first ones.

    How many those were nothing tells but the contents: the rows that are left begin where they equal the records that are left.

    Args:
        rows: the object's rows in their order.
        due: what `due_records` gave, from the first offset that Kafka still has.
    """
    own, digests = rows["digest"].to_numpy(), due["digest"].to_numpy()
    undecoded = (due["kind"] == RecordKind.UNDECODABLE).to_numpy()
    where = {int(digest): place for place, digest in reversed(list(enumerate(digests.tolist())))}
    begins = [row - where[digest] for row, digest in enumerate(own.tolist()) if digest in where]
    likely = [begin for begin in sorted(set(begins)) if begin >= 0]
    for begin in likely:
        count = min(rows.height - begin, due.height)
        if bool(np.all((own[begin : begin + count] == digests[:count]) | undecoded[:count])):
            return rows.slice(begin)
    return rows.slice(max(0, begins[0])) if begins else rows.clear()


def place_counted(rows: pl.DataFrame, due: pl.DataFrame) -> pl.DataFrame:
    """Give the rows of an object without offsets the offsets of the records that they are.

    The object's rows are the records from its first offset on that the sink had to write. Where they don't follow each other like
    that, each row is the next record with its contents; one that is no record's takes the place of the record at which it stands.

    Args:
        rows: the object's rows in their order, counted from its first offset.
        due: what `due_records` gave, from the object's first offset on.

    Returns:
        the rows with their offsets; those past Kafka's last record here are left out.
    """
    offsets, digests = due["offset"].to_numpy(), due["digest"].to_numpy()
    undecoded = (due["kind"] == RecordKind.UNDECODABLE).to_numpy()
    count = min(len(offsets), rows.height)
    own = rows["digest"].to_numpy()
    if bool(np.all((own[:count] == digests[:count]) | undecoded[:count])):
        places = offsets[:count]
        return rows.head(count).with_columns(offset=pl.Series(places, dtype=pl.Int64)).cast(ROW_SCHEMA)  # type: ignore[arg-type]
    aligned = _align(own, offsets, digests)
    return rows.with_columns(offset=pl.Series(aligned, dtype=pl.Int64)).filter(pl.col("offset") >= 0)


def _align(own: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], digests: npt.NDArray[np.uint64]) -> list[int]:
    """Return for each row the offset of the next record with its contents, else of the one where it stands; -1 past the last."""
    where: dict[int, list[int]] = {}
    for position in range(len(digests) - 1, -1, -1):
        where.setdefault(int(digests[position]), []).append(position)
    places, pointer = [], 0
    for digest in own.tolist():
        candidates = where.get(digest, [])
        while candidates and candidates[-1] < pointer:
            candidates.pop()
        if candidates:
            pointer = candidates.pop()
        places.append(int(offsets[pointer]) if pointer < len(offsets) else -1)
        pointer += 1
    return places
