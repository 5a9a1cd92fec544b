"""Records that lie in another partition than the join looks in: a sample of keys against murmur2, and whose partitioner fits.

Kafka's records carry no client id, and no request tells which client wrote a record. What a record's place does tell is the
partitioner of its producer: librdkafka's default puts a key where CRC-32 says, Sarama's where FNV-1a says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pyarrow as pa

from heartwatch.events import Wrong
from heartwatch.verify.health import HealthFinding
from kafkakit.partitioning import partitions_of
from kafkakit.topic_reader import Records

_SHOWN = 3
_FITS_AT_LEAST = 0.9
"""Share of the misplaced keys that another partitioner must place where they lie: a wrong one of n partitions fits 1/n."""


@dataclass(frozen=True)
class MisplacedKeys:
    """The records of one partition whose key belongs elsewhere.

    Attributes:
        partition: where they lie.
        records: how many of the sample.
        keys: how many different keys they have.
        examples: a few of the keys, with the partition that each belongs to.
        first_offset: of the first of them.
        last_offset: of the last of them.
        last_timestamp: Kafka's timestamp of the newest, ms since the epoch.
        partitioner: what puts these keys there, "" where no known one does.
    """

    partition: int
    records: int
    keys: int
    examples: tuple[tuple[str, int], ...]
    first_offset: int
    last_offset: int
    last_timestamp: int
    partitioner: str


@dataclass(frozen=True)
class KeySample:
    """What a look at the newest records of a topic's partitions found.

    Attributes:
        records: with a key.
        misplaced: by partition, in order.
    """

    records: int
    misplaced: tuple[MisplacedKeys, ...]


def sample_keys(parts: Iterable[Records], partitions: int) -> KeySample:
    """Compare where records lie with where murmur2 puts their keys; records without a key belong nowhere and are left out.

    Args:
        parts: the records.
        partitions: how many the topic has.
    """
    total = 0
    wrong: dict[int, list[Records]] = {}
    for records in parts:
        keyed = records.at(np.flatnonzero(records.key.is_valid().to_numpy(zero_copy_only=False)))
        total += len(keyed)
        belongs = partitions_of(keyed.key, partitions)
        for partition in np.unique(keyed.partition[keyed.partition != belongs]).tolist():
            found = keyed.at(np.flatnonzero((keyed.partition == partition) & (keyed.partition != belongs)))
            wrong.setdefault(partition, []).append(found)
    return KeySample(total, tuple(_misplaced(where, wrong[where], partitions) for where in sorted(wrong)))


def _misplaced(partition: int, parts: list[Records], partitions: int) -> MisplacedKeys:
    keys = pa.concat_arrays([part.key for part in parts])
    offsets = np.concatenate([part.offset for part in parts])
    different = keys.unique()
    shown = different.slice(0, _SHOWN)
    texts = [key.decode("utf-8", "backslashreplace") for key in shown.to_pylist()]
    return MisplacedKeys(
        partition=partition,
        records=len(keys),
        keys=len(different),
        examples=tuple(zip(texts, partitions_of(shown, partitions).tolist(), strict=True)),
        first_offset=int(offsets.min()),
        last_offset=int(offsets.max()),
        last_timestamp=max(int(part.timestamp.max()) for part in parts),
        partitioner=_partitioner(different.to_pylist(), partition, partitions),
    )


def _fnv1a(key: bytes) -> int:
    value = 0x811C9DC5
    for byte in key:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def _sarama(key: bytes, partitions: int) -> int:
    """Sarama's hash partitioner: FNV-1a as a signed number, whose remainder's sign is dropped."""
    value = _fnv1a(key)
    return abs(value - 2**32 if value >= 2**31 else value) % partitions


_OTHERS: Mapping[str, Callable[[bytes, int], int]] = {
    "librdkafka's default partitioner (CRC-32); set its partitioner to murmur2_random": lambda key, count: (
        crc32(key) % count
    ),
    "Sarama's hash partitioner (FNV-1a); use a murmur2 partitioner there": _sarama,
}


def _partitioner(keys: list[bytes], partition: int, partitions: int) -> str:
    for name, place in _OTHERS.items():
        fits = sum(place(key, partitions) == partition for key in keys)
        if fits >= _FITS_AT_LEAST * len(keys):
            return name
    return ""


def judge_keys(topic: str, sample: KeySample, repartitioned: bool = False) -> HealthFinding:
    """Say whether a topic's keys lie where the join looks for them.

    Args:
        topic: its name.
        sample: of its newest records.
        repartitioned: the queries put the topic's records where they belong themselves, so that nobody is missed.
    """
    if not sample.misplaced:
        return HealthFinding("keys", topic, f"{sample.records:,} sampled, all in their partition")
    records = sum(found.records for found in sample.misplaced)
    state = f"{records:,} of {sample.records:,} sampled in a wrong partition"
    if repartitioned:
        return HealthFinding("keys", topic, f"{state}; the query repartitions them")
    where = "; ".join(_where(found) for found in sample.misplaced[:_SHOWN])
    more = len(sample.misplaced) - _SHOWN
    sentence = (
        f"topic {topic!r}: {state}, where the join doesn't find their row: no alert comes for these people. {where}"
        f"{f'; and {more} more partitions' if more > 0 else ''}. Kafka keeps no client id with a record: find the producer by "
        "these offsets and times, and let it use the Java client's murmur2 over this topic's partitions; until then deploy a new "
        "version with repartition = true in analytic.toml"
    )
    return HealthFinding("keys", topic, state, Wrong.KEYS_MISPLACED, sentence)


def _where(found: MisplacedKeys) -> str:
    examples = ", ".join(f"{key!r} belongs to {partition}" for key, partition in found.examples)
    fits = f", as by {found.partitioner}" if found.partitioner else ", as by no partitioner that is known here"
    return (
        f"Partition {found.partition}: {found.records:,} records of {found.keys:,} keys ({examples}), offsets "
        f"{found.first_offset}-{found.last_offset}{fits}"
    )
