"""Erasure in SQL: what a person consists of, what of it others need too, and how it goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.db import UnitOfWork
from services.identity import announcements
from services.identity.domain.kinds import COUNTED, NUMBERS, Reason, Space
from services.identity.events import RelationTold
from services.identity.queries import kinds_of

# Events that are being resolved hold this lock shared until they are committed, an erasure holds it alone: an event that
# was found to be the person's is told before the erasure, and none after it.
_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtext('identity erasure'))"
_ALONE = "SELECT pg_advisory_xact_lock(hashtext('identity erasure'))"

# What hangs on a person's anchors, and goes: table → conditions over $1, the anchors.
OF_ANCHORS: Mapping[str, str] = {
    "profile": "anchor_id = ANY($1)",
    "claim": "person_anchor = ANY($1)",
    "consent": "anchor_id = ANY($1)",
    "suggestion": "anchor_a = ANY($1) OR anchor_b = ANY($1)",
    # Objects of kinds from 10 on are dealers.
    "relation_evidence": "subject_id = ANY($1) OR (object_id = ANY($1) AND kind <= 9)",
    "household_member": "anchor_id = ANY($1)",
    "household_suggestion": "anchor_a = ANY($1) OR anchor_b = ANY($1)",
    "inference_queue": "anchor_id = ANY($1)",
}
# What is said of identifiers, and goes with those that are the person's alone: conditions over $1, their ids.
OF_IDENTIFIERS: Mapping[str, str] = {
    "shared": "identifier_id = ANY($1)",
    "device": "identifier_id = ANY($1)",
    "partner_hash": "identifier_id = ANY($1)",
}
# What stays, and why.
KEPT: Mapping[str, str] = {
    "identifier": "tombstones: the token keeps the person out",
    "observation": "that something happened to a number that means nobody any more; events come once whatever is erased",
    "ledger": "merges and splits of numbers",
    "operation": "what operators asked for",
    "rejected": "counters by source, of nobody",
    "reveal_audit": "who looked at whom is evidence for the person, too",
    "erasure": "the manifest",
    "suppression": "keeps the person out",
    "suppression_lift": "who let the person in again",
    "outbox": "facts on numbers; the relay empties it",
}

_PERSON = int(Space.PERSON)
_ERASED = NUMBERS[Reason.ERASED]
# A person decided that these are not anybody's own.
_DECIDED = frozenset({NUMBERS[Reason.REGISTERED], NUMBERS[Reason.QUARANTINED]})
_COUNTED = frozenset(NUMBERS[reason] for reason in COUNTED)


@dataclass(frozen=True)
class Person:
    """What is to go. `others`: values that somebody else uses too, with the names somebody else is known by on them."""

    person_id: int
    anchors: Sequence[int]
    own: Sequence[int]
    others: Mapping[int, frozenset[int]]
    names: frozenset[int]
    keys: Sequence[int]
    # What is left of the neighbourhood, and the values of it whose guards counted links that go.
    touched: frozenset[int]
    reopen: frozenset[int]


async def hold_off(uow: UnitOfWork) -> None:
    """Keeps erasures waiting until this transaction ends; several may hold them off."""
    await uow.fetch(_SHARED)


async def lock(uow: UnitOfWork) -> None:
    """Waits until nobody resolves events or infers relations; take it before the graph's lock."""
    # The job that infers relations must not tell one of a person whom it read before the erasure.
    await uow.fetch(announcements.LOCK)
    await uow.fetch(_ALONE)


