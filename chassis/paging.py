"""Pages of lists (AIP-158): where a listing goes on, opaque to callers and good for that listing only.

A token never authorises anything, so its check guards against mistakes, not against attackers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from chassis.errors import InvalidArgument

BIGINT_MAX = 2**63 - 1
_CHECK_BYTES = 6


def size(asked: int, default: int, most: int) -> int:
    """How many to show: `default` for 0, never more than `most`."""
    return min(asked or default, most)


def token(listing: str, *last: int) -> str:
    """Says that the next page begins behind `last`, the sort key of the last item shown. `listing` names list and filters."""
    payload = ".".join(map(str, last)).encode()
    return base64.urlsafe_b64encode(_check(listing, payload) + payload).decode()


def read(listing: str, given: str, first: tuple[int, ...]) -> tuple[int, ...]:
    """The key that a token of this listing carries, or `first` without a token; raises InvalidArgument for any other."""
    if not given:
        return first
    try:
        raw = base64.b64decode(given.encode(), altchars=b"-_", validate=True)
        check, payload = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        if check == _check(listing, payload):
            return tuple(int(part) for part in payload.split(b"."))
    except (binascii.Error, UnicodeEncodeError, ValueError):
        pass
    raise InvalidArgument("not a page token of this list", reason="INVALID_PAGE_TOKEN", field="page_token")


def _check(listing: str, payload: bytes) -> bytes:
    return hashlib.sha256(listing.encode() + b"\0" + payload).digest()[:_CHECK_BYTES]
