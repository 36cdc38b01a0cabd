"""Reach counts by consent as the planner does: the same statements, the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from random import Random

import pytest
from pyroaring import BitMap

from chassis.consents import OPT_IN, OPT_OUT, SEPARATE
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.orchestrator.store.consents import ConsentStore, Statement
from services.tags.audiences.consents import Listed, listed
from services.tags.audiences.previewing import CHANNELS
from services.tags.consents import NO_END, PURPOSES, Said, keep
from services.tags.domain.catalogue import Kind
from tests.integration.tags.world import changed, erasure, event, move, moved, resolved

NOW = 1_000
BITS = {channel: 1 << place for place, channel in enumerate(CHANNELS)}
PERSONS = range(1, 9)


@pytest.fixture
async def planner(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("orchestrator") as database:
        yield database


def statements(random: Random) -> list[Said]:
    return [
        Said(
            10 * (person := random.choice(PERSONS)) + random.randint(0, 1),
            person,
            random.choice(sorted(PURPOSES)),
            random.choice((*CHANNELS, "all", "sms")),
            random.random() < 0.5,
            random.random() < 0.6,
            random.randint(1, 9),
            random.choice((NO_END, NO_END, NOW - 1, NOW + 1)),
        )
        for _ in range(40)
    ]


def allowed(found: Mapping[str, Listed], everybody: BitMap) -> dict[str, list[int]]:
    return {
        channel: list(everybody & one.persons if one.is_allowed else everybody - one.persons) for channel, one in found.items()
    }


@pytest.mark.parametrize("seed", range(4))
async def test_reach_is_what_the_planner_would_allow(database: Database, planner: Database, seed: int) -> None:
    random = Random(seed)
    regimes = {
        use: random.choice((OPT_OUT, OPT_IN, SEPARATE))
        for use in ("marketing", "marketing/app", "marketing/wechat", "marketing/dealer", "dealer_sharing")
    }
    said = statements(random)
    async with planner.transaction() as uow:
        await ConsentStore(uow).keep([Statement(*each) for each in said])
        moment = datetime.fromtimestamp(NOW / 1e6, UTC)
        forbidden = await ConsentStore(uow).forbidden("marketing", BITS, regimes, moment)
    masks = dict(zip(forbidden.persons.tolist(), forbidden.masks.tolist(), strict=True))
    expected = {
        channel: [person for person in PERSONS if not masks.get(person, forbidden.others) & bit]
        for channel, bit in BITS.items()
    }
    # In another order, in parts, and twice.
    random.shuffle(said)
    for part in (said[:15], said[15:], said[:9]):
        async with database.transaction() as uow:
            await keep(uow, part)
    assert expected == allowed(await listed(database, regimes, CHANNELS, NOW), BitMap(PERSONS))


async def test_consent_goes_with_the_anchor_and_with_the_erased(database: Database) -> None:
    regimes = {"marketing/app": OPT_OUT, "marketing/wechat": OPT_OUT, "marketing/dealer": OPT_OUT, "dealer_sharing": OPT_OUT}
    await resolved(database, event(1, person=(11, 1, 1)), event(2, person=(12, 2, 1)))
    async with database.transaction() as uow:
        await keep(uow, [Said(11, 1, "marketing", "app", False, False, 5, NO_END)])
    assert BitMap([1]) == (await listed(database, regimes, CHANNELS, NOW))["app"].persons
    await moved(database, move(Kind.PERSON, (11, 2, 2)))
    assert BitMap([2]) == (await listed(database, regimes, CHANNELS, NOW))["app"].persons
    await moved(database, move(Kind.PERSON, (11, 1, 3)))
    assert BitMap([1]) == (await listed(database, regimes, CHANNELS, NOW))["app"].persons
    await changed(database, erasure(1, 11))
    async with database.transaction() as uow:
        await keep(uow, [Said(11, 1, "marketing", "app", False, False, 6, NO_END)])
    assert [] == list(await database.fetch("SELECT * FROM consent"))
