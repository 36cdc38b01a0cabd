"""One HTTP client for all channels: no redirects, bounded answers, and no way into our own network."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from services.touchpoints import webhooks
from services.touchpoints.domain.deliveries import Accepted, Outcome, Refused, Retry

MOST_CONNECTIONS = 512
# Providers answer in a few hundred bytes; more than this is not read.
MOST_ANSWER_BYTES = 64 * 1024
# The receiver says that this message will never do. 401, 403 and 404 are faults of set-up, which somebody will mend.
PERMANENT = {400, 413, 415, 422}
# Standard Webhooks: receivers keep ids as long as senders retry, four days at least.
REMEMBERS_S = 4 * 86_400.0
MOST_RETRY_AFTER_S = 6 * 3600
# Providers: somebody must mend the key or pay the bill, and nothing goes there meanwhile; and who asks for less without a time.
PAUSE_S, MINUTE_S = 300.0, 60.0
_NO_ADDRESS = "must be an absolute http or https address"
# Below 1024 live mail, shells and other services that must not be spoken to by way of us.
_WEB_PORTS = frozenset({443})
_NAT64, _COMPATIBLE = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96")


class ForbiddenAddress(OSError):
    """The endpoint's address lies in a network that pushes must not reach."""


class PublicOnly(AbstractResolver):
    """Resolves once and hands out public addresses only; aiohttp connects to exactly what it gets."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        """Asks `resolver`, the system's without any."""
        self._resolver = resolver or aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Raises ForbiddenAddress when any address is private: a name with both kinds is an attack, not a mistake."""
        found = await self._resolver.resolve(host, port, family)
        if any(not is_public(result["host"]) for result in found):
            raise ForbiddenAddress(f"{host} resolves to a private address")
        return found

    async def close(self) -> None:
        """Closes the inner resolver."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Whether an IP address is reachable for everybody: not loopback, private, link-local, metadata, multicast."""
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return False
    return all(one.is_global and not one.is_multicast and not one.is_reserved for one in (ip, *_inside(ip)))


def _inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that an IPv6 address stands for, and that a gateway would open a connection to."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64 or ip in _COMPATIBLE:
        found.append(ipaddress.IPv4Address(ip.packed[-4:]))
    return [one for one in found if one is not None]


@lru_cache(maxsize=1000)
def forbidden(url: str, allow_private: bool) -> str:
    """Why nothing may be pushed to an address; empty when it may. Names are checked again when they are resolved."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        # What we check and what is called must be one and the same, whichever client reads it.
        called = {URL(url).raw_host, httpx.URL(url).raw_host.decode("ascii").strip("[]")}
    except (ValueError, httpx.InvalidURL):
        return _NO_ADDRESS
    # The last part of a name has a letter; anything else is an address, in whichever base somebody wrote it.
    numeric = ":" in host or re.fullmatch("0x[0-9a-f]*|[0-9]*", host.rstrip(".").rsplit(".", 1)[-1])
    faults = [
        (parts.scheme not in ("http", "https") or not host, _NO_ADDRESS),
        (parts.username is not None or parts.password is not None, "must not carry credentials"),
        (called != {host} or not url.isprintable(), "must be written in plain ASCII"),
    ]
    if not allow_private:
        faults += [
            (parts.scheme != "https", "must be https"),
            (port is not None and port not in _WEB_PORTS and port < 1024, "must not name another service's port"),
            (bool(numeric) and not is_public(host), "must not be a private address"),
        ]
    return next((why for fault, why in faults if fault), "")


@dataclass(frozen=True)
class Answer:
    """What came back: status, Retry-After in seconds (0 when absent), body."""

    status: int
    after_s: float
    body: bytes

    def fields(self) -> dict[str, Any]:
        """The JSON object of the body; empty when it is none, for example a gateway's page."""
        try:
            given = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return given if isinstance(given, dict) else {}


class Caller:
    """Posts bodies and says what became of them."""

    def __init__(self, timeout_s: float, allow_private: bool) -> None:
        self._allow_private = allow_private
        # From the wish for a connection to the last byte of the answer.
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = None if self._allow_private else PublicOnly()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=30, resolver=resolver),
                # Otherwise cookies of one receiver would be kept, and sent to it again.
                cookie_jar=aiohttp.DummyCookieJar(),
                # An answer that asks for more memory than it has bytes is not wanted.
                auto_decompress=False,
                headers={"accept": "*/*", "accept-encoding": "identity", "user-agent": "troika"},
                timeout=self._timeout,
            )
        return self._session

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer | Retry | Refused:
        """One POST; a Retry when there was no whole answer, Refused when the address is forbidden."""
        return await self._call("POST", url, body, headers)

    async def get(self, url: str, headers: dict[str, str]) -> Answer | Retry | Refused:
        """One GET, likewise."""
        return await self._call("GET", url, b"", headers)

    async def _call(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> Answer | Retry | Refused:
        if forbidden(url, self._allow_private):
            return Refused("forbidden_address", mendable=True)
        try:
            async with self._open().request(method, url, data=body or None, headers=headers, allow_redirects=False) as response:
                received = b""
                async for chunk in response.content.iter_any():
                    received += chunk
                    if len(received) > MOST_ANSWER_BYTES:
                        break
                given = response.headers
                after = after_s(given["retry-after"], given.get("date", "")) if "retry-after" in given else 0.0
                return Answer(response.status, after, received)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Retry(_fault(error), faults_endpoint=True)

    async def webhook(self, url: str, secret: str, webhook_id: str, body: bytes) -> Outcome:
        """Posts a signed Standard Webhook and reads the answer by its rules."""
        answer = await self.post(url, body, webhooks.signed_headers(secret, webhook_id, body))
        return webhook_outcome(answer) if isinstance(answer, Answer) else answer

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()


def webhook_outcome(answer: Answer) -> Outcome:
    """CONVENTIONS 2: 2xx taken, 410 gone for good, some 4xx never, everything else (redirects too) again later."""
    if 200 <= answer.status < 300:
        return Accepted()
    if answer.status == 410:
        return Refused("endpoint_gone", disables_endpoint=True, mendable=True)
    if answer.status in PERMANENT:
        return Refused(f"http_{answer.status}", mendable=True)
    throttles = answer.status == 429
    return Retry(f"http_{answer.status}", answer.after_s, faults_endpoint=not throttles, throttles=throttles)


def after_s(value: str, date: str) -> float:
    """Seconds that a Retry-After asks for, 0 for none; a moment counts from the answer's own `date`, whose clock it is by."""
    if value.isascii() and value.isdigit():
        return float(min(int(value), MOST_RETRY_AFTER_S)) if len(value) < 9 else float(MOST_RETRY_AFTER_S)
    until, now = _moment(value), _moment(date) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), float(MOST_RETRY_AFTER_S)) if until else 0.0


def _moment(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value) if value else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


def _fault(error: Exception) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "connection_failed"
