"""Doors in memory: whose token it is, from where it may come, and how often."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from chassis.db import Database
from chassis.errors import NotFound, ResourceExhausted, Unavailable, is_operational
from services.touchpoints.arrivals import store
from services.touchpoints.arrivals.store import Door, DoorRow

log = logging.getLogger(__name__)

REFRESH_S: Final = 2.0
MISS_REFRESH_S: Final = 0.25
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def hashed(token: str) -> bytes:
    """How a token is kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def network(text: str) -> Network:
    """An address, or a network with its length; raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def sender(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """Who sent it: the peer, unless that is a proxy that we trust; then the last one in its list that is not."""
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()] if forwarded else []
    at = peer
    while hops and _within(at, trusted):
        at = hops.pop()
    return at


def _within(address: str, networks: Sequence[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    plain = getattr(found, "ipv4_mapped", None) or found
    return any(plain in each for each in networks)


class Bucket:
    """So many posts a second, and twice as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._at = rate, 2 * rate, time.monotonic()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = time.monotonic()
        self._left = min(2 * self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Doors:
    """A copy of the table, at most REFRESH_S old while the database answers."""

    def __init__(self, database: Database, trusted_proxies: Sequence[str], rate: float) -> None:
        self._database, self._rate = database, rate
        self._trusted = [network(text) for text in trusted_proxies]
        self._by_token: dict[bytes, DoorRow] = {}
        self._networks: dict[str, tuple[Network, ...]] = {}
        self._buckets: dict[str, Bucket] = {}
        self._loaded_at = self._missed_at = float("-inf")

    async def of(self, token: str, peer: str, forwarded: str) -> Door:
        """The door of a token; raises NotFound alike for unknown tokens, shut doors and strange addresses."""
        hash_ = hashed(token)
        await self._refresh(hash_)
        row = self._by_token.get(hash_)
        if row is None or row.disabled_at is not None or not self._opens(row, hash_):
            raise _nowhere()
        door = row.door
        if door.networks and not _within(sender(peer, forwarded, self._trusted), self._networks[door.name]):
            log.warning("post from an address that is not the door's", extra={"door": door.name})
            raise _nowhere()
        bucket = self._buckets.setdefault(door.name, Bucket(self._rate))
        if not bucket.take():
            raise ResourceExhausted("too many posts at this door, try again", reason="TOO_MANY_POSTS")
        return door

    def forget(self) -> None:
        """Makes the next question read the table."""
        self._loaded_at = self._missed_at = float("-inf")

    def _opens(self, row: DoorRow, hash_: bytes) -> bool:
        if row.token_sha256 == hash_:
            return True
        return row.previous_until is not None and datetime.now(UTC) < row.previous_until

    async def _refresh(self, hash_: bytes) -> None:
        now = time.monotonic()
        fresh = now - self._loaded_at <= REFRESH_S
        # A door that was made a moment ago is looked for; strangers who guess must not make us read all the time.
        if fresh and (hash_ in self._by_token or now - self._missed_at <= MISS_REFRESH_S):
            return
        if fresh:
            self._missed_at = now
        try:
            async with self._database.read() as uow:
                rows = await store.doors(uow)
        except Exception as error:
            if not is_operational(error):
                raise
            if self._loaded_at == float("-inf"):
                raise Unavailable("doors cannot be read, try again") from error
            return
        self._by_token = {row.previous_sha256: row for row in rows if row.previous_sha256}
        self._by_token |= {row.token_sha256: row for row in rows}
        self._networks = {row.door.name: tuple(network(text) for text in row.door.networks) for row in rows}
        self._loaded_at = now


def _nowhere() -> NotFound:
    return NotFound("no such door", reason="DOOR_NOT_FOUND")
