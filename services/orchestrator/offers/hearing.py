"""What came of shown offers, as events tell it: those that name a decision in their property `decision`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from troika.identity.v1 import events_pb2 as identity_pb2

from chassis.bus import Consumer, Message, parsed
from chassis.db import UnitOfWork
from services.orchestrator.events import EVENTS_RESOLVED
from services.orchestrator.offers.deciding import EARLY_S, NAME
from services.orchestrator.offers.offer_log import OUTCOMES, OfferLog, Said
from services.orchestrator.store.holding import hold_off_erasures

# Only messages with these bytes are worth parsing.
MARK: Final = NAME.encode()
FEEDBACK: Final = "orchestrator-offers"
_OUTCOMES: Final = {"Push Opened": "opened", "Offer Opened": "opened", "Offer Clicked": "clicked", "Offer Answered": "answered"}


class Hearing:
    """Collects one batch; `successes` are the outcomes that make a shown offer a success."""

    def __init__(self, successes: Collection[str]) -> None:
        self._successes = successes
        self._said: list[Said] = []

    def take(self, name: str, person_id: int, at: datetime, properties: Mapping[str, Any]) -> None:
        """Notes what an event says of a decision, if it does; raises ValueError for a decision that cannot be one."""
        outcome, decision = _OUTCOMES.get(name), properties.get("decision")
        if outcome is None or not isinstance(decision, str) or not decision.startswith(NAME):
            return
        if outcome == "answered" and properties.get("answer") not in ("yes", True):
            outcome = "declined"
        decision_id = bytes.fromhex(decision.removeprefix(NAME))
        if len(decision_id) != 16:
            raise ValueError("no decision has such a name")
        self._said.append(Said(decision_id, OUTCOMES.index(outcome), outcome in self._successes, at, person_id))

    async def keep(self, uow: UnitOfWork) -> None:
        """Stores what was noted; what no decision of that person fits is left out."""
        if self._said:
            await hold_off_erasures(uow)
            await OfferLog(uow).record(self._said, EARLY_S)


def consumer(successes: Collection[str]) -> Consumer:
    """The consumer of what comes of shown offers."""

    async def hear(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await keep_feedback(uow, messages, successes)

    return Consumer(FEEDBACK, EVENTS_RESOLVED, hear, batch=64)


async def keep_feedback(uow: UnitOfWork, messages: Sequence[Message], successes: Collection[str], /) -> None:
    """Stores what events say of decisions; most messages say nothing and are not even parsed."""
    hearing = Hearing(successes)
    for message in messages:
        if MARK not in message.data:
            continue
        if (batch := parsed(uow, FEEDBACK, message, identity_pb2.ResolvedBatch)) is None:
            continue
        for event in batch.events:
            if MARK not in event.properties_json:
                continue
            try:
                at = datetime.fromtimestamp(event.occurred_at_us / 1e6, UTC)
                hearing.take(event.name, event.person.entity_id, at, orjson.loads(event.properties_json))
            except (orjson.JSONDecodeError, AttributeError, OverflowError, ValueError):
                alone = identity_pb2.ResolvedBatch(events=[event])
                uow.dead_letter(FEEDBACK, EVENTS_RESOLVED, alone.SerializeToString(), "INVALID_EVENT")
    await hearing.keep(uow)
