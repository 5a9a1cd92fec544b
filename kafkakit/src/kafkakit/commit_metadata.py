"""Text kept beside a committed offset, so written that what lies behind it can be told from it.

confluent-kafka hands a commit's metadata on without its end: what lies behind it in memory may follow, text or not. So the length
and a checksum of the text go with it. The whole is JSON with a version of its own: earlier releases refuse it instead of
misreading it.
"""

from __future__ import annotations

import json
import re
import zlib

from confluent_kafka import TopicPartition

_FRAME = re.compile(rb'\{"version":2,"length":(\d{1,4}),"crc32":(\d{1,10}),"body":')
_DECODER = json.JSONDecoder()


def framed(body: str) -> str:
    """Return commit metadata that holds a text.

    Args:
        body: JSON.
    """
    data = body.encode()
    return f'{{"version":2,"length":{len(data)},"crc32":{zlib.crc32(data)},"body":{body}}}'


def raw_metadata(committed: TopicPartition) -> bytes:
    """Return the metadata of a committed offset as the client gives it, whatever lies behind it included."""
    try:
        text: str | None = committed.metadata
    except UnicodeDecodeError as error:  # the client decodes it only here
        return bytes(error.object)
    return (text or "").encode()


def unframed(metadata: bytes | str | None) -> str:
    """Return the text that commit metadata holds, without what lies behind it.

    Metadata without a frame (earlier releases wrote bare JSON) is read to the end of the JSON value that it begins with; what is
    neither is returned as it is, characters that are not UTF-8 replaced.

    Args:
        metadata: from `raw_metadata`, or a text.
    """
    data = metadata.encode() if isinstance(metadata, str) else metadata or b""
    frame = _FRAME.match(data)
    if frame is not None:
        body = data[frame.end() : frame.end() + int(frame[1])]
        if zlib.crc32(body) == int(frame[2]):
            return body.decode()
    text = data.decode(errors="replace")
    try:
        return text[: _DECODER.raw_decode(text)[1]]
    except ValueError:
        return text
