"""What was told of relations on the bus, kept so that only differences are told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from chassis.db import UnitOfWork
from services.identity import events
from services.identity.domain.kinds import Space
from services.identity.domain.relations import Relation

# Told again only when it says something else: confidence creeps up with every visit.
SAME_CONFIDENCE = 0.05

# Inference and decisions on relations, over all replicas: one at a time, each for a few milliseconds.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('identity inference'))"

_KEY = ("kind", "subject_kind", "subject_id", "object_kind", "object_id", "valid_from_us")
_REST = ("valid_to_us", "confidence", "stated")
# With where each row lies: who reads it holds LOCK, so that it lies there still when it is deleted.
_COLUMNS = ", ".join((*_KEY, *_REST, "ctid"))
_VEHICLE, _PERSON = int(Space.VEHICLE), int(Space.PERSON)
TOLD = (
    f"SELECT r.* FROM unnest($1::bigint[]) AS car(id) CROSS JOIN LATERAL (SELECT {_COLUMNS} FROM relation"  # noqa: S608
    f" WHERE object_id = car.id AND object_kind = {_VEHICLE} OFFSET 0) r"
    f" UNION ALL SELECT r.* FROM unnest($1::bigint[]) AS car(id) CROSS JOIN LATERAL (SELECT {_COLUMNS} FROM relation"
    f" WHERE subject_id = car.id AND subject_kind = {_VEHICLE} OFFSET 0) r"
    f" UNION ALL SELECT r.* FROM unnest($2::bigint[]) AS person(id) CROSS JOIN LATERAL (SELECT {_COLUMNS} FROM relation"
    f" WHERE subject_id = person.id AND subject_kind = {_PERSON} AND object_kind <> {_VEHICLE} OFFSET 0) r"
)


async def announce(uow: UnitOfWork, found: Sequence[Relation], cars: Collection[int], persons: Collection[int]) -> int:
    """Publishes how the relations of cars, and of persons to all but cars, differ from what was told; returns how many do.

    The caller holds LOCK.
    """
    told = {tuple(row[:6]): row for row in await uow.fetch(TOLD, list(cars), list(persons))}
    now = {_key(relation): relation for relation in found}
    new = [relation for key, relation in now.items() if _differs(relation, told.get(key))]
    gone = [row for key, row in told.items() if key not in now]
    await _forget(uow, [*gone, *(told[key] for relation in new if (key := _key(relation)) in told)])
    await uow.copy("relation", _KEY + _REST, [(*_key(r), r.valid_to_us, r.confidence, r.stated) for r in new])
    changes = [events.RelationTold._make((*tuple(row)[:7], 0.0, row[8])) for row in gone]
    changes += [events.RelationTold(*_key(r), r.valid_to_us, r.confidence, r.stated) for r in new]
    events.publish_relations(uow, changes)
    return len(changes)


def _key(relation: Relation) -> tuple[str, int, int, int, int, int]:
    return (relation.kind, *relation.subject, *relation.object, relation.valid_from_us)


def _differs(relation: Relation, told: Any) -> bool:
    return (
        told is None
        or relation.valid_to_us != told[6]
        or relation.stated != told[8]
        or abs(relation.confidence - told[7]) >= SAME_CONFIDENCE
    )


async def _forget(uow: UnitOfWork, rows: Sequence[Any]) -> None:
    if rows:
        await uow.fetch("DELETE FROM relation WHERE ctid = ANY($1::tid[])", [row[9] for row in rows])
