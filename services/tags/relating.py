"""Relations as identity tells them: what has ended (a car that was sold) ends here, whatever sources once said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.tags import erasure_store, store
from services.tags.domain.catalogue import Kind
from services.tags.handlers import Changes


class Told(NamedTuple):
    """A person's relation to a vehicle since `valid_from_us`; `valid_to_us` 0 while it holds; `void` when it was taken back.

    `sequence` is the place in the stream: of two that say something of the same relation the later counts.
    """

    person_id: int
    vehicle_id: int
    kind: str
    valid_from_us: int
    valid_to_us: int
    void: bool
    sequence: int


async def follow(uow: UnitOfWork, told: Sequence[Told]) -> Changes:
    """Keeps what was told and ends or resumes the relations that are known here. Order and repetition do not matter."""
    newest: dict[tuple[int, int, str, int], Told] = {}
    for each in told:
        known = newest.get(each[:4])
        if known is None or each.sequence > known.sequence:
            newest[each[:4]] = each
    persons = {each.person_id for each in newest.values()}
    # Sources that state a relation hold their person's lock.
    await store.add_entities(uow, Kind.PERSON, persons)
    await store.lock_entities(uow, Kind.PERSON, persons)
    erased = await erasure_store.erased_persons(uow, persons)
    rows = [each for key, each in sorted(newest.items()) if key[0] not in erased]
    pairs = await _keep(uow, rows) if rows else set()
    return Changes(relations=await store.refresh_relations(uow, pairs)) if pairs else Changes()


async def _keep(uow: UnitOfWork, rows: Sequence[Told]) -> store.Pairs:
    """Writes what is newer than what is kept; returns the pairs among them that sources ever related."""
    persons, vehicles, kinds, since, until, void, sequences = (list(column) for column in zip(*rows, strict=True))
    await uow.execute(
        "INSERT INTO told_relation AS t (person_id, vehicle_id, kind, valid_from_us, valid_to_us, void, sequence)"
        " SELECT * FROM unnest(CAST(:persons AS bigint[]), CAST(:vehicles AS bigint[]), CAST(:kinds AS text[]),"
        " CAST(:since AS bigint[]), CAST(:until AS bigint[]), CAST(:void AS boolean[]), CAST(:sequences AS bigint[]))"
        " ON CONFLICT (person_id, vehicle_id, kind, valid_from_us) DO UPDATE SET valid_to_us = EXCLUDED.valid_to_us,"
        " void = EXCLUDED.void, sequence = EXCLUDED.sequence WHERE EXCLUDED.sequence > t.sequence",
        persons=persons,
        vehicles=vehicles,
        kinds=kinds,
        since=since,
        until=until,
        void=void,
        sequences=sequences,
    )
    known = await uow.rows(
        "SELECT e.person_id, e.vehicle_id, e.kind FROM unnest(CAST(:persons AS bigint[]), CAST(:vehicles AS bigint[]),"
        " CAST(:kinds AS text[])) AS k (person_id, vehicle_id, kind)"
        " JOIN entity_relation e USING (person_id, vehicle_id, kind)",
        persons=persons,
        vehicles=vehicles,
        kinds=kinds,
    )
    return {(row.person_id, row.vehicle_id, row.kind) for row in known}
