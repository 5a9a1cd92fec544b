"""Counts of a partition: from earlier checks, earlier looks, and what is compared now. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from heartwatch.proof.findings import PartitionProof
from heartwatch.proof.hashes import sum_digests
from heartwatch.proof.segments import Segment, SegmentState

_MODULUS = 2**64


def count_proven(proof: PartitionProof, segments: Sequence[Segment]) -> None:
    """Note what earlier checks have proven of a partition."""
    digest = 0
    for segment in segments:
        if segment.state != SegmentState.BROKEN:
            proof.proven_before += segment.rows
            digest += segment.digest
            if segment.first is not None and segment.last is not None:
                proof.saw(segment.first, segment.last)
    proof.digest = f"{digest % _MODULUS:016x}"


def note_rows(proof: PartitionProof, rows: pl.DataFrame, offsets: int) -> tuple[int, int | None, int | None]:
    """Note rows of a partition; return the sum of their hashes, and their first and last offset.

    Args:
        proof: the partition's.
        rows: the sink's rows that were compared.
        offsets: how many offsets were compared.
    """
    proof.compared += offsets
    if rows.is_empty():
        return 0, None, None
    first, last = note_bounds(proof, rows)
    ((_, digest),) = sum_digests(rows).values()
    proof.digest = f"{(int(proof.digest, 16) + digest) % _MODULUS:016x}"
    return digest, first, last


def note_bounds(proof: PartitionProof, rows: pl.DataFrame) -> tuple[int, int]:
    """Note which offsets the sink has, of rows of which there are some; return the first and the last."""
    first, last = int(rows["offset"].min()), int(rows["offset"].max())  # type: ignore[arg-type]
    proof.saw(first, last)
    return first, last


def add_counts(partitions: Mapping[int, PartitionProof], counts: Mapping[int, Mapping[str, int]]) -> None:
    """Add what was counted to each partition's counts."""
    for partition, found in counts.items():
        for name, count in found.items():
            setattr(partitions[partition], name, getattr(partitions[partition], name) + count)
