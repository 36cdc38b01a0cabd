"""The statements that every batch runs read by index, however little the planner knows about the tables."""

from __future__ import annotations

from typing import Any

import pytest

from chassis.db import UnitOfWork
from services.identity import graph_store, neighbourhoods
from services.identity.store import CLAIMS
from tests.integration.identity.world import World


async def plan(uow: UnitOfWork, statement: str, *values: Any) -> str:
    """The plan of a statement that the driver runs."""
    return "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {statement}", *values))


@pytest.fixture
async def full(world: World) -> World:
    """Ten thousand claims of ten thousand people, each with a record and a phone, and no statistics."""
    async with world.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO identifier (id, kind, scope_id, token, sealed, subject_key_id, anchor, entity_id, born_id,"
            " component_id, version, person_guard, vehicle_guard, cleared, first_seen_us, last_seen_us)"
            " SELECT i, 1 + i % 2 * 5, 0, decode(lpad(to_hex(i), 32, '0'), 'hex'), '', i, i % 2 = 0,"
            " i / 2, i / 2, i / 2, 1, 0, 0, false, 0, 0 FROM generate_series(1, 20000) AS i"
        )
        await uow.execute(
            "INSERT INTO link (anchor_id, value_id, name, source_id, strength, first_seen_us, last_seen_us, observations)"
            " SELECT i, i + 1, 0, 1, 0, 0, 0, 1 FROM generate_series(2, 19998, 2) AS i"
        )
        await uow.execute(
            "INSERT INTO claim (signature, person_anchor, vehicle_anchor, last_seen_us)"
            " SELECT decode(lpad(to_hex(i), 32, '0'), 'hex'), i, 0, 0 FROM generate_series(2, 20000, 2) AS i"
        )
    return world


def token(number: int) -> bytes:
    return number.to_bytes(16)


async def test_a_known_claim_is_found_by_its_index(full: World) -> None:
    async with full.database.transaction() as uow:
        claims = await full.store.claims(uow, [token(number) for number in range(2, 22)])
        found = await plan(uow, CLAIMS, [token(number) for number in range(2, 22)])
    assert 10 == len(claims)
    assert "pk_claim" in found and "Seq Scan on claim" not in found


async def test_a_neighbourhood_is_found_by_index(full: World) -> None:
    tokens = [token(number) for number in range(2, 1002, 2)]
    async with full.database.transaction() as uow:
        near = await neighbourhoods.near(uow, await graph_store.near_tokens(uow, tokens))
        assert 1000 == len(near.ids)
        assert 500 == len(near.links)
        found = {
            "nodes": await plan(uow, graph_store.NEAR_TOKENS, tokens),
            "by ids": await plan(uow, graph_store.NEAR_IDS, list(range(2, 102))),
            "links": await plan(uow, graph_store.LINKS, near.ids),
            "links to": await plan(uow, graph_store.LINKS_TO, near.ids),
        }
    assert {"nodes", "by ids"} == {name for name, text in found.items() if "ix_identifier_component_id" in text}
    assert "ix_identifier_token" in found["nodes"]
    assert "pk_link" in found["links"] and "ix_link_value_id" in found["links to"]
    assert [] == [text for text in found.values() if "Seq Scan on link" in text or "Seq Scan on identifier" in text]
