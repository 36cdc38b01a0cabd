"""Hot statements keep their indexes: what runs per batch must not read a whole table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.store.decisions import DecisionStore
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.store.projections import ProjectionStore
from tests.integration.orchestrator.conftest import House


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


async def test_statements_of_every_batch_read_by_index(house: House) -> None:
    now = datetime.now(UTC)
    async with house.transaction() as uow:
        await uow.execute(
            "INSERT INTO decision SELECT t, p, CASE WHEN p % 3 = 0 THEN 'push' ELSE 'budget' END, 'app', 500, 0.1, p, 0, 1, 0,"
            " 0, '', CASE WHEN p % 3 = 0 THEN t || '-' || p END, now() - t * interval '1 day', CASE WHEN t < 40 THEN now() END"
            " FROM generate_series(1, 40) t, generate_series(1, 1000) p"
        )
        await uow.execute(
            "INSERT INTO person_alias SELECT p, p + 1, p, now() - interval '1 day' FROM generate_series(1, 20000) p"
        )
        await uow.execute("INSERT INTO launch SELECT t, NULL, now(), 3, '', now(), now() FROM generate_series(1, 40) t")
        for table in ("decision", "person_alias", "launch"):
            await uow.execute(f"ANALYZE {table}")
    async with house.transaction() as uow:
        plans: dict[str, str] = {}

        async def plan_of(name: str, call: Any) -> None:
            explained = Explained(uow)
            await call(explained)
            plans[name] = explained.plan

        theme = ThemeId(40)
        await plan_of("hand_over", lambda u: LaunchStore(u).hand_over(theme, 500, now))
        await plan_of("merged", lambda u: LaunchStore(u).merged_since_plan(theme))
        await plan_of("updates", lambda u: ProjectionStore(u).update_deliveries([("40-3", 3, "", "", now)]))
        await plan_of("lately", lambda u: ProjectionStore(u).pushed_since(now - timedelta(days=1)))
        await plan_of("page", lambda u: DecisionStore(u).page(theme, 10, 100))
        await plan_of("one", lambda u: DecisionStore(u).get(theme, PersonId(3)))
    assert "ix_decision_to_hand_over" in plans["hand_over"]
    assert "ix_person_alias_changed_at" in plans["merged"]
    assert "ix_decision_delivery_id" in plans["updates"]
    assert "ix_decision_pushed_lately" in plans["lately"]
    assert "pk_decision" in plans["page"] and "pk_decision" in plans["one"]
    assert [] == [name for name, plan in plans.items() if "Seq Scan on decision" in plan]
