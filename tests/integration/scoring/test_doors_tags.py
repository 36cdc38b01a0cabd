"""Look-alikes by the real tags service: its bitmaps choose the tags, its streams bring the values."""

from __future__ import annotations

import numpy as np

from chassis.bus import Bus
from chassis.testing import DatabaseFactory
from services.scoring import consents, expanding
from services.scoring.consents import NO_END, Said
from services.tags import events
from tests.integration.scoring.test_point_in_time import PERSONS, Door, lives, told
from tests.integration.tags import world
from tests.integration.tags.audience_house import replica


async def test_look_alikes_of_who_said_yes_open_the_app_as_often(databases: DatabaseFactory, bus: Bus) -> None:
    everybody = lives()
    await bus.declare(*events.STREAMS)
    async with databases.database("tags") as tags, databases.database("scoring") as database:
        await world.resolved(tags, *told(everybody, backdated=False))
        async with replica(tags, bus) as house:
            await house.settled()
            door = Door(house.tags)
            seeds = {life.person for life in everybody if life.yes_at}
            for asked in (
                expanding.Asked((), "offer_answer = 'yes'", "", 1000, ()),
                expanding.Asked((), "offer_answer = 'yes'", "age > 0", 1000, ("age", "app_opens")),
            ):
                found = await expanding.expand(database, door, asked)
                assert sorted(set(range(1, PERSONS + 1)) - seeds) == sorted(found.persons.tolist())
                opens = np.array([len(everybody[person - 1].opens) for person in found.persons])
                tags_compared = {likeness.tag for likeness in found.likenesses}
                assert "offer_answer" not in tags_compared
                if asked.tags:
                    assert opens[:40].mean() > opens[-40:].mean() + 1
                because = await found.because(slice(0, 50))
                assert (50, 3) == because.shape and because.max() < len(found.likenesses)
            async with database.transaction() as uow:
                gone = int(found.persons[0])
                await consents.keep(uow, [Said(1, gone, False, 1, NO_END, 1)], [])
            after = await expanding.expand(database, door, asked)
            assert {gone} == set(found.persons.tolist()) - set(after.persons.tolist())
