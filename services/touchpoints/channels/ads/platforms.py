"""Advertising platforms. Another one is one class here and one line in PLATFORMS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from services.touchpoints.channels import gateway
from services.touchpoints.channels.http import Caller
from services.touchpoints.domain.deliveries import Outcome
from services.touchpoints.endpoints import Endpoint

ADD, REMOVE = "add", "remove"


class Member(NamedTuple):
    """An identifier's hash as identity made it: `kind` mobile, email or device, lower-case hexadecimal."""

    kind: str
    hash: str


@dataclass(frozen=True)
class Conversion:
    """What somebody did who had clicked; `number` is the same on each retry."""

    number: str
    click_id: str
    event: str
    at: datetime


class Platform(Protocol):
    """Keeps lists of hashes, and hears of conversions. Never raises for what it or the network does."""

    async def change(
        self, endpoint: Endpoint, audience: str, operation: str, number: str, members: Sequence[Member]
    ) -> Outcome:
        """Adds members to a list or removes them; who is there already, or is not, changes nothing."""

    async def convert(self, endpoint: Endpoint, conversion: Conversion) -> Outcome:
        """Tells of a conversion."""


class HttpPlatform:
    """Our own contract: POST /audiences/{list}/members and POST /conversions below the endpoint's address."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def change(
        self, endpoint: Endpoint, audience: str, operation: str, number: str, members: Sequence[Member]
    ) -> Outcome:
        """See Platform."""
        body = {
            "number": number,
            "operation": operation,
            "digest": endpoint.settings.get("digest", "sha256"),
            "members": [{"kind": member.kind, "hash": member.hash} for member in members],
        }
        return await self._post(endpoint, f"/audiences/{audience}/members", number, body)

    async def convert(self, endpoint: Endpoint, conversion: Conversion) -> Outcome:
        """See Platform."""
        body = {
            "number": conversion.number,
            "click_id": conversion.click_id,
            "event": conversion.event,
            "occurred_at": conversion.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        return await self._post(endpoint, "/conversions", conversion.number, body)

    async def _post(self, endpoint: Endpoint, path: str, number: str, body: Mapping[str, object]) -> Outcome:
        url = endpoint.url.rstrip("/") + path
        outcome, _ = await gateway.post(self._caller, url, endpoint.secrets["api_key"], number, body)
        return outcome


PLATFORMS: Mapping[str, Callable[[Caller], Platform]] = {"http": HttpPlatform}


def platforms(caller: Caller) -> dict[str, Platform]:
    """All of them, by name."""
    return {name: make(caller) for name, make in PLATFORMS.items()}


def named(found: Mapping[str, Platform], endpoint: Endpoint) -> Platform:
    """The platform of an endpoint."""
    return found[endpoint.settings.get("platform", "http")]
