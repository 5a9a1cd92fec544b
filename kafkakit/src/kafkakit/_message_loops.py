"""Compiled loops over librdkafka's messages; they hold no Python object and release the interpreter's lock.

Layout of ``rd_kafka_message_t`` on 64-bit machines, from rdkafka.h: err (int32, padded), rkt, partition (int32, padded), payload,
len, key, key_len, offset, _private: nine words of eight bytes.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # numba states no type for what it decorates

_WORDS = 9
_LOW_32_BITS = np.uint64(0xFFFFFFFF)


class Fields(NamedTuple):
    """One array a field, one entry a message."""

    pointer: npt.NDArray[np.uint64]
    error: npt.NDArray[np.int32]
    topic: npt.NDArray[np.uint64]
    partition: npt.NDArray[np.int32]
    value: npt.NDArray[np.uint64]
    value_bytes: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint64]
    key_bytes: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """Turn an address into a pointer (numba's documented way to reach foreign memory)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def _call_destroy(typing_context: Any, function: Any, message: Any) -> Any:
    """Call ``void function(void *message)`` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir  # noqa: PLC0415 - only the compiler needs it

        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.none(function, message), generate


@intrinsic
def _call_timestamp(typing_context: Any, function: Any, message: Any, kind_address: Any) -> Any:
    """Call ``int64 function(void *message, int *kind)`` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir  # noqa: PLC0415 - only the compiler needs it

        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1], arguments[2]])

    return types.int64(function, message, kind_address), generate


def address(function: Any) -> np.uint64:
    """Return the address of a C function that ctypes has loaded."""
    return np.uint64(ctypes.cast(function, ctypes.c_void_p).value or 0)


@njit(cache=True, nogil=True)
def _words(pointers: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:  # pragma: no cover - compiled
    for row in range(len(pointers)):
        message = carray(_pointer(pointers[row]), (_WORDS,), np.uint64)
        for word in range(_WORDS):
            out[word, row] = message[word]


def fields(pointers: npt.NDArray[np.uint64]) -> Fields:
    """Read the messages' fields."""
    words = np.empty((_WORDS, len(pointers)), dtype=np.uint64)
    _words(pointers, words)
    return Fields(
        pointer=pointers,
        error=(words[0] & _LOW_32_BITS).astype(np.uint32).view(np.int32),
        topic=words[1],
        partition=(words[2] & _LOW_32_BITS).astype(np.uint32).view(np.int32),
        value=words[3],
        value_bytes=words[4].view(np.int64),
        key=words[5],
        key_bytes=words[6].view(np.int64),
        offset=words[7].view(np.int64),
    )


@njit(cache=True, nogil=True)
def _copy(
    sources: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    for row in range(len(sources)):
        length = offsets[row + 1] - offsets[row]
        if length:
            source = carray(_pointer(sources[row]), (length,), np.uint8)
            start = offsets[row]
            for position in range(length):
                out[start + position] = source[position]


def copy(
    sources: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Copy byte strings into one buffer: which are there at all, where each begins, and the bytes."""
    there = sources != 0
    offsets = np.zeros(len(sources) + 1, dtype=np.int64)
    np.cumsum(np.where(there, lengths, 0), out=offsets[1:])
    data = np.empty(offsets[-1], dtype=np.uint8)
    _copy(sources, offsets, data)
    return there, offsets, data


@njit(cache=True, nogil=True)
def destroy(pointers: npt.NDArray[np.uint64], function: np.uint64) -> None:  # pragma: no cover - compiled
    """Give messages back to librdkafka."""
    for row in range(len(pointers)):
        _call_destroy(function, pointers[row])


@njit(cache=True, nogil=True)
def timestamps(pointers: npt.NDArray[np.uint64], function: np.uint64) -> npt.NDArray[np.int64]:  # pragma: no cover
    """Return the messages' Kafka timestamps, ms since the epoch."""
    kind = np.zeros(1, dtype=np.int64)
    out = np.empty(len(pointers), dtype=np.int64)
    for row in range(len(pointers)):
        out[row] = _call_timestamp(function, pointers[row], np.uint64(kind.ctypes.data))
    return out
