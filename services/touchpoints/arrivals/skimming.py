"""JSON with pictures in it, read as it streams: strings that are too long for anything but a picture become empty."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from services.touchpoints.arrivals.sightings import Unreadable

# Longer than any word a camera says, far shorter than any picture.
MOST_STRING: Final = 4096
MOST_REST: Final = 256 * 1024
# Up to the string's end, or to a backslash whose second half is yet to come.
_INSIDE: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)


async def skim(chunks: AsyncIterator[bytes]) -> bytes:
    """The document with its long strings emptied; raises Unreadable when what remains is too large."""
    skimmer = _Skimmer()
    async for chunk in chunks:
        skimmer.feed(chunk)
    return skimmer.document()


class _Skimmer:
    """Holds what is kept so far and, between chunks, no more than half an escape."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._size, self._held = 0, b""
        # Within a string: its length, and the place in `_kept` where it began; -1 once it has gone.
        self._inside, self._length, self._begin = False, 0, 0

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes; raises Unreadable."""
        data, at = self._held + chunk, 0
        while at < len(data):
            end = self._string(data, at) if self._inside else self._between(data, at)
            if self._size > MOST_REST:
                raise Unreadable("body", f"has more than {MOST_REST} bytes beside its pictures")
            if end == at:
                break
            at = end
        # A backslash whose other half is yet to come.
        self._held = data[at:]

    def document(self) -> bytes:
        """What is left."""
        return b"".join(self._kept) + self._held

    def _keep(self, piece: bytes) -> None:
        self._kept.append(piece)
        self._size += len(piece)

    def _between(self, data: bytes, at: int) -> int:
        """Goes on behind the next string's beginning; returns how far."""
        quote = data.find(b'"', at)
        end = len(data) if quote < 0 else quote + 1
        self._keep(data[at:end])
        self._inside, self._length, self._begin = quote >= 0, 0, len(self._kept)
        return end

    def _string(self, data: bytes, at: int) -> int:
        """Goes on behind the string's end, or as far as the bytes do; returns how far."""
        found = _INSIDE.match(data, at)
        end = found.end() if found else at
        self._length += end - at
        if self._begin >= 0 and self._length > MOST_STRING:
            self._size -= sum(len(part) for part in self._kept[self._begin :])
            del self._kept[self._begin :]
            self._begin = -1
        if self._begin >= 0 and end > at:
            self._keep(data[at:end])
        if data[end : end + 1] == b'"':
            self._keep(b'"')
            self._inside = False
            end += 1
        return end


def parsed(document: bytes) -> Any:
    """A JSON document in UTF-8 or, as Chinese firmware writes it, in GB 18030; raises Unreadable."""
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        pass
    try:
        return orjson.loads(document.decode("gb18030"))
    except (UnicodeDecodeError, UnicodeEncodeError, orjson.JSONDecodeError):
        raise Unreadable("body", "is not valid JSON") from None
