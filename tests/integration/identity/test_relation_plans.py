"""The statements behind relations read by index, however little the planner knows about the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chassis.db import UnitOfWork
from services.identity import announcements, entities, holders, households, inference, relations
from services.identity.domain.kinds import Space
from services.identity.domain.observations import Observation
from tests.integration.identity.world import NOW, World

TABLES = (
    "identifier",
    "link",
    "relation_evidence",
    "relation",
    "profile",
    "household_member",
    "household_suggestion",
    "device",
)


@pytest.fixture
async def full(world: World) -> World:
    """Four thousand owners of as many cars at as many addresses, each with a device, and no statistics."""
    async with world.database.transaction() as uow:
        await uow.execute("ALTER TABLE relation_evidence SET (autovacuum_enabled = off)")
        for first, kind, anchor, entity in ((0, 1, True, "i"), (10_000, 9, True, "i"), (20_000, 4, False, "0")):
            await uow.execute(
                "INSERT INTO identifier (id, kind, scope_id, token, sealed, subject_key_id, anchor, entity_id, born_id,"
                " component_id, version, person_guard, vehicle_guard, cleared, first_seen_us, last_seen_us)"
                f" SELECT {first} + i, {kind}, 0, int8send({first} + i), '', 1, {anchor}, {entity}, 0, i, 1, 0, 0, false, 0, 0"
                " FROM generate_series(1, 4000) AS i"
            )
        await uow.execute("INSERT INTO source (name) VALUES ('dealer:D001')")
        await uow.execute(
            "INSERT INTO relation_evidence SELECT i, 10000 + i, 1, 1, 670, 1, 1, 0, 0, 0 FROM generate_series(1, 4000) AS i"
        )
        await uow.execute(
            "INSERT INTO relation_evidence SELECT 10000 + i, 1, 12, 1, 670, 1, 1, 0, 0, 0 FROM generate_series(1, 4000) AS i"
        )
        await uow.execute("INSERT INTO profile SELECT i, 1, '', 0, i / 2 + 1, 0 FROM generate_series(1, 4000) AS i")
        await uow.execute("INSERT INTO link SELECT i, 20000 + i, 0, 1, 0, 0, 0, 1 FROM generate_series(1, 4000) AS i")
        await uow.execute("INSERT INTO device (identifier_id) SELECT 20000 + i FROM generate_series(1, 4000) AS i")
        await uow.execute("INSERT INTO relation SELECT 'owns', 1, i, 2, i, 0, 0, 0.9, true FROM generate_series(1, 20000) AS i")
        await uow.execute(
            "INSERT INTO household_suggestion (anchor_a, anchor_b, confidence, evidence, since_us, state, decided_by)"
            " SELECT i, i + 1, i / 4000.0, CAST(:evidence AS bytea), 0, 'pending', '' FROM generate_series(1, 3999) AS i",
            evidence=b'{"shared":[],"residents":2}',
        )
    return world


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the plan of each statement from now on."""
    found: list[str] = []
    run = UnitOfWork.fetch

    async def explained(self: UnitOfWork, statement: str, *values: Any) -> Sequence[Any]:
        found.append("\n".join(row[0] for row in await run(self, f"EXPLAIN {statement}", *values)))
        return await run(self, statement, *values)

    monkeypatch.setattr(UnitOfWork, "fetch", explained)
    return found


def scanned(plans: list[str]) -> list[str]:
    return [
        plan for plan in plans if any(f"Seq Scan on {table} " in plan or f"Seq Scan on {table}\n" in plan for table in TABLES)
    ]


@pytest.mark.parametrize("space", [Space.PERSON, Space.VEHICLE, Space.DEALER, Space.DEVICE])
async def test_an_entity_is_read_by_index(full: World, plans: list[str], space: Space) -> None:
    async with full.database.transaction() as uow:
        await uow.execute("INSERT INTO dealer (code, address) VALUES ('D001', 0)")
        found = await entities.read(uow, space, 1)
    assert found is not None
    assert plans and "" == "\n".join(scanned(plans))


async def test_holders_and_names_are_read_by_index(full: World, plans: list[str]) -> None:
    async with full.database.transaction() as uow:
        # The owner of a car and the person's dealer; tokens as the fixture makes them.
        await uow.execute("INSERT INTO relation_evidence VALUES (2, 1, 20, 1, 670, 1, 1, 0, 0, 0)")
        await uow.execute("DELETE FROM relation_evidence WHERE subject_id = 10002")
        found = await holders.find(uow, [[(10_000 + n).to_bytes(8)] for n in (1, 2, 3)])
        await uow.execute("UPDATE profile SET name = 1")
        await uow.execute("INSERT INTO subject_key (id, kek_id, wrapped) VALUES (1, 'k1', '')")
        named = await holders.names(uow, [1, 2, 3], "touchpoints", "dealer_contact")
    assert [(1, 1, 0), (2, 2, 1), (3, 3, 0)] == [(h.vehicle_id, h.person_id, h.advised_by) for h in found]
    assert [1, 2, 3] == [each.person_id for each in named]
    assert 3 == len(plans) and "" == "\n".join(scanned(plans))


async def test_a_chunk_of_inference_reads_by_index(full: World, plans: list[str]) -> None:
    async with full.database.transaction() as uow:
        await uow.execute("INSERT INTO inference_queue (anchor_id, left_id) SELECT i, 0 FROM generate_series(1, 50) AS i")
        await uow.execute(
            "INSERT INTO inference_queue (anchor_id, left_id) SELECT 10000 + i, 0 FROM generate_series(1, 50) AS i"
        )
    done = await inference.infer(full.database)
    assert (100, 50, 50) == (done.anchors, done.vehicles, done.persons)
    assert len(plans) > 8 and "" == "\n".join(scanned(plans))


async def test_evidence_is_counted_by_its_key(full: World, plans: list[str]) -> None:
    told = Observation(b"e" * 16, "dealer:D001", "Service Visit", NOW, NOW, (), (), "", 0, "owns", b"", b"", b"s")
    key = full.vault.known("vin", "", "LSVAA49J132047371")
    assert not isinstance(key, str)
    async with full.database.transaction() as uow:
        await relations.record(uow, [(told._replace(vehicles=(key,)), 1, 10_001)], [], {"dealer:D001": 1})
    assert any("Conflict Arbiter Indexes: pk_relation_evidence" in plan for plan in plans)
    assert "" == "\n".join(scanned(plans))


async def test_a_page_of_suggestions_is_read_from_its_index(full: World, plans: list[str]) -> None:
    async with full.database.read() as uow:
        page = await households.page(uow, "pending", (0.5, 0), 20)
    assert 20 == len(page)
    assert "ix_household_suggestion_state_confidence_id" in plans[0]
    assert "" == "\n".join(scanned(plans))


async def test_what_was_told_is_read_by_index(full: World, plans: list[str]) -> None:
    async with full.database.read() as uow:
        rows = await uow.fetch(announcements.TOLD, [1, 2, 3], [4, 5])
    assert 3 == len(rows)
    assert "" == "\n".join(scanned(plans))
