"""How heartbeats are told from people's records: events of reserved users that keep a quiet partition's windows from waiting.

ksqlDB looks for closed windows only when a record arrives, and once a second at most, so that the last windows of a quiet
partition would wait for its next event. `heartwatch.produce.heartbeat` sends that event. Each partition has a reserved user of
its own, whose key begins with `KEY_PREFIX` and hashes to that partition; its records carry the header `HEADER`. The sink
connectors leave records with this header out; whoever counts or shows people's records leaves those keys out. Whoever computes
windows keeps them: they move stream time as any other event does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kafkakit.partitioning import partitions_of
from kafkakit.topic_reader import Records

KEY_PREFIX = "heartbeat-"
"""What the key of every reserved user begins with; no person's key may."""

HEADER = "heartwatch-heartbeat"
"""Header of every record of a reserved user."""


def heartbeat_keys(partitions: int) -> list[str]:
    """Return a reserved user's key for each partition of a topic.

    Args:
        partitions: partitions of the topic.
    """
    found: dict[int, str] = {}
    first, count = 0, 4 * partitions
    while len(found) < partitions:
        keys = [f"{KEY_PREFIX}{number}" for number in range(first, first + count)]
        for key, partition in zip(keys, partitions_of(pa.array(keys), partitions).tolist(), strict=True):
            found.setdefault(partition, key)
        first += count
    return [found[partition] for partition in range(partitions)]


def are_heartbeats(keys: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which records are heartbeats.

    Args:
        keys: the records' keys, text or bytes; null where a record has none.
    """
    pattern = (
        KEY_PREFIX if pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type) else KEY_PREFIX.encode()
    )
    return np.asarray(pc.starts_with(keys, pattern).fill_null(False).to_numpy(zero_copy_only=False))


def without_heartbeats(records: Records) -> Records:
    """Return records without the heartbeats among them."""
    rows = np.flatnonzero(~are_heartbeats(records.key))
    return records if len(rows) == len(records) else records.at(rows)
