"""Keys as dense numbers.

A key's bytes become a number (its code) once; from there on joins are gathers and groups are integers. Codes belong to a
partition: the same key in two partitions has two codes, as each partition has state of its own in ksqlDB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ksqlengine.types.arrays import Ints, Mask, runs

ABSENT = -1  # a null key, or one that was looked up and never added
BAD = -2  # bytes that are not a key of the format

# Keys that may be dead before the codes are renumbered: below this, tidying costs more than it saves.
_SLACK_KEYS = 65_536


class _Codes(dict[bytes | None, int]):
    """Codes of one partition's keys; a missing key is added or found absent, in C for all others."""

    def __init__(self, owner: Keys, partition: int) -> None:
        super().__init__({None: ABSENT})
        self._owner = owner
        self._partition = partition

    def __missing__(self, key: bytes | None) -> int:
        return self._owner.unknown(self, self._partition, key)


class Keys:
    """Dense codes of the keys that joins and groups use."""

    def __init__(self, valid: Callable[[bytes], bool]) -> None:
        """Begin without keys.

        Args:
            valid: says whether bytes are a key of the topic's key format; asked once per key.
        """
        self._valid = valid
        self._by_partition: dict[int, _Codes] = {}
        self._adding = False
        self._noted_live = 0
        self.keys: list[bytes] = []

    def __len__(self) -> int:
        return len(self.keys)

    def codes(self, keys: Sequence[bytes | None], partitions: npt.NDArray[np.int32], add: bool) -> Ints:
        """Return each key's code, `ABSENT` or `BAD`.

        Args:
            keys: record keys, ordered by partition.
            partitions: each key's partition.
            add: give new keys a code; otherwise they are absent.
        """
        self._adding = add
        codes = np.empty(len(keys), dtype=np.int64)
        for partition, start, end in runs(partitions):
            known = self._by_partition.get(partition)
            if known is None:
                known = self._by_partition[partition] = _Codes(self, partition)
            part = keys[start:end] if end - start < len(keys) else keys
            codes[start:end] = np.fromiter(map(known.__getitem__, part), np.int64, end - start)
        return codes

    def unknown(self, known: _Codes, partition: int, key: bytes | None) -> int:
        """Give a key that isn't known its code (called by the dictionary of its partition)."""
        if key is None:
            return ABSENT
        if not self._valid(key):
            return BAD
        if not self._adding:
            return ABSENT
        known[key] = code = len(self.keys)
        self.keys.append(key)
        return code

    def bytes_of(self, codes: Ints) -> list[bytes]:
        """Return the keys of codes."""
        keys = self.keys
        return [keys[code] for code in codes.tolist()]

    def codes_of(self, partition: int) -> Ints:
        """Return the codes of a partition's keys."""
        known = self._by_partition.get(partition)
        codes = known.values() if known is not None else ()
        return np.array([code for code in codes if code >= 0], dtype=np.int64)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition's keys; their codes are freed by the next `compact`."""
        self._by_partition.pop(partition, None)

    def is_due_for_tidying(self) -> bool:
        """Say whether most keys may be dead, as far as was last noted."""
        return len(self.keys) > 2 * self._noted_live + _SLACK_KEYS

    def note_live(self, live: int) -> None:
        """Note how many keys are in use, so the next count waits until there are twice as many."""
        self._noted_live = live

    def compact(self, live: Mask) -> Ints:
        """Keep only live codes, renumbered in order.

        Args:
            live: one flag per code.

        Returns:
            the new code of each old one, `ABSENT` where it is gone.
        """
        renumbered = np.where(live, np.cumsum(live) - 1, ABSENT)
        numbers = renumbered.tolist()
        for partition, known in self._by_partition.items():
            kept = _Codes(self, partition)
            for key, code in known.items():
                if key is not None and numbers[code] >= 0:
                    kept[key] = numbers[code]
            self._by_partition[partition] = kept
        self.keys = [key for key, keep in zip(self.keys, live.tolist(), strict=True) if keep]
        return renumbered
