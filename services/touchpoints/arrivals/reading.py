"""From the bytes of a request to what was seen: the dialect follows from what a post looks like, never from a header alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from services.touchpoints.arrivals import dahua, hikvision, multipart, skimming
from services.touchpoints.arrivals.sightings import Heartbeat, Seen, Unreadable, VisitorSeen, object_of, text_of

# CONVENTIONS 5.1: two or three pictures of some hundred kilobytes; a sixteenth of this is usual.
MOST_BYTES: Final = 8 * 1024 * 1024


async def read(chunks: AsyncIterator[bytes], content_type: str, query: bytes) -> Seen:
    """Reads one post to its end. Of what it does not need nothing is ever held; raises Unreadable."""
    first = b""
    async for first in chunks:
        if first.strip():
            break
    stream = _again(first.lstrip(), chunks)
    if first.lstrip().startswith(b"--") or content_type.lower().startswith("multipart/"):
        if first.strip():
            return _of_parts(await multipart.texts(stream, content_type), query)
    elif first.lstrip()[:1] in (b"{", b"["):
        return _of_json(skimming.parsed(await skimming.skim(stream)))
    elif first.strip():
        return hikvision.from_xml(await _whole(stream))
    return hikvision.from_query(query) or Heartbeat("empty")


def _of_parts(parts: list[multipart.Part], query: bytes) -> Seen:
    for part in parts:
        begin = part.content.lstrip(b"\xef\xbb\xbf \r\n\t")[:1]
        if begin == b"<" or part.name.lower().endswith(".xml"):
            return hikvision.from_xml(part.content)
        if begin == b"{":
            return _of_json(skimming.parsed(part.content))
    return hikvision.from_query(query) or Heartbeat("no_text")


def _of_json(document: Any) -> Seen:
    given = object_of(document, "body")
    if "visitor_code" in given:
        code = text_of(given["visitor_code"], "visitor_code", 500)
        if not code:
            raise Unreadable("visitor_code", "is required")
        return VisitorSeen("", code, False, "", "", None)
    return dahua.from_json(given) if "Picture" in given else hikvision.from_json(given)


async def _again(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    kept, size = [], 0
    async for chunk in chunks:
        kept.append(chunk)
        size += len(chunk)
        if size > multipart.MOST_TEXT:
            raise Unreadable("body", f"has more than {multipart.MOST_TEXT} bytes of text")
    return b"".join(kept)
