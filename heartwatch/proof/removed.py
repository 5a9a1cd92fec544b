"""Offsets that Kafka removed before they were proven: what the sink has of them is all that can be said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from heartwatch.proof.compare import MOST_RUNS
from heartwatch.proof.counts import note_bounds
from heartwatch.proof.findings import Finding, Kind, PartitionProof
from heartwatch.proof.hashes import DIGEST, sum_digests
from heartwatch.proof.look import Look
from heartwatch.proof.rows import RowReader
from heartwatch.proof.segments import Proofs, Segment, SegmentState, Span, chunks

Runs = list[tuple[int, int]]
"""First and last offset of each run."""


def look_before_the_log(
    look: Look, proofs: Proofs, reader: RowReader, partitions: Mapping[int, PartitionProof]
) -> list[Finding]:
    """Keep the offsets for which the sink has a row each, and return findings of the others.

    Args:
        look: what there is.
        proofs: what is proven; brought up to date.
        reader: reads the sink's rows.
        partitions: counts of this look; brought up to date.
    """
    findings: list[Finding] = []
    for partition, start in look.log_starts.items():
        begin = proofs.base[partition]
        spans = proofs.unproven(partition, begin, start) if begin < start else []
        for span in [part for whole in chunks(spans, {}) for _, part in whole]:
            rows, dead = reader.rows([span]), look.check.dead_letters([span])
            lost = holes(np.concatenate([rows["offset"].to_numpy(), dead["offset"].to_numpy()]), span)
            proof = partitions[partition]
            first, last = note_bounds(proof, rows) if rows.height else (None, None)
            twice = _duplicates(proof, rows)
            findings += twice
            if lost and not look.check.accept_losses:
                findings += _losses(proof, lost)
            elif not twice:
                height, digest = sum_digests(rows).get(partition, (0, 0))
                proofs.add(Segment(*span, height, height, digest, DIGEST, first, last, SegmentState.UNCHECKED))
    return findings


def holes(present: npt.NDArray[np.int64], span: Span) -> Runs:
    """Return each run of offsets of a span that aren't present.

    Args:
        present: offsets, in any order; those outside the span don't count.
        span: where to look.
    """
    inside = np.unique(present)
    inside = inside[(inside >= span[1]) & (inside < span[2])]
    edges = np.concatenate([[span[1] - 1], inside, [span[2]]])
    wide = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[index]) + 1, int(edges[index + 1]) - 1) for index in wide]


def _duplicates(proof: PartitionProof, rows: pl.DataFrame) -> list[Finding]:
    """Return rows that the sink has more than once, which needs no Kafka to see."""
    copies = rows.group_by("offset").len().filter(pl.col("len") > 1).sort("offset")
    offsets, surplus = copies["offset"].to_numpy(), copies["len"].to_numpy().astype(np.int64) - 1
    proof.duplicates += int(surplus.sum())
    cuts = np.flatnonzero(np.diff(offsets) > 1) + 1
    runs = zip(np.split(offsets, cuts), np.split(surplus, cuts), strict=True) if len(offsets) else ()
    return [
        Finding(Kind.DUPLICATE, proof.partition, int(run[0]), int(run[-1]), int(count.sum()))
        for run, count in list(runs)[:MOST_RUNS]
    ]


def _losses(proof: PartitionProof, lost: Runs) -> list[Finding]:
    proof.lost += sum(last - first + 1 for first, last in lost)
    proof.compared += sum(last - first + 1 for first, last in lost)
    proof.gaps += len(lost)
    text = "Kafka removed them unproven, and the sink has no rows for them; transactions' markers may be among them"
    return [
        Finding(Kind.LOST, proof.partition, first, last, last - first + 1, text) for first, last in lost[:MOST_RUNS]
    ]
