"""What a provider of push notifications must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from services.touchpoints.channels.push.tokens import Dead, Token
from services.touchpoints.domain.deliveries import Accepted, Delivery, Outcome, Retry
from services.touchpoints.endpoints import Endpoint

# Providers keep what a phone cannot take now for four weeks at most.
LONGEST_LIFE_S = 28 * 86_400


@dataclass(frozen=True)
class Notification:
    """What a phone shows; `number` is the same on each retry."""

    number: str
    title: str
    body: str
    purpose: str
    life_s: int
    # What the app gets along: numbers and names, no text.
    extras: Mapping[str, str]

    @classmethod
    def of(cls, delivery: Delivery) -> Notification:
        """A push as phones take it."""
        left = (delivery.expires_at - datetime.now(UTC)).total_seconds()
        extras = {"touchpoint_id": delivery.delivery_id, "theme": delivery.theme, "offer": delivery.offer}
        life = max(60, min(round(left), LONGEST_LIFE_S))
        return cls(delivery.delivery_id, delivery.title, delivery.body, delivery.purpose, life, extras)


@dataclass(frozen=True)
class Told:
    """What came of one call, and of the tokens in it."""

    outcome: Outcome
    reached: Sequence[int] = ()
    dead: Sequence[Dead] = field(default_factory=tuple)


class Provider(Protocol):
    """Brings a notification to devices of one person."""

    def serves(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint holds what this provider needs."""

    async def send(self, endpoint: Endpoint, notification: Notification, tokens: Sequence[Token], call_id: str) -> Told:
        """Calls the provider, for all tokens; never raises for what it or the network does."""


def together(told: Sequence[Told]) -> Outcome:
    """One outcome of a person's devices: reached is whoever was reached on one, for once more would be twice on that."""
    outcomes = [each.outcome for each in told]
    for kind in (Accepted, Retry):
        if found := next((outcome for outcome in outcomes if isinstance(outcome, kind)), None):
            return found
    return outcomes[0]
