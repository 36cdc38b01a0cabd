"""Whatever the order and batching of what is seen, the tables end in the same partition, which is that of the pure rules."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from chassis.testing import DatabaseFactory
from services.identity.domain.clusters import partition
from services.identity.domain.graphs import Graph
from services.identity.domain.kinds import Kind, Space
from tests.integration.identity.world import World

NAMES = ("", "", "张伟", "章伟", "王芳", "李娜", "刘洋", "陈静")
SOURCES = ("app", "call_center", "dealer:D001", "dealer:D002")


def seen(rng: random.Random, prefix: str, size: int) -> list[tuple[object, ...]]:
    """Events over few values, so that they collide: shared phones, family phones, devices and cards of several people."""
    values = [
        *(("mobile", f"139{prefix}{i:04d}") for i in range(4)),
        *(("device", f"device-{prefix}-{i}") for i in range(3)),
        *(("unionid", f"oUnion{prefix}UnionUnion{i}") for i in range(3)),
        *(("vin", f"WBA{prefix}ABCDEFGHJK"[:16] + str(i)) for i in range(2)),
        *(("id_card", card) for card in ("11010519491231002X", "440524198001010013")),
        ("plate", f"粤B{prefix}1"),
    ]
    return [
        (
            source := rng.choice(SOURCES),
            ("crm_id", source, f"R{prefix}{rng.randrange(9)}"),
            *rng.sample(values, rng.choice((1, 1, 2, 3))),
            {"who": rng.choice(NAMES)},
        )
        for _ in range(size)
    ]


async def tables_partition(world: World) -> tuple[set[frozenset[str]], set[str]]:
    """Groups of anchors and shared values, by tokens: ids depend on the order, what belongs together must not."""
    rows = await world.rows("SELECT token, kind, anchor, entity_id, person_guard, vehicle_guard FROM identifier")
    groups: dict[tuple[bool, int], set[str]] = {}
    for row in rows:
        if row.anchor:
            groups.setdefault((row.kind >= Kind.VIN, row.entity_id), set()).add(row.token.hex())
    return {frozenset(group) for group in groups.values()}, {r.token.hex() for r in rows if r.person_guard or r.vehicle_guard}


async def pure_partition(world: World) -> set[frozenset[str]]:
    """The rules over the whole graph at once, knowing nothing of what the tables say about owners and guards."""
    rows = await world.rows("SELECT id, kind, token, anchor FROM identifier ORDER BY id")
    at = {row.id: i for i, row in enumerate(rows)}
    links = await world.rows("SELECT anchor_id, value_id, name, source_id, strength FROM link")
    async with world.database.read() as uow:
        trust = await world.store.trust(uow)
    graph = Graph(
        kind=np.array([row.kind for row in rows], np.int16),
        person_guard=np.zeros(len(rows), np.int16),
        vehicle_guard=np.zeros(len(rows), np.int16),
        cleared=np.zeros(len(rows), bool),
        anchor=np.array([at[link.anchor_id] for link in links], np.int64),
        value=np.array([at[link.value_id] for link in links], np.int64),
        name=np.array([link.name for link in links], np.int64),
        source=np.array([link.source_id for link in links], np.int64),
        strength=np.array([link.strength for link in links], np.int16),
        trust=trust,
    )
    groups = set()
    for space in (Space.PERSON, Space.VEHICLE):
        members: dict[int, set[str]] = {}
        for row, label in zip(rows, partition(graph, space).label.tolist(), strict=True):
            if row.anchor and Kind(row.kind).space is space:
                members.setdefault(label, set()).add(row.token.hex())
        groups |= {frozenset(group) for group in members.values()}
    return groups


@pytest.mark.parametrize("seed", range(4))
async def test_order_and_batching_do_not_matter(databases: DatabaseFactory, seed: int) -> None:
    rng = random.Random(seed)
    events = seen(rng, f"{seed}77", 70)
    results = []
    for batches in (1, 70, 9):
        async with databases.database("identity") as database:
            other = World(database)
            order = rng.sample(events, len(events))
            for start in range(batches):
                if batch := order[start::batches]:
                    await other.see(*(tuple(event) for event in batch))
            groups, shared = await tables_partition(other)
            assert await pure_partition(other) == groups
            results.append((groups, shared))
    assert results[0] == results[1] == results[2]
    assert any(len(group) > 1 for group in results[0][0])


async def test_replicas_that_work_at_once_end_where_one_alone_would(world: World) -> None:
    rng = random.Random(5)
    other = World(world.database)
    events = seen(rng, "5577", 120)
    key = world.key()
    batches = [world.batch(key, [world.event(key, *e[:-1], **e[-1]) for e in events[i::12]]) for i in range(12)]

    # Every batch is taken twice, by two replicas in a different order.
    async def work(replica: World, mine: list[bytes]) -> None:
        for batch in mine:
            await replica.take(batch)

    await asyncio.gather(work(world, batches), work(other, batches[::-1]), work(other, batches[6:]))
    groups, _ = await tables_partition(world)
    assert await pure_partition(world) == groups
    resolved, changed, _ = await world.published()
    assert len(events) == len(resolved) == len({event.event_id for event in resolved})
    # A reader that applies owners and moves by version ends where the tables are.
    owner: dict[int, tuple[int, int]] = {}
    told = [o for e in resolved for o in (e.person, e.vehicle) if o.anchor_id]
    told += [move.owner for batch in changed for move in batch.anchor_moves]
    for o in rng.sample(told, len(told)):
        owner[o.anchor_id] = max(owner.get(o.anchor_id, (0, 0)), (o.version, o.entity_id))
    rows = await world.rows("SELECT id, version, entity_id FROM identifier WHERE anchor")
    assert {row.id: (row.version, row.entity_id) for row in rows} == owner
