"""What a channel must be able to do. One folder per channel; the table in channels/__init__.py names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.touchpoints.domain.deliveries import Delivery, Outcome
from services.touchpoints.endpoints import Endpoint


@dataclass(frozen=True)
class Lookup:
    """One question to identity: addresses of a kind for the persons of these pushes, each with where it would go."""

    kind: str
    scope: str
    routes: tuple[tuple[Delivery, Endpoint], ...]


@dataclass
class Plan:
    """How a batch of pushes may be sent. Lookups are asked in order; the first address found for a push counts."""

    lookups: list[Lookup] = field(default_factory=list)
    # Delivery id → why there is nowhere to send it on this channel.
    unroutable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Push:
    """Everything one call needs."""

    delivery: Delivery
    endpoint: Endpoint
    address: str = field(repr=False)


class Channel(Protocol):
    """A way to reach people."""

    # How long the provider recognises a repeat by its idempotency key, seconds.
    remembers_s: float

    def forbids(self, delivery: Delivery) -> str:
        """Why the provider's rules forbid this push (a snake_case reason); empty when they do not."""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Where each push would go; `endpoints` are the enabled ones of this channel."""

    async def send(self, push: Push) -> Outcome:
        """Calls the provider once. Never raises for what the provider or the network does."""