async def person(uow: UnitOfWork, person_id: int) -> Person | None:
    """All of a person as the tables hold it; None when there is no such person."""
    members = await uow.fetch(
        "SELECT id, anchor FROM identifier WHERE entity_id = $1 AND kind = ANY($2::smallint[])",
        person_id,
        kinds_of(Space.PERSON),
    )
    if not members:
        return None
    anchors = sorted(row[0] for row in members if row[1])
    # What records said; what operators and linkage say of two records is no value of either.
    linked = await uow.fetch("SELECT value_id, name FROM link WHERE anchor_id = ANY($1::bigint[]) AND strength = 0", anchors)
    profiles = await uow.fetch("SELECT name FROM profile WHERE anchor_id = ANY($1::bigint[])", anchors)
    names = frozenset({row[1] for row in linked} | {row[0] for row in profiles}) - {0}
    candidates = {row[0] for row in members} | {row[0] for row in linked}
    rows = await uow.fetch(
        "SELECT id, anchor AND entity_id <> $2, person_guard FROM identifier WHERE id = ANY($1::bigint[])"
        " AND kind = ANY($3::smallint[])",
        list(candidates),
        person_id,
        kinds_of(Space.PERSON),
    )
    guard = {row[0]: row[2] for row in rows}
    taken = await _used_by_others(uow, list(guard), anchors)
    for id_, is_anchor_of_others, _ in rows:
        if is_anchor_of_others:
            taken.setdefault(id_, frozenset())
    own = sorted(id_ for id_, number in guard.items() if id_ not in taken and number not in _DECIDED)
    left = await _neighbours(uow, anchors, own)
    keys = await uow.fetch(
        "SELECT subject_key_id FROM identifier WHERE id = ANY($1::bigint[]) AND subject_key_id <> 0"
        " UNION SELECT subject_key_id FROM profile WHERE anchor_id = ANY($2::bigint[])",
        own,
        anchors,
    )
    return Person(
        person_id,
        anchors,
        own,
        {id_: taken[id_] for id_, number in guard.items() if id_ in taken and number == 0},
        names,
        sorted(row[0] for row in keys),
        frozenset(left),
        frozenset(id_ for id_, number in left.items() if number in _COUNTED),
    )


async def _used_by_others(uow: UnitOfWork, values: Sequence[int], anchors: Sequence[int]) -> dict[int, frozenset[int]]:
    """Values that somebody else's records name, or that speak for somebody else → the names somebody else bears on them."""
    taken: defaultdict[int, set[int]] = defaultdict(set)
    for value, name in await uow.fetch(
        "SELECT DISTINCT value_id, name FROM link WHERE value_id = ANY($1::bigint[]) AND NOT anchor_id = ANY($2::bigint[])"
        " AND strength = 0"
        " UNION SELECT anchor_id, name FROM link WHERE anchor_id = ANY($1::bigint[]) AND NOT anchor_id = ANY($2::bigint[])"
        " AND strength = 0"
        " UNION SELECT anchor_id, name FROM profile WHERE anchor_id = ANY($1::bigint[]) AND NOT anchor_id = ANY($2::bigint[])",
        values,
        anchors,
    ):
        taken[value].add(name)
    return {value: frozenset(names) for value, names in taken.items()}


async def _neighbours(uow: UnitOfWork, anchors: Sequence[int], own: Sequence[int]) -> dict[int, int]:
    """What is left at the far ends of links that go, with its guard on persons."""
    rows = await uow.fetch(
        "SELECT i.id, i.person_guard FROM (SELECT value_id AS id FROM link WHERE anchor_id = ANY($1::bigint[])"
        " UNION SELECT anchor_id FROM link WHERE value_id = ANY($2::bigint[]) UNION SELECT unnest($1::bigint[])) far"
        " JOIN identifier i USING (id) WHERE NOT i.id = ANY($2::bigint[])",
        anchors,
        own,
    )
    return {int(row[0]): int(row[1]) for row in rows}


async def count(uow: UnitOfWork, what: Person) -> dict[str, int]:
    """Rows that would go, by table."""
    found = {}
    for table, condition, *values in _conditions(what):
        rows = await uow.fetch(f"SELECT count(*) FROM {table} WHERE {condition}", *values)  # noqa: S608
        found[table] = int(rows[0][0])
    return found


async def remove(uow: UnitOfWork, what: Person) -> dict[str, int]:
    """Deletes all rows that hang on the person; returns how many, by table."""
    removed = {}
    for table, condition, *values in _conditions(what):
        rows = await uow.fetch(
            f"WITH gone AS (DELETE FROM {table} WHERE {condition} RETURNING 1) SELECT count(*) FROM gone",  # noqa: S608
            *values,
        )
        removed[table] = int(rows[0][0])
    return removed


def _conditions(what: Person) -> list[tuple[Any, ...]]:
    anchors, own = list(what.anchors), list(what.own)
    return [
        ("link", "anchor_id = ANY($1::bigint[]) OR value_id = ANY($2::bigint[])", anchors, own),
        *((table, condition.replace("$1", "$1::bigint[]"), anchors) for table, condition in OF_ANCHORS.items()),
        *((table, condition.replace("$1", "$1::bigint[]"), own) for table, condition in OF_IDENTIFIERS.items()),
        (
            "relation",
            "(subject_kind = $1 AND subject_id = $2) OR (object_kind = $1 AND object_id = $2)",
            _PERSON,
            what.person_id,
        ),
        ("subject_key", "id = ANY($1::bigint[])", list(what.keys)),
    ]


