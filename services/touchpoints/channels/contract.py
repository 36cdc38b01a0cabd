"""What a channel must be able to do. One folder per channel; channels/table.py names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from chassis.db import Reader, UnitOfWork
from services.touchpoints.domain.deliveries import Change, Delivery, Outcome, State
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
    # What goes to a receiver about somebody, not to somebody: no address is asked for.
    direct: list[tuple[Delivery, Endpoint]] = field(default_factory=list)
    # Delivery id → seconds until it may go: neither an attempt nor anybody's fault.
    waits: dict[str, float] = field(default_factory=dict)
    # Delivery id → why there is nowhere to send it on this channel.
    unroutable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Push:
    """Everything one call needs."""

    delivery: Delivery
    endpoint: Endpoint
    address: str = field(repr=False)
    # The anchor in identity whose address it is.
    anchor_id: int = 0
    # What the channel's memory granted; of the channel's own kind.
    grant: Any = None


@dataclass(frozen=True)
class Denied:
    """The channel's memory says that this push cannot go (a snake_case reason): to the next channel, else it ends.

    As SENDING it goes no more, but what became of an earlier call may still be heard, for as long as the channel remembers.
    """

    reason: str
    state: State = State.SUPPRESSED


@dataclass(frozen=True)
class Settled:
    """A call that was made, what came of it, and what that makes of the push."""

    push: Push
    outcome: Outcome
    change: Change


class Memory(Protocol):
    """What a channel must remember from one push to the next (credits, windows), in tables of its own.

    Both run inside the engine's transactions and before it locks pushes, so that rows are always locked in that order.
    """

    async def take(self, uow: UnitOfWork, pushes: Sequence[Push]) -> Mapping[str, Any]:
        """By delivery id a grant, or Denied, for calls about to be made; commits with the note that they are.

        Asked again for the same push it must answer as before: the process may have died with the call.
        """

    async def settle(self, uow: UnitOfWork, settled: Sequence[Settled]) -> None:
        """Notes what came of calls; commits with their outcomes."""


class Channel(Protocol):
    """A way to reach people. It may be `Reconciles` and `Credited`, too."""

    # How long the provider recognises a repeat by its idempotency key, seconds; 0 for one that knows no keys: what may have
    # gone out there is not sent again.
    remembers_s: float

    @property
    def memory(self) -> Memory | None:
        """None for a channel that needs to remember nothing."""

    def forbids(self, delivery: Delivery) -> str:
        """Why the provider's rules forbid this push (a snake_case reason); empty when they do not."""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Where each push would go; `endpoints` are the enabled ones of this channel."""

    async def send(self, push: Push) -> Outcome:
        """Calls the provider once. Never raises for what the provider or the network does."""


@runtime_checkable
class Reconciles(Protocol):
    """A channel whose provider can be asked what became of a call that got no answer."""

    async def outcome(self, delivery: Delivery, endpoint: Endpoint) -> Outcome | None:
        """Accepted, Refused, or a Retry with `sent_perhaps` False when it never came there; None when nobody can say yet."""


@runtime_checkable
class Credited(Protocol):
    """A channel that may send only as often as people permitted it."""

    async def credits(self, reader: Reader) -> Mapping[str, int]:
        """Permissions that are left, by endpoint."""
