"""Parts of batches of messages."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.types.arrays import Ints, runs


def ordered(batch: MessageBatch, partitions: Iterable[int]) -> MessageBatch:
    """Return a batch's records of some partitions, ordered by partition (and offset, as each partition's are)."""
    here = {partition for partition, _, _ in runs(batch.partition)}
    if not here <= set(partitions):
        batch = select(batch, np.flatnonzero(np.isin(batch.partition, list(partitions))))
    if len(batch) and np.any(batch.partition[1:] < batch.partition[:-1]):
        batch = select(batch, np.argsort(batch.partition, kind="stable"))
    return batch


def of_topic(batch: MessageBatch, number: int) -> MessageBatch:
    """Return a batch's records of the topic with a number in `MessageBatch.topics`."""
    return batch if len(batch.topics) == 1 else select(batch, np.flatnonzero(batch.topic == number))


def select(batch: MessageBatch, rows: Ints) -> MessageBatch:
    """Return some rows of a batch."""
    taken = pa.array(rows)
    return MessageBatch(
        topics=batch.topics,
        topic=batch.topic[rows],
        partition=batch.partition[rows],
        offset=batch.offset[rows],
        timestamp=batch.timestamp[rows],
        key=batch.key.take(taken),
        value=batch.value.take(taken),
        ends=batch.ends,
        headers=None if batch.headers is None else tuple(batch.headers[row] for row in rows.tolist()),
    )