async def bury(uow: UnitOfWork, what: Person) -> None:
    """Leaves tombstones of what was the person's alone, and nobody's values of what others use too."""
    await uow.fetch(
        "UPDATE identifier SET sealed = '', subject_key_id = 0, anchor = false, entity_id = 0, born_id = 0, component_id = 0,"
        " version = nextval('graph_version_seq'), person_guard = $2, vehicle_guard = $2, cleared = false, apart = NULL,"
        " first_seen_us = 0, last_seen_us = 0 WHERE id = ANY($1::bigint[])",
        list(what.own),
        _ERASED,
    )
    # The anchors among them spoke for the erased person; whose the values are now is for the graph to say.
    await uow.fetch(
        "UPDATE identifier SET anchor = false, born_id = 0 WHERE id = ANY($1::bigint[]) AND NOT id = ANY($2::bigint[])",
        list(what.anchors),
        list(what.own),
    )
    await uow.fetch(
        "UPDATE identifier SET entity_id = 0 WHERE entity_id = $1 AND kind = ANY($2::smallint[])",
        what.person_id,
        kinds_of(Space.PERSON),
    )


async def sealed_beside(uow: UnitOfWork, what: Person) -> Sequence[Any]:
    """Rows (table, id, entity, key, kek, wrapped, sealed) of cells that are somebody else's under keys that are to go."""
    return await uow.fetch(
        "SELECT c.cell_table, c.id, c.entity_id, k.id AS key_id, k.kek_id, k.wrapped, c.sealed FROM ("
        " SELECT 'identifier' AS cell_table, id, entity_id, subject_key_id, sealed FROM identifier"
        " WHERE subject_key_id = ANY($1::bigint[]) AND NOT id = ANY($2::bigint[])"
        " UNION ALL SELECT 'profile', p.anchor_id, i.entity_id, p.subject_key_id, p.sealed FROM profile p"
        " JOIN identifier i ON i.id = p.anchor_id"
        " WHERE p.subject_key_id = ANY($1::bigint[]) AND NOT p.anchor_id = ANY($3::bigint[])) c"
        " JOIN subject_key k ON k.id = c.subject_key_id ORDER BY c.cell_table, c.id",
        list(what.keys),
        list(what.own),
        list(what.anchors),
    )


async def new_key_ids(uow: UnitOfWork, number: int) -> list[int]:
    """Ids for so many data keys."""
    rows = await uow.fetch("SELECT nextval('subject_key_id_seq') FROM generate_series(1, $1::integer)", number)
    return [int(row[0]) for row in rows]


async def write_sealed(uow: UnitOfWork, table: str, cells: Sequence[tuple[int, int, bytes]]) -> None:
    """Replaces (row, key, sealed) of `identifier` or `profile`."""
    column = {"identifier": "id", "profile": "anchor_id"}[table]
    await uow.fetch(
        f"UPDATE {table} t SET subject_key_id = c.key_id, sealed = c.sealed"  # noqa: S608
        f" FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS c(id, key_id, sealed) WHERE t.{column} = c.id",
        *map(list, zip(*cells, strict=True)),
    )


async def told_relations(uow: UnitOfWork, person_id: int) -> list[RelationTold]:
    """Relations that were told of a person, as they are to be told now: never true."""
    rows = await uow.fetch(
        "SELECT kind, subject_kind, subject_id, object_kind, object_id, valid_from_us, valid_to_us, stated FROM relation"
        " WHERE (subject_kind = $1 AND subject_id = $2) OR (object_kind = $1 AND object_id = $2)",
        _PERSON,
        person_id,
    )
    return [RelationTold(**dict(row), confidence=0.0) for row in rows]


async def vehicles_beside(uow: UnitOfWork, anchors: Collection[int]) -> list[int]:
    """Vehicle anchors that the person's anchors were seen with."""
    rows = await uow.fetch(
        "SELECT DISTINCT object_id FROM relation_evidence WHERE subject_id = ANY($1::bigint[]) AND kind <= 9", list(anchors)
    )
    return [int(row[0]) for row in rows]
