"""The SQL of tags: each statement takes a whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from chassis.db import UnitOfWork
from services.tags.domain.catalogue import Kind, Value
from services.tags.domain.facts import Facts


@dataclass
class AnchorRow:
    """An anchor as stored; changed in place while a batch is worked on."""

    anchor_id: int
    entity_id: int
    version: int
    facts: Facts


@dataclass
class EntityRow:
    """An entity as stored; changed in place while a batch is worked on."""

    entity_id: int
    version: int
    present: bool
    tags: dict[str, Value]
    scores: dict[str, list[Any]]
    # When time alone changes the tags next, microseconds since the epoch; None for never.
    due_us: int | None = None


class Pair(NamedTuple):
    """Two entities and how they are, or were, related."""

    subject_kind: int
    subject_id: int
    object_kind: int
    object_id: int
    kind: str


@dataclass(frozen=True)
class RelationRow:
    """A pair at one version of what is known of it."""

    pair: Pair
    removed: bool
    version: int


Pairs = set[Pair]


async def serialise_moves(uow: UnitOfWork) -> None:
    """Lets one transaction at a time move anchors: the relations of two moved ends would otherwise miss each other."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('troika tags moves'))")


async def owners(uow: UnitOfWork, kind: Kind, anchor_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """anchor -> (entity, version of the graph) of those anchors that are known."""
    rows = await uow.fetch(
        "SELECT anchor_id, entity_id, version FROM anchor WHERE entity_kind = $1 AND anchor_id = ANY($2::bigint[])",
        int(kind),
        sorted(anchor_ids),
    )
    return {anchor_id: (entity_id, version) for anchor_id, entity_id, version in rows}


async def add_entities(uow: UnitOfWork, kind: Kind, entity_ids: Iterable[int]) -> None:
    """Makes rows for entities that have none, absent and without tags."""
    await uow.fetch(
        "INSERT INTO entity (entity_kind, entity_id, version, present, tags, scores)"
        " SELECT $1::smallint, id, 0, false, '{}', '{}' FROM unnest($2::bigint[]) AS id ON CONFLICT DO NOTHING",
        int(kind),
        sorted(entity_ids),
    )


async def lock_entities(uow: UnitOfWork, kind: Kind, entity_ids: Iterable[int]) -> dict[int, EntityRow]:
    """Locks entities in the order of their ids, the same in every transaction, and returns them as they are then."""
    rows = await uow.fetch(
        "SELECT entity_id, version, present, tags::text, scores::text, due_us FROM entity"
        " WHERE entity_kind = $1 AND entity_id = ANY($2::bigint[]) ORDER BY entity_id FOR NO KEY UPDATE",
        int(kind),
        sorted(entity_ids),
    )
    return {id_: EntityRow(id_, v, present, orjson.loads(t), orjson.loads(s), due) for id_, v, present, t, s, due in rows}


async def anchors_of(uow: UnitOfWork, kind: Kind, entity_ids: Iterable[int]) -> dict[int, AnchorRow]:
    """All anchors of some entities, by anchor."""
    rows = await uow.fetch(
        "SELECT anchor_id, entity_id, version, facts::text FROM anchor"
        " WHERE entity_kind = $1 AND entity_id = ANY($2::bigint[])",
        int(kind),
        sorted(entity_ids),
    )
    return {id_: AnchorRow(id_, entity_id, version, orjson.loads(facts)) for id_, entity_id, version, facts in rows}


_ANCHORS = "unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) AS n(anchor_id, entity_id, version, facts)"


async def add_anchors(uow: UnitOfWork, kind: Kind, anchors: Sequence[AnchorRow]) -> None:
    """Adds new anchors; those that another transaction was faster with stay as they are."""
    await uow.fetch(
        "INSERT INTO anchor (entity_kind, anchor_id, entity_id, version, facts)"  # noqa: S608
        f" SELECT $1::smallint, anchor_id, entity_id, version, facts::json FROM {_ANCHORS} ON CONFLICT DO NOTHING",
        int(kind),
        *_anchor_arrays(anchors),
    )


async def update_anchors(uow: UnitOfWork, kind: Kind, anchors: Sequence[AnchorRow]) -> None:
    """Writes owners and facts of known anchors, whose entities the transaction has locked."""
    await uow.fetch(
        "UPDATE anchor AS a SET entity_id = n.entity_id, version = n.version, facts = n.facts::json"  # noqa: S608
        f" FROM {_ANCHORS} WHERE a.entity_kind = $1::smallint AND a.anchor_id = n.anchor_id"
        # Said twice, so that the planner finds the rows by index however large the table is.
        " AND a.anchor_id = ANY($2::bigint[])",
        int(kind),
        *_anchor_arrays(anchors),
    )


def _anchor_arrays(anchors: Sequence[AnchorRow]) -> tuple[list[int], list[int], list[int], list[str]]:
    ordered = sorted(anchors, key=lambda row: row.anchor_id)
    return (
        [row.anchor_id for row in ordered],
        [row.entity_id for row in ordered],
        [row.version for row in ordered],
        [orjson.dumps(row.facts).decode() for row in ordered],
    )


async def update_entities(uow: UnitOfWork, kind: Kind, entities: Sequence[EntityRow]) -> None:
    """Writes entities that the transaction has locked."""
    await uow.fetch(
        "UPDATE entity AS e SET version = n.version, present = n.present, tags = n.tags::json, scores = n.scores::json,"
        " due_us = n.due_us FROM unnest($2::bigint[], $3::bigint[], $4::boolean[], $5::text[], $6::text[], $7::bigint[])"
        " AS n(entity_id, version, present, tags, scores, due_us)"
        " WHERE e.entity_kind = $1::smallint AND e.entity_id = n.entity_id AND e.entity_id = ANY($2::bigint[])",
        int(kind),
        [row.entity_id for row in entities],
        [row.version for row in entities],
        [row.present for row in entities],
        [orjson.dumps(row.tags).decode() for row in entities],
        [orjson.dumps(row.scores).decode() for row in entities],
        [row.due_us for row in entities],
    )


async def due(uow: UnitOfWork, at_us: int, limit: int) -> dict[Kind, list[int]]:
    """Entities whose tags time alone has changed by a moment, the longest due first, locked; without those that others have."""
    rows = await uow.rows(
        "SELECT entity_kind, entity_id FROM entity WHERE due_us <= :at ORDER BY due_us LIMIT :limit"
        " FOR NO KEY UPDATE SKIP LOCKED",
        at=at_us,
        limit=limit,
    )
    found: dict[Kind, list[int]] = {}
    for kind, entity_id in rows:
        found.setdefault(Kind(kind), []).append(entity_id)
    return found


async def add_relations(uow: UnitOfWork, claims: Iterable[tuple[int, int, str]]) -> Pairs:
    """Keeps (person anchor, vehicle anchor, kind) and returns the pairs of entities that the new ones concern."""
    ordered = sorted(claims)
    rows = await uow.rows(
        "WITH added AS (INSERT INTO relation (person_anchor, vehicle_anchor, kind)"
        " SELECT * FROM unnest(CAST(:persons AS bigint[]), CAST(:vehicles AS bigint[]), CAST(:kinds AS text[]))"
        " ON CONFLICT DO NOTHING RETURNING person_anchor, vehicle_anchor, kind)"
        " SELECT 1, p.entity_id AS person_id, 2, v.entity_id AS vehicle_id, added.kind FROM added"
        " JOIN anchor p ON p.entity_kind = 1 AND p.anchor_id = added.person_anchor"
        " JOIN anchor v ON v.entity_kind = 2 AND v.anchor_id = added.vehicle_anchor",
        persons=[person for person, _, _ in ordered],
        vehicles=[vehicle for _, vehicle, _ in ordered],
        kinds=[kind for _, _, kind in ordered],
    )
    return {Pair(*row) for row in rows}


async def pairs_of(uow: UnitOfWork, moved: Mapping[Kind, Iterable[int]]) -> Pairs:
    """Pairs of entities that are related, at this moment, through one of these anchors."""
    rows = await uow.rows(
        "SELECT DISTINCT 1, p.entity_id AS person_id, 2, v.entity_id AS vehicle_id, r.kind FROM ("
        " SELECT * FROM relation WHERE person_anchor = ANY(CAST(:persons AS bigint[]))"
        " UNION SELECT * FROM relation WHERE vehicle_anchor = ANY(CAST(:vehicles AS bigint[]))) AS r"
        " JOIN anchor p ON p.entity_kind = 1 AND p.anchor_id = r.person_anchor"
        " JOIN anchor v ON v.entity_kind = 2 AND v.anchor_id = r.vehicle_anchor",
        persons=sorted(moved.get(Kind.PERSON, ())),
        vehicles=sorted(moved.get(Kind.VEHICLE, ())),
    )
    return {Pair(*row) for row in rows}


async def refresh_relations(uow: UnitOfWork, pairs: Pairs) -> list[RelationRow]:
    """Derives whether these pairs are related now; returns those for which that changed.

    A person and a vehicle are related when a source said so of two of their anchors, unless all that identity tells of it has
    ended; all others when identity tells so.
    """
    ordered = sorted(pairs)
    rows = await uow.rows(
        "INSERT INTO entity_relation AS e (subject_kind, subject_id, object_kind, object_id, kind, removed, version)"  # noqa: S608
        " SELECT k.*, CASE WHEN k.subject_kind = 1 AND k.object_kind = 2 THEN NOT EXISTS ("
        "  SELECT 1 FROM anchor p JOIN relation r ON r.person_anchor = p.anchor_id AND r.kind = k.kind"
        "  JOIN anchor v ON v.entity_kind = 2 AND v.anchor_id = r.vehicle_anchor AND v.entity_id = k.object_id"
        "  WHERE p.entity_kind = 1 AND p.entity_id = k.subject_id) OR coalesce(told.ended, false)"
        "  ELSE coalesce(told.ended, true) END, 1"
        f" FROM {_PAIRS} AS k(subject_kind, subject_id, object_kind, object_id, kind) CROSS JOIN LATERAL ("
        "  SELECT bool_and(t.valid_to_us <> 0) AS ended FROM told_relation t WHERE t.subject_kind = k.subject_kind"
        "  AND t.subject_id = k.subject_id AND t.object_kind = k.object_kind AND t.object_id = k.object_id"
        "  AND t.kind = k.kind AND NOT t.void) AS told"
        " ON CONFLICT (subject_kind, subject_id, object_kind, object_id, kind) DO UPDATE SET removed = EXCLUDED.removed,"
        " version = e.version + 1 WHERE e.removed <> EXCLUDED.removed"
        " RETURNING subject_kind, subject_id, object_kind, object_id, kind, removed, version",
        **pair_arrays(ordered),
    )
    return [RelationRow(Pair(*row[:5]), row[5], row[6]) for row in rows]


_PAIRS = (
    "unnest(CAST(:subject_kinds AS smallint[]), CAST(:subjects AS bigint[]), CAST(:object_kinds AS smallint[]),"
    " CAST(:objects AS bigint[]), CAST(:kinds AS text[]))"
)


def pair_arrays(pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    """Parameters of a statement over pairs."""
    return {
        "subject_kinds": [pair.subject_kind for pair in pairs],
        "subjects": [pair.subject_id for pair in pairs],
        "object_kinds": [pair.object_kind for pair in pairs],
        "objects": [pair.object_id for pair in pairs],
        "kinds": [pair.kind for pair in pairs],
    }


async def known_pairs(uow: UnitOfWork, pairs: Sequence[Pair]) -> Pairs:
    """Those of some pairs that were ever related here."""
    rows = await uow.rows(
        f"SELECT e.subject_kind, e.subject_id, e.object_kind, e.object_id, e.kind FROM {_PAIRS}"  # noqa: S608
        " AS k (subject_kind, subject_id, object_kind, object_id, kind)"
        " JOIN entity_relation e USING (subject_kind, subject_id, object_kind, object_id, kind)",
        **pair_arrays(pairs),
    )
    return {Pair(*row) for row in rows}


async def related(uow: UnitOfWork, kind: Kind, entity_ids: Iterable[int]) -> list[Pair]:
    """All present relations of some entities of a kind, on either side, ascending."""
    columns = "subject_kind, subject_id, object_kind, object_id, kind"
    rows = await uow.rows(
        f"SELECT {columns} FROM entity_relation WHERE subject_kind = :kind AND subject_id = ANY(CAST(:ids AS bigint[]))"  # noqa: S608
        f" AND NOT removed UNION ALL SELECT {columns} FROM entity_relation"
        " WHERE object_kind = :kind AND object_id = ANY(CAST(:ids AS bigint[])) AND NOT removed ORDER BY 1, 2, 3, 4, 5",
        kind=int(kind),
        ids=sorted(entity_ids),
    )
    return [Pair(*row) for row in rows]


async def entity(uow: UnitOfWork, kind: Kind, entity_id: int) -> EntityRow | None:
    """One entity, without a lock."""
    page = await entities_after(uow, kind, entity_id - 1, 1)
    return page[0] if page and page[0].entity_id == entity_id else None


async def entities(uow: UnitOfWork, kind: Kind, entity_ids: Iterable[int]) -> list[EntityRow]:
    """Some entities, without a lock; those that are not known are left out."""
    rows = await uow.rows(
        "SELECT entity_id, version, present, CAST(tags AS text), CAST(scores AS text) FROM entity"
        " WHERE entity_kind = :kind AND entity_id = ANY(CAST(:ids AS bigint[]))",
        kind=int(kind),
        ids=sorted(entity_ids),
    )
    return [EntityRow(id_, version, present, orjson.loads(t), orjson.loads(s)) for id_, version, present, t, s in rows]


async def entities_after(uow: UnitOfWork, kind: Kind, after: int, limit: int) -> list[EntityRow]:
    """A page of entities by id."""
    rows = await uow.rows(
        "SELECT entity_id, version, present, CAST(tags AS text), CAST(scores AS text) FROM entity"
        " WHERE entity_kind = :kind AND entity_id > :after ORDER BY entity_id LIMIT :limit",
        kind=int(kind),
        after=after,
        limit=limit,
    )
    return [EntityRow(id_, version, present, orjson.loads(t), orjson.loads(s)) for id_, version, present, t, s in rows]


async def relations_after(uow: UnitOfWork, after: Pair, limit: int) -> list[RelationRow]:
    """A page of relations in the order of pairs, removed ones included."""
    rows = await uow.rows(
        "SELECT subject_kind, subject_id, object_kind, object_id, kind, removed, version FROM entity_relation"
        " WHERE (subject_kind, subject_id, object_kind, object_id, kind)"
        " > (CAST(:subject_kind AS smallint), :subject_id, CAST(:object_kind AS smallint), :object_id, :kind)"
        " ORDER BY subject_kind, subject_id, object_kind, object_id, kind LIMIT :limit",
        **after._asdict(),
        limit=limit,
    )
    return [RelationRow(Pair(*row[:5]), row[5], row[6]) for row in rows]


async def derived_with(uow: UnitOfWork, kind: Kind) -> str | None:
    """Fingerprint of the catalogue that all entities of a kind were last derived with."""
    rows = await uow.rows("SELECT digest FROM derivation WHERE entity_kind = :kind", kind=int(kind))
    return str(rows[0].digest) if rows else None


async def mark_derived(uow: UnitOfWork, kind: Kind, digest: str) -> None:
    """Remembers that all entities of a kind are derived with a catalogue."""
    await uow.execute(
        "INSERT INTO derivation (entity_kind, digest) VALUES (:kind, :digest)"
        " ON CONFLICT (entity_kind) DO UPDATE SET digest = EXCLUDED.digest",
        kind=int(kind),
        digest=digest,
    )
