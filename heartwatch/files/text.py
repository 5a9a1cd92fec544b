"""Bytes of a text file as text, whatever encoding it has."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']\s*([A-Za-z][\w.:-]*)""")
# Encodings whose ASCII characters are those of ASCII: others can't hold the declaration that names them.
_BELIEVED = re.compile(r"(utf-8|ascii|iso8859|latin|cp\d|koi8|mac|gb|big5|euc|shift)")


def encoding_of(head: bytes) -> tuple[str, int]:
    """Return the encoding that a file's first bytes show by a byte-order mark or by zeros, and the length of the mark.

    Args:
        head: at least the first four bytes.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    zeros = [byte == 0 for byte in head[:4]]
    if zeros[:2] == [False, True]:
        return ("utf-32-le" if zeros == [False, True, True, True] else "utf-16-le"), 0
    if zeros[:2] == [True, False]:
        return "utf-16-be", 0
    if zeros == [True, True, True, False]:
        return "utf-32-be", 0
    return "utf-8", 0


def decoded(data: bytes) -> tuple[str, str | None]:
    """Return a file's text, and what is wrong with its encoding.

    A byte-order mark counts before what an XML declaration says, and that counts only where the bytes fit it. What is not UTF-8
    and says nothing is read as Windows' superset of Latin-1.
    """
    name, mark = encoding_of(data[:4])
    body = data[mark:]
    if name != "utf-8":
        try:
            return body.decode(name), None
        except UnicodeDecodeError as error:
            return body.decode(name, errors="replace"), f"UnicodeDecodeError: {error}"
    declared = _declared(body)
    for candidate in dict.fromkeys([declared or "utf-8", "utf-8"]):
        try:
            return body.decode(candidate), None
        except (UnicodeError, ValueError):
            continue
    return body.decode(
        "cp1252", errors="replace"
    ), f"the text is not {declared or 'utf-8'}; it was read as Windows-1252"


def _declared(body: bytes) -> str | None:
    found = _DECLARED.search(body[:1_000])
    if found is None:
        return None
    try:
        name = codecs.lookup(found[1].decode("ascii", errors="replace")).name
    except (LookupError, ValueError):
        return None
    return name if _BELIEVED.match(name) else None
