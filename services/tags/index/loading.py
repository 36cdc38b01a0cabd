"""What the index takes from the database: everything at a boot without a snapshot, torn entities at any time."""

from __future__ import annotations

from array import array

import numpy as np

from chassis.db import Database
from services.tags import store
from services.tags.domain.catalogue import RELATIONS, Kind
from services.tags.index.index import AudienceIndex
from services.tags.index.relations import RelationTable

PAGE = 5_000
_BEFORE_ALL = store.Pair(0, 0, 0, 0, "")


async def load(index: AudienceIndex, database: Database) -> None:
    """Loads all entities and relations, page by page."""
    for kind in Kind:
        after = 0
        while page := await _entities_after(database, kind, after):
            _take_over(index, kind, page)
            after = page[-1].entity_id
    await _load_relations(index, database)


async def mend(index: AudienceIndex, database: Database) -> dict[Kind, set[int]]:
    """Loads entities that are torn and returns which; all that had changed is in the database before anyone hears of it."""
    mended: dict[Kind, set[int]] = {}
    for kind, torn in index.torn.items():
        if not torn:
            continue
        ids = sorted(torn)[:PAGE]
        async with database.read() as uow:
            rows = await store.entities(uow, kind, ids)
        _take_over(index, kind, rows)
        # Rows are never deleted. One that is missing belongs to another database, and waiting for it would not end.
        index.torn[kind] -= set(ids) - {row.entity_id for row in rows}
        mended[kind] = set(ids)
    return mended


def _take_over(index: AudienceIndex, kind: Kind, rows: list[store.EntityRow]) -> None:
    for row in rows:
        index.load_entity(kind, row.entity_id, row.present, row.tags, row.version)


async def _entities_after(database: Database, kind: Kind, after: int) -> list[store.EntityRow]:
    async with database.read() as uow:
        return await store.entities_after(uow, kind, after, PAGE)


async def _load_relations(index: AudienceIndex, database: Database) -> None:
    # Numbers only: as objects, ten million of them would take more memory than the whole index.
    gathered = {pair: [array("q") for _ in range(5)] for pair in RELATIONS}
    last = _BEFORE_ALL
    while True:
        async with database.read() as uow:
            rows = await store.relations_after(uow, last, PAGE)
        if not rows:
            break
        for row in rows:
            pair = Kind(row.pair.subject_kind), Kind(row.pair.object_kind)
            if row.pair.kind in RELATIONS.get(pair, ()):
                place = RELATIONS[pair].index(row.pair.kind)
                values = (row.pair.subject_id, row.pair.object_id, place, row.removed, row.version)
                for column, value in zip(gathered[pair], values, strict=True):
                    column.append(value)
        last = rows[-1].pair
    for pair, columns in gathered.items():
        one, other, places, removed, version = (np.frombuffer(column, np.int64) for column in columns)
        index.relations.fill(pair, RelationTable(one, other, places, removed.astype(np.bool_), version))
