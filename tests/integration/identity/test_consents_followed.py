"""Consents and merges on the bus: whoever follows it, in any order, closes what identity's own ledger closes."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from chassis.bus import Message
from chassis.consents import DEFAULT_REGIMES, OPT_OUT, regime, uses
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.identity import consents, stewardship
from services.identity.domain.consents import State, of_person
from services.identity.stewardship import MergeOrder
from services.orchestrator.consumers import follow_entities
from services.orchestrator.domain.channels import CHANNEL_BITS, CONSENT_BITS
from services.orchestrator.store.consents import ConsentStore
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.handlers import follow_entities as follow_in_touchpoints
from services.touchpoints.store.consents import Asked, forbidden
from tests.integration.identity.world import NOW, World
from tests.integration.touchpoints.dealers import NOTICES

RECORDS = 30
STEPS = 70
REGIMES = dict(DEFAULT_REGIMES) | {"service": "opt_in", "dealer_sharing": "separate"}
ENDS = ("2026-03-02T00:00:00Z", "2999-01-01T00:00:00Z", None)
REACHED = tuple(Channel[name.upper()] for name in CHANNEL_BITS)


class Life:
    """Records that come, speak, are merged and taken apart again."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.draw = world, random.Random(seed)
        self.told: list[bytes] = []
        self.merges: list[str] = []

    async def live(self) -> None:
        for step in range(STEPS):
            await self.draw.choice([*[self.speak] * 5, self.merge, self.part])(step)
        rows = await self.world.rows("SELECT payload FROM outbox WHERE subject = 'troika.entities.changed.v1'")
        self.told = [row.payload for row in rows]

    async def speak(self, step: int) -> None:
        draw = self.draw
        number = draw.randint(1, RECORDS)
        # A few numbers among many records: some are merged by evidence alone.
        who = ("app", ("crm_id", "app", f"U{number}"), ("mobile", f"139123456{10 + number % 25}"))
        name = draw.choice(["Unsubscribed", *["Consent Given"] * 4, "Consent Withdrawn"])
        said = {
            "channel": draw.choice(["app", "wechat", "dealer", "sms", "phone", "all"]),
            "purpose": draw.choice(["marketing", "service", "dealer_sharing"]),
            "kind": draw.choice(["general", "separate"]),
            "expires_at": draw.choice(ENDS),
        }
        await self.world.see((*who, {"name": name, "at": NOW - draw.randint(1, 20), "properties": said}))

    async def persons(self) -> list[int]:
        rows = await self.world.rows("SELECT DISTINCT entity_id FROM identifier WHERE anchor ORDER BY 1")
        return [row.entity_id for row in rows]

    async def merge(self, step: int) -> None:
        persons = await self.persons()
        if len(persons) < 2:
            return
        target, source = self.draw.sample(persons, 2)
        async with self.world.database.transaction() as uow:
            order = MergeOrder(f"op{step}", target, [source], 100, "", "operator")
            merged = await stewardship.merge_persons(uow, self.world.store, order)
        if merged.outcomes[0].outcome == stewardship.MERGED:
            self.merges.append(f"op{step}")

    async def part(self, step: int) -> None:
        if self.merges:
            merge = self.merges.pop(self.draw.randrange(len(self.merges)))
            async with self.world.database.transaction() as uow:
                await stewardship.unmerge(uow, self.world.store, merge, "", "operator", False)

    def batches(self) -> list[list[bytes]]:
        """What was told, each message once or twice, in any order, in batches of any size."""
        messages = [m for m in self.told for _ in range(self.draw.randint(1, 2))]
        self.draw.shuffle(messages)
        size = self.draw.randint(1, 9)
        return [messages[start : start + size] for start in range(0, len(messages), size)]


async def closed(world: World, person: int, purpose: str, now_us: int) -> set[str]:
    """Channels that the ledger itself closes for a person."""
    async with world.database.read() as uow:
        lines = await consents.counting(uow, await consents.anchors_of(uow, person))
    said = [line.statement for line in lines.values()]
    found = set()
    for channel in REACHED:
        asked = channel.consent_channel
        for use in uses(purpose, asked):
            state = of_person(said, use, asked, now_us).state
            if state is State.WITHDRAWN or (regime(REGIMES, use, asked) != OPT_OUT and state is not State.GIVEN):
                found.add(channel.label)
    return found


async def follow(database: Database, handle: Any, batches: Sequence[Sequence[bytes]]) -> None:
    for batch in batches:
        async with database.transaction() as uow:
            await handle(uow, batch)


async def orchestrator_hears(uow: Any, payloads: Sequence[bytes]) -> None:
    await follow_entities(uow, [Message(str(i), "s", payload, {}, i) for i, payload in enumerate(payloads)])


async def touchpoints_hears(uow: Any, payloads: Sequence[bytes]) -> None:
    await follow_in_touchpoints(uow, payloads, NOTICES)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_sender_and_planner_close_what_the_ledger_closes(world: World, databases: DatabaseFactory, seed: int) -> None:
    life = Life(world, seed)
    await life.live()
    assert 0 < (await world.rows("SELECT count(*) AS n FROM ledger WHERE operation = 'merge'"))[0].n
    assert 0 < (await world.rows("SELECT count(*) AS n FROM ledger WHERE operation = 'split'"))[0].n
    persons, now_us = await life.persons(), time.time_ns() // 1000
    expected = {(p, purpose): await closed(world, p, purpose, now_us) for p in persons for purpose in ("marketing", "service")}
    assert len(set(map(frozenset, expected.values()))) > 2
    async with databases.database("touchpoints") as sender, databases.database("orchestrator") as planner:
        await follow(sender, touchpoints_hears, life.batches())
        await follow(planner, orchestrator_hears, life.batches())
        pushes = [Asked(f"{p} {purpose} {c.label}", p, 0, purpose, c) for p, purpose in expected for c in REACHED]
        async with sender.read() as uow:
            stopped = await forbidden(uow, pushes, REGIMES)
        by_sender = {
            (p, purpose): {c.label for c in REACHED if f"{p} {purpose} {c.label}" in stopped} for p, purpose in expected
        }
        by_planner = {}
        async with planner.read() as uow:
            for purpose in ("marketing", "service"):
                found = await ConsentStore(uow).forbidden(purpose, CONSENT_BITS, REGIMES, datetime.now(UTC))
                masks = dict(zip(found.persons.tolist(), found.masks.tolist(), strict=True))
                for p in persons:
                    mask = masks.get(p, found.others)
                    by_planner[p, purpose] = {label for label, bit in CHANNEL_BITS.items() if mask & bit}
    assert expected == by_sender
    assert expected == by_planner
