"""Who carries short messages. Another provider is one class here and one line in PROVIDERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.touchpoints.channels import gateway
from services.touchpoints.channels.http import Caller
from services.touchpoints.domain.deliveries import Outcome
from services.touchpoints.endpoints import Endpoint


@dataclass(frozen=True)
class Message:
    """One short message; `number` is the same on each retry."""

    number: str
    mobile: str = field(repr=False)
    text: str = field(repr=False)
    purpose: str
    segments: int


class Provider(Protocol):
    """Carries one message."""

    async def send(self, endpoint: Endpoint, message: Message) -> tuple[Outcome, int | None]:
        """Calls the provider once; never raises for what it or the network does. With it the parts that are still paid for,
        where it tells."""


class HttpProvider:
    """Our own contract with gateways (channels/gateway.py)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def send(self, endpoint: Endpoint, message: Message) -> tuple[Outcome, int | None]:
        """See Provider."""
        body = {
            "number": message.number,
            "mobile": message.mobile,
            "text": message.text,
            "purpose": message.purpose,
            "segments": message.segments,
        }
        return await gateway.post(self._caller, endpoint.url, endpoint.secrets["api_key"], message.number, body)


PROVIDERS: Mapping[str, Callable[[Caller], Provider]] = {"http": HttpProvider}
