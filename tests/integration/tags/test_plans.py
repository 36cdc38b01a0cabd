"""Hot statements keep their indexes however large the tables grow."""

import pytest

from chassis.db import Database
from services.tags import erasure_store, store
from services.tags.domain.catalogue import Kind
from services.tags.store import AnchorRow, EntityRow, Pair


class Explained:
    """A unit of work that explains statements instead of running them."""

    def __init__(self, uow: object) -> None:
        self._uow, self.plan = uow, ""

    async def rows(self, statement: str, **parameters: object) -> list[object]:
        plan = await self._uow.rows(f"EXPLAIN {statement}", **parameters)  # type: ignore[attr-defined]
        self.plan += "\n".join(row[0] for row in plan)
        return []

    async def fetch(self, statement: str, *values: object) -> list[object]:
        plan = await self._uow.fetch(f"EXPLAIN {statement}", *values)  # type: ignore[attr-defined]
        self.plan += "\n".join(row[0] for row in plan)
        return []

    async def execute(self, statement: str, **parameters: object) -> int:
        await self.rows(statement, **parameters)
        return 0


@pytest.fixture
async def filled(database: Database) -> Database:
    async with database.transaction() as uow:
        await uow.execute("INSERT INTO anchor SELECT 1, i, i / 2, 1, '{}' FROM generate_series(1, 50000) i")
        await uow.execute("INSERT INTO entity SELECT 1, i, 1, true, '{}', '{}', 1000000 + i FROM generate_series(1, 50000) i")
        await uow.execute("INSERT INTO relation SELECT i, i, 'owns' FROM generate_series(1, 50000) i")
        await uow.execute("INSERT INTO entity_relation SELECT 1, i, 2, i, 'owns', false, 1 FROM generate_series(1, 50000) i")
        await uow.execute(
            "INSERT INTO told_relation SELECT 1, i, 2, i, 'owns', 1, 2, false, i FROM generate_series(1, 50000) i"
        )
        await uow.execute("INSERT INTO erased_anchor SELECT i, i / 2, 1 FROM generate_series(1, 50000) i")
    async with database.transaction() as uow:
        await uow.execute("ANALYZE anchor, entity, relation, entity_relation, told_relation, erased_anchor")
    return database


IDS = list(range(1, 500))
STATEMENTS = {
    "owners": lambda uow: store.owners(uow, Kind.PERSON, IDS),
    "lock_entities": lambda uow: store.lock_entities(uow, Kind.PERSON, IDS),
    "anchors_of": lambda uow: store.anchors_of(uow, Kind.PERSON, IDS),
    "update_anchors": lambda uow: store.update_anchors(uow, Kind.PERSON, [AnchorRow(i, i, 1, {}) for i in IDS]),
    "update_entities": lambda uow: store.update_entities(uow, Kind.PERSON, [EntityRow(i, 1, True, {}, {}) for i in IDS]),
    "pairs_of": lambda uow: store.pairs_of(uow, {Kind.PERSON: [1, 2], Kind.VEHICLE: [3]}),
    "refresh_relations": lambda uow: store.refresh_relations(uow, {Pair(1, 1, 2, 1, "owns"), Pair(1, 2, 3, 2, "member_of")}),
    "tombstones": lambda uow: erasure_store.tombstones(uow, IDS),
    "erased_persons": lambda uow: erasure_store.erased_persons(uow, IDS),
    "related": lambda uow: store.related(uow, Kind.VEHICLE, [7]),
    "known_pairs": lambda uow: store.known_pairs(uow, [Pair(1, 1, 2, 1, "owns")]),
    "due": lambda uow: store.due(uow, 1_000_100, 500),
    "entities_after": lambda uow: store.entities_after(uow, Kind.PERSON, 7, 100),
    "relations_after": lambda uow: store.relations_after(uow, Pair(1, 7, 0, 0, ""), 100),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_no_hot_statement_reads_a_whole_table(filled: Database, name: str) -> None:
    async with filled.read() as uow:
        explained = Explained(uow)
        await STATEMENTS[name](explained)
    assert "Index" in explained.plan
    assert "Seq Scan" not in explained.plan
