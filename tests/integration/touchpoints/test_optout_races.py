"""Opt-outs that race with sending: 10,000 interleavings, statement by statement, of the SQL that runs in production.

Who wins is decided by the order of two moments: when the opt-out was accepted (its transaction committed) and when the sender
asked for consent, which it does last, after its attempts were committed. Whoever opted out before is never called; whoever did
after is: a sender that refused everybody would pass the first half alone.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from troika.identity.v1.events_pb2 import ConsentChange, EntitiesChanged

from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.touchpoints import events
from services.touchpoints.channels.contract import Push
from services.touchpoints.domain.deliveries import Channel, Delivery
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.engine import store
from services.touchpoints.engine.sender import refusals
from services.touchpoints.engine.store import Attempt
from services.touchpoints.store import consents, deliveries

INTERLEAVINGS, AT_ONCE, SENDERS, SPEAKERS = 10_000, 125, 2, 5
ENDPOINT = Endpoint("app", Channel.APP, "", "https://app.example/")
REGIMES = {"service": "opt_out"}


async def send(database: Database, pushes: Sequence[Push], sent: dict[int, int], clock: list[int]) -> AsyncIterator[None]:
    """What the sender does with pushes that were let through; `sent`: person to the moment of sending."""
    async with database.transaction() as uow:
        yield
        attempts = [Attempt(push.delivery.delivery_id, "app", push.anchor_id) for push in pushes]
        assert len(attempts) == len(await store.begin(uow, attempts, 30))
        yield
    yield
    asked = clock[0]
    refused = await refusals(database, pushes, REGIMES)
    sent.update({p.delivery.person_id: asked for p in pushes if p.delivery.delivery_id not in refused})


async def speak(database: Database, persons: Sequence[int], said: dict[int, int], clock: list[int]) -> AsyncIterator[None]:
    """Some people opt out, through identity's facts; `said`: person to the moment of acceptance."""
    changes = [ConsentChange(anchor_id=p, person_id=p, channel="app", opted_out=True, stated_at_us=1) for p in persons]
    facts = events.entity_facts(EntitiesChanged(consent_changes=changes).SerializeToString())
    async with database.transaction() as uow:
        yield
        await consents.save_consents(uow, facts.consents)
        yield
    said.update(dict.fromkeys(persons, clock[0]))


async def test_an_opt_out_accepted_before_the_instant_of_sending_always_wins(databases: DatabaseFactory) -> None:
    draw, now = random.Random(7), datetime.now(UTC)
    sent: dict[int, int] = {}
    said: dict[int, int] = {}
    clock = [0]
    async with databases.database("touchpoints") as database:
        for first in range(1, INTERLEAVINGS + 1, AT_ONCE):
            persons = list(range(first, first + AT_ONCE))
            pushes = [
                Push(
                    Delivery(
                        f"d{p}", "t", p, Channel.APP, (), "", "", "", "service", 0, 0, (), "", now, now + timedelta(1), now
                    ),
                    ENDPOINT,
                    f"u{p}",
                    p,
                )
                for p in persons
            ]  # fmt: skip
            async with database.transaction() as uow:
                await deliveries.add(uow, [push.delivery for push in pushes])
            draw.shuffle(persons)
            actors = [
                *(send(database, pushes[number::SENDERS], sent, clock) for number in range(SENDERS)),
                *(speak(database, persons[number::SPEAKERS], said, clock) for number in range(SPEAKERS)),
            ]
            while actors:
                # One statement of one of them at a time, and the clock stands still meanwhile.
                clock[0] += 1
                actor = draw.choice(actors)
                if await anext(actor, actors) is actors:
                    actors.remove(actor)
        kept = await database.fetch("SELECT count(*) AS n FROM consent WHERE withdrawn_us >= 0 AND purpose = 'service'")
    assert INTERLEAVINGS == len(said) == kept[0]["n"]
    late = {person for person, asked in sent.items() if asked > said[person]}
    assert not late
    # Nothing but an earlier opt-out stops a push, and both happen often.
    stopped = INTERLEAVINGS - len(sent)
    assert INTERLEAVINGS // 4 < stopped < INTERLEAVINGS * 3 // 4
