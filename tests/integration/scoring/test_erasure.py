"""Erased persons have no score, and whatever comes late gives them none."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from troika.identity.v1.events_pb2 import EntitiesChanged, Erasure

from chassis.bus import Message
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.scoring import consumers, events, store
from services.scoring.domain import PersonScore
from services.scoring.learning.cut import Trained
from tests.integration.scoring.conftest import MODEL, World, eventually, store_version
from tests.integration.scoring.test_loop import changed


async def erase(database: Database, *persons: int) -> None:
    changed = EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=p, anchor_ids=[p + 100]) for p in persons])
    bad = Message("bad", events.ENTITIES_CHANGED, b"\xff\xff", {}, 1)
    async with database.transaction() as uow:
        await consumers.entities_changed().handle(
            uow, [bad, Message("e", events.ENTITIES_CHANGED, changed.SerializeToString(), {}, 2)]
        )


async def in_use(database: Database) -> None:
    """Puts a version in use, of which only the number matters here."""
    version = await store_version(database, b"")
    async with database.transaction() as uow:
        assert await store.put_in_use(uow, MODEL, version)


async def write(database: Database, hold: Any = None) -> None:
    """Scores persons 5 and 6 and queues both."""
    async with database.transaction() as uow:
        await store.write_scores(uow, MODEL, 1, [PersonScore(5, 500.0, 0.1), PersonScore(6, 600.0, 0.2)], datetime.now(UTC))
        await store.look_again(uow, MODEL, [5, 6], 60)
        if hold:
            await hold()


async def known(database: Database) -> tuple[list[int], list[int]]:
    """Persons with a score, persons in the queue."""
    async with database.read() as uow:
        scores = await uow.rows("SELECT person_id FROM score ORDER BY 1")
        queue = await uow.rows("SELECT person_id FROM rescore ORDER BY 1")
    return [row.person_id for row in scores], [row.person_id for row in queue]


async def test_an_erased_persons_scores_go_and_stay_away(databases: DatabaseFactory) -> None:
    async with databases.database("scoring") as database:
        await in_use(database)
        await write(database)
        assert ([5, 6], [5, 6]) == await known(database)
        for _ in range(2):
            await erase(database, 5)
            assert ([6], [6]) == await known(database)
            await write(database)
            assert ([6], [6]) == await known(database)
        async with database.read() as uow:
            [row] = await uow.rows("SELECT DISTINCT headers ->> 'troika-reason' AS reason FROM outbox")
        assert "NOT_AN_ENTITIES_CHANGED" == row.reason


async def test_a_score_under_way_is_waited_for_and_goes_too(databases: DatabaseFactory) -> None:
    async with databases.database("scoring") as database:
        await in_use(database)
        tasks = []

        async def erase_meanwhile() -> None:
            tasks.append(asyncio.create_task(erase(database, 5)))
            await asyncio.sleep(0.2)
            assert not tasks[0].done()

        await write(database, erase_meanwhile)
        await tasks[0]
        assert ([6], [6]) == await known(database)


async def test_neither_changed_tags_nor_a_training_scores_an_erased_person(world: World, fitted: Trained) -> None:
    person, other = sorted(world.tags.persons)[:2]
    await erase(world.database, person)
    await world.adopt(fitted)
    assert [-1.0, True] == [score if score < 0 else True for score in await world.scores(person, other)]
    before = (await world.scores(other))[0]
    strong = {"previous_outcome": "success", "pdays": 3.0, "nr_employed": 4963.6, "euribor3m": 0.7}
    await world.bus.publish_all([changed(person, **strong), changed(other, **strong)])

    async def rose() -> bool:
        return (await world.scores(other))[0] > before

    await eventually(rose)
    assert [-1.0] == await world.scores(person)
    assert person not in {score.person_id for _, score in world.published}
