"""multipart/form-data as cameras write it, read as it streams: texts are kept, pictures go by unseen.

Cameras quote the boundary or not, begin it with dashes of their own, forget the two dashes before it, end lines with LF alone,
leave parts empty and the last boundary out. The body's own first line therefore says what separates its parts.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from services.touchpoints.arrivals.sightings import Unreadable

# RFC 2046 allows 70 characters; a few firmwares write more dashes.
_MOST_BOUNDARY: Final = 200
_MOST_HEADERS: Final = 8 * 1024
MOST_TEXT: Final = 256 * 1024
MOST_PARTS: Final = 32
_NAME: Final = re.compile(rb'[\s;]name="?([^";\r\n]*)', re.IGNORECASE)
_FILE: Final = re.compile(rb'[\s;]filename="?([^";\r\n]*)', re.IGNORECASE)
_TYPE: Final = re.compile(rb"^content-type:\s*([^\s;]+)", re.IGNORECASE | re.MULTILINE)
_BOUNDARY: Final = re.compile(r'boundary="?([^";,]+)', re.IGNORECASE)
_END_OF_HEADERS: Final = re.compile(rb"\r?\n\r?\n")


class Part(NamedTuple):
    """A part that is text."""

    name: str
    content: bytes


def boundary_in(content_type: str) -> bytes:
    """The boundary that a header declares; empty without one."""
    found = _BOUNDARY.search(content_type)
    return found.group(1).strip().encode("latin-1", "replace") if found else b""


class _Body:
    """The unread rest of a body, never more than a chunk and what is looked for."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks, self.held, self.ended = chunks, b"", False

    async def more(self) -> bool:
        """Takes one chunk; False when there is none."""
        if self.ended:
            return False
        try:
            self.held += await anext(self._chunks)
            return True
        except StopAsyncIteration:
            self.ended = True
            return False

    async def first_line(self) -> bytes:
        """The line before the first part, line end excluded."""
        while True:
            self.held = self.held.lstrip(b"\r\n")
            end = self.held.find(b"\n")
            if end >= 0:
                line, self.held = self.held[:end].rstrip(b"\r"), self.held[end + 1 :]
                return line
            if len(self.held) > _MOST_BOUNDARY or not await self.more():
                raise Unreadable("body", "has no boundary")

    async def headers(self) -> bytes:
        """The headers of a part; empty when it has none."""
        while True:
            if self.held.startswith((b"\r\n", b"\n")):
                self.held = self.held.removeprefix(b"\r").removeprefix(b"\n")
                return b""
            if found := _END_OF_HEADERS.search(self.held):
                head, self.held = self.held[: found.start()], self.held[found.end() :]
                return head
            if len(self.held) > _MOST_HEADERS:
                raise Unreadable("body", "has a part whose headers do not end")
            if not await self.more():
                head, self.held = self.held, b""
                return head

    async def content(self, delimiter: bytes, keep: bool) -> tuple[bytes, bool]:
        """(what comes before the delimiter, whether a part follows it); nothing is held of what is not to be kept."""
        kept: list[bytes] = []
        size = 0
        while True:
            at = self.held.find(delimiter)
            # A line end and a delimiter may lie over the seam of two chunks.
            seen = at if at >= 0 else max(0, len(self.held) - len(delimiter) - 2)
            if at < 0 and self.ended:
                seen = len(self.held)
            if keep and seen:
                kept.append(self.held[:seen])
                size += seen
                if size > MOST_TEXT:
                    raise Unreadable("body", f"has a text of more than {MOST_TEXT} bytes")
            self.held = self.held[seen:]
            if at >= 0:
                return _without_line_end(b"".join(kept)), await self._goes_on(len(delimiter))
            if not await self.more() and not self.held:
                return _without_line_end(b"".join(kept)), False

    async def _goes_on(self, length: int) -> bool:
        self.held = self.held[length:]
        while len(self.held) < 2 and await self.more():
            pass
        if self.held.startswith(b"--") or not self.held:
            return False
        while (end := self.held.find(b"\n")) < 0:
            if len(self.held) > _MOST_BOUNDARY or not await self.more():
                return False
        self.held = self.held[end + 1 :]
        return True


async def texts(chunks: AsyncIterator[bytes], content_type: str) -> list[Part]:
    """The parts that are XML, JSON or other text, in order; raises Unreadable. The iterator is read to its end."""
    body = _Body(chunks)
    line, declared = await body.first_line(), boundary_in(content_type)
    if not line.startswith(b"--") and (not declared or line != declared):
        raise Unreadable("body", "does not begin with its boundary")
    # Whatever the header says: what the body begins with is what goes on separating it.
    delimiter = line.removesuffix(b"--") if declared and line == b"--" + declared + b"--" else line
    if not delimiter.strip(b"-"):
        delimiter = line
    found: list[Part] = []
    for _ in range(MOST_PARTS):
        head = await body.headers()
        keep = not _is_picture(head)
        content, goes_on = await body.content(delimiter, keep)
        if keep and content.strip():
            name = _NAME.search(b";" + head)
            found.append(Part(name.group(1).decode("latin-1") if name else "", content))
        if not goes_on:
            break
    else:
        raise Unreadable("body", f"has more than {MOST_PARTS} parts")
    body.held = b""
    while await body.more():
        body.held = b""
    return found


def _is_picture(head: bytes) -> bool:
    kind, file = _TYPE.search(head), _FILE.search(b";" + head)
    if kind:
        found = kind.group(1).lower()
        if found.startswith((b"image/", b"video/")) or found == b"application/octet-stream":
            return not (file and file.group(1).lower().endswith((b".xml", b".json")))
        return False
    return bool(file and file.group(1).lower().endswith((b".jpg", b".jpeg", b".png", b".bmp")))


def _without_line_end(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r")
