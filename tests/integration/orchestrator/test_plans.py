"""Hot statements keep their indexes: what runs per batch must not read a whole table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.arbiter.store import ArbiterStore, Due
from services.orchestrator.domain.channels import CONSENT_BITS
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.store.consents import ConsentStore
from services.orchestrator.store.decisions import DecisionStore
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

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        rows = await super().fetch(f"EXPLAIN {statement}", *values)
        self.plan += "\n".join(row[0] for row in rows)
        return []

    async def execute(self, statement: str, **parameters: Any) -> int:
        await self.rows(statement, **parameters)
        return 0


async def test_statements_of_every_batch_read_by_index(house: House) -> None:
    now = datetime.now(UTC)
    async with house.transaction() as uow:
        await uow.execute(
            "INSERT INTO decision (theme_id, person_id, occasion, outcome, reason, due_at, expires_at, value, delivery_id,"
            " decided_at) SELECT t, p, 0, CASE p % 3 WHEN 0 THEN 'push' WHEN 1 THEN 'deferred' ELSE 'budget' END, '',"
            " CASE WHEN p % 3 = 1 THEN now() - t * interval '1 hour' END, now() + interval '1 day', p,"
            " CASE WHEN p % 3 = 0 THEN t || '-' || p END, now() - t * interval '1 day'"
            " FROM generate_series(1, 40) t, generate_series(1, 1000) p"
        )
        for statement in (
            "INSERT INTO person_alias SELECT p, p + 1, p, now() FROM generate_series(1, 40000, 2) p",
            "INSERT INTO erased_anchor SELECT p, p, 1 FROM generate_series(100000, 120000) p",
            "INSERT INTO consent SELECT p, 'service', 'all', false, p, 1, -1, 1 FROM generate_series(1, 40000) p",
            "INSERT INTO anchor_owner SELECT p, p + 1, 1 FROM generate_series(1, 40000, 3) p",
            "INSERT INTO dealer_calls SELECT t, 'D' || d, current_date - d, 1 FROM generate_series(1, 40) t,"
            " generate_series(1, 200) d",
            "INSERT INTO spending SELECT t, current_date - d, 1, 1, 1 FROM generate_series(1, 400) t, generate_series(1, 30) d",
        ):
            await uow.execute(statement)
        for table in ("decision", "person_alias", "erased_anchor", "consent", "anchor_owner", "dealer_calls", "spending"):
            await uow.execute(f"ANALYZE {table}")
    async with house.transaction() as uow:
        plans: dict[str, str] = {}

        async def plan_of(name: str, call: Any) -> None:
            explained = Explained(uow)
            with suppress(IndexError):
                await call(explained)
            plans[name] = explained.plan

        theme, some, today = ThemeId(40), list(range(1, 500, 5)), now.date()
        due = [Due(person, 0, None, now, "") for person in some]
        record = (
            theme,
            1,
            0,
            1,
            "push",
            "",
            None,
            now,
            None,
            1,
            "app",
            1.0,
            0.1,
            0.1,
            1,
            1,
            0,
            1,
            0,
            0,
            0,
            0,
            "",
            "",
            "x",
            now,
        )
        await plan_of("families", lambda u: ArbiterStore(u).families(some))
        await plan_of("erased", lambda u: ArbiterStore(u).erased(some))
        await plan_of("pushed", lambda u: ArbiterStore(u).pushed(some, now - timedelta(days=7)))
        await plan_of("earlier", lambda u: ArbiterStore(u).earlier(theme, some))
        await plan_of("outranked", lambda u: ArbiterStore(u).outranked(some, [1, 2], now))
        await plan_of("spent", lambda u: ArbiterStore(u).spent(theme, today))
        await plan_of("dealers", lambda u: ArbiterStore(u).dealers(["D1", "D2"], theme, today))
        await plan_of("due", lambda u: ArbiterStore(u).due(theme, now, 100))
        await plan_of("still due", lambda u: ArbiterStore(u).due(theme, now, 100, some))
        await plan_of("drop", lambda u: ArbiterStore(u).drop(theme, due))
        await plan_of("settle", lambda u: ArbiterStore(u).settle([record]))
        await plan_of("decided", lambda u: ArbiterStore(u).decided(theme, 500, 100))
        await plan_of("updates", lambda u: ProjectionStore(u).update_deliveries([("40-3", 3, "", "", now)]))
        await plan_of("page", lambda u: DecisionStore(u).page(theme, (10, 0), 100))
        await plan_of("one", lambda u: DecisionStore(u).get(theme, PersonId(3), 0))
        regimes = {"service": "opt_out"}
        await plan_of("consents", lambda u: ConsentStore(u).forbidden("service", CONSENT_BITS, regimes, now, among=some))
    assert "ix_decision_pushed" in plans["pushed"]
    assert "ix_decision_" in plans["outranked"]
    assert "ix_decision_due" in plans["due"]
    assert "ix_decision_delivery_id" in plans["updates"]
    assert "ix_dealer_calls_dealer_code_day" in plans["dealers"]
    large = ("decision", "person_alias", "erased_anchor", "consent", "anchor_owner", "dealer_calls", "spending")
    read = [(name, table) for name, plan in plans.items() for table in large if f"Seq Scan on {table}" in plan]
    assert [] == read
