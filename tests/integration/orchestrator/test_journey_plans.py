"""Statements that run per batch read by index, however many are enrolled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import pytest

from chassis.db import UnitOfWork
from chassis.testing import DatabaseFactory
from services.orchestrator.journeys.enrolments import EnrolmentStore, Entrant
from services.orchestrator.journeys.forgetting import forget
from services.orchestrator.journeys.store import JourneyStore
from tests.integration.orchestrator.journey_world import World, open_world


@pytest.fixture
async def world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with open_world(databases) as opened:
        yield opened


class Explained(UnitOfWork):
    """Runs every statement as EXPLAIN and keeps what PostgreSQL says it would do."""

    def __init__(self, uow: UnitOfWork) -> None:
        super().__init__(uow.connection)
        self.plan = ""

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        self.plan += "\n".join(row[0] for row in await super().rows(f"EXPLAIN {statement}", **parameters))
        return []

    async def execute(self, statement: str, **parameters: Any) -> int:
        await self.rows(statement, **parameters)
        return 0

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        self.plan += "\n".join(row[0] for row in await super().fetch(f"EXPLAIN {statement}", *values))
        return []


async def test_statements_of_every_batch_read_by_index(world: World) -> None:
    async with world.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO enrolment (journey_id, version, person_id, present_id, object, step, visit, phase, due_at, since_at,"
            " entered_at, arrived_at, ended_at, end_reason) SELECT 1 + p % 4, 1, p, p, '', 0, 0, 1,"
            " now() + p * interval '1 minute', now(), now(), now(), CASE WHEN p % 3 = 0 THEN now() END, ''"
            " FROM generate_series(1, 40000) p"
        )
        await uow.execute(
            "INSERT INTO journey_passage (enrolment_id, visit, version, step, outcome, left_at)"
            " SELECT e, v, 1, 0, 'waited', now() FROM generate_series(1, 20000) e, generate_series(0, 2) v"
        )
        await uow.execute("INSERT INTO journey_side SELECT 1, p, 0, 0 FROM generate_series(1, 40000) p")
        await uow.execute("INSERT INTO journey (state, version, salt) SELECT 4, 1, '' FROM generate_series(1, 4)")
        for table in ("enrolment", "journey_passage", "journey_side", "journey"):
            await uow.execute(f"ANALYZE {table}")
    now: datetime = world.clock.now
    plans: dict[str, str] = {}
    async with world.database.transaction() as uow:

        async def plan_of(name: str, call: Any) -> None:
            explained = Explained(uow)
            await call(explained)
            plans[name] = explained.plan

        columns = [[7], [1], [1], [1], [1], [now], [""]]
        entrants = [Entrant(1, 1, 7, "", 0, now)]
        await plan_of("due", lambda u: EnrolmentStore(u).with_due(now))
        await plan_of("claim", lambda u: EnrolmentStore(u).claim(1, now, 1000))
        await plan_of("again", lambda u: EnrolmentStore(u).again(1, 1, [7], [0]))
        await plan_of("persons", lambda u: EnrolmentStore(u).of_persons([7, 8]))
        await plan_of("move", lambda u: EnrolmentStore(u).move(columns, now))
        await plan_of("enter", lambda u: EnrolmentStore(u).enter(entrants, now))
        await plan_of("follow", lambda u: EnrolmentStore(u).follow([7, 8], now))
        await plan_of("forget", lambda u: forget(u, [7]))
        await plan_of("cross", lambda u: JourneyStore(u).cross(1, [(7, True, 1)], True))
    assert "ix_enrolment_due" in plans["due"] and "ix_enrolment_due" in plans["claim"]
    assert "ix_enrolment_present_id" in plans["persons"] and "ix_enrolment_present_id" in plans["follow"]
    assert "pk_enrolment" in plans["again"] and "pk_enrolment" in plans["move"]
    for table in ("enrolment", "journey_passage", "journey_side"):
        assert [] == [name for name, plan in plans.items() if f"Seq Scan on {table}" in plan]
