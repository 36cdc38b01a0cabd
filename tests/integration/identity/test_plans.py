"""The statements that every batch runs read by index, however little the planner knows about the tables."""

from __future__ import annotations

from typing import Any

import pytest

from chassis.db import UnitOfWork
from services.identity import graph_store
from services.identity.domain.kinds import Space
from tests.integration.identity.world import World


async def plans(uow: UnitOfWork, monkeypatch: pytest.MonkeyPatch, table: str) -> list[str]:
    """Collects the plan of each statement over `table` from now on."""
    found: list[str] = []
    run = UnitOfWork.rows

    async def explained(self: UnitOfWork, statement: str, **parameters: Any) -> Any:
        if table in statement:
            found.append("\n".join(row[0] for row in await run(self, f"EXPLAIN {statement}", **parameters)))
        return await run(self, statement, **parameters)

    monkeypatch.setattr(UnitOfWork, "rows", explained)
    return found


@pytest.fixture
async def full(world: World) -> World:
    """Ten thousand claims of five thousand people, and no statistics."""
    async with world.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO identifier (id, kind, scope, token, sealed, anchor, entity_id, version, person_guard, vehicle_guard,"
            " first_seen_us, last_seen_us) SELECT i, 1 + i % 2 * 5, '', decode(lpad(to_hex(i), 32, '0'), 'hex'), '', i % 2 = 0,"
            " i / 2, 1, 0, 0, 0, 0 FROM generate_series(1, 20000) AS i"
        )
        await uow.execute(
            "INSERT INTO link (space, anchor_id, value_id, name_token, source_id, sealed_name, first_seen_us, last_seen_us,"
            " observations) SELECT 1, i, i + 1, '', 1, '', 0, 0, 1 FROM generate_series(2, 19998, 2) AS i"
        )
        await uow.execute(
            "INSERT INTO claim (signature, person_anchor, vehicle_anchor, last_seen_us)"
            " SELECT decode(lpad(to_hex(i), 32, '0'), 'hex'), i, 0, 0 FROM generate_series(2, 20000, 2) AS i"
        )
    return world


async def test_a_known_claim_is_found_by_its_index(full: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with full.database.transaction() as uow:
        found = await plans(uow, monkeypatch, "claim")
        claims = await full.store.claims(uow, [number.to_bytes(16) for number in range(2, 22)])
    assert 10 == len(claims)
    assert ["pk_claim" in plan and "Seq Scan on claim" not in plan for plan in found] == [True]


async def test_a_neighbourhood_is_walked_by_index(full: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with full.database.transaction() as uow:
        found = await plans(uow, monkeypatch, "link")
        near = await graph_store.neighbourhood(uow, Space.PERSON, list(range(2, 1002, 2)))
    assert 1000 == len(near.nodes)
    assert 2 == len(found)
    for plan in found:
        assert "pk_link" in plan
        assert "Seq Scan on link" not in plan and "Seq Scan on identifier" not in plan
