"""What callers may ask, in SQL; nothing here changes anything but the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chassis.db import Reader, UnitOfWork
from services.identity.domain.kinds import Kind, Space
from services.identity.events import LedgerEntry
from services.identity.vault import identifier_place, profile_place

PERSON_KINDS = [int(kind) for kind in Kind if kind.space is Space.PERSON]
VEHICLE_KINDS = [int(kind) for kind in Kind if kind.space is Space.VEHICLE]


def kinds_of(space: Space) -> list[int]:
    """Numbers of the kinds that identify entities of a space."""
    return PERSON_KINDS if space is Space.PERSON else VEHICLE_KINDS


class Cell(NamedTuple):
    """A sealed cell with all that the vault needs to open it."""

    key_id: int
    kek_id: str
    wrapped: bytes
    place: bytes
    sealed: bytes


@dataclass(frozen=True)
class Revealed:
    """A person's address and profile, still sealed, and the anchor the address hangs on."""

    person_id: int
    anchor_id: int
    address: Cell
    profile: Cell | None


async def entity_ids(reader: Reader, tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Token → entity id, under either key while keys rotate; 0 for values that are nobody's."""
    rows = await reader.fetch(
        "SELECT wanted.token, i.entity_id FROM unnest($1::bytea[]) AS wanted(token)"
        " CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE token = wanted.token"
        " UNION ALL SELECT entity_id FROM identifier WHERE next_token = wanted.token OFFSET 0) i",
        tokens,
    )
    return {row[0]: row[1] for row in rows}


async def anchors(reader: Reader, tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Token → the anchor through which it belongs to its entity: itself, or the oldest record of the entity that names it."""
    rows = await reader.fetch(
        "SELECT wanted.token, CASE WHEN i.anchor THEN i.id ELSE coalesce((SELECT min(l.anchor_id) FROM link l"
        " JOIN identifier a ON a.id = l.anchor_id WHERE l.value_id = i.id AND l.strength = 0 AND a.anchor"
        " AND a.entity_id = i.entity_id), 0) END FROM unnest($1::bytea[]) AS wanted(token)"
        " CROSS JOIN LATERAL (SELECT id, entity_id, anchor FROM identifier WHERE token = wanted.token"
        " UNION ALL SELECT id, entity_id, anchor FROM identifier WHERE next_token = wanted.token OFFSET 0) i"
        " WHERE i.entity_id > 0",
        tokens,
    )
    return {row[0]: row[1] for row in rows}


async def members(uow: UnitOfWork, space: Space, entity_id: int) -> Sequence[Any]:
    """Rows (id, kind, anchor) of one entity's identifiers."""
    return await uow.rows(
        "SELECT id, kind, anchor FROM identifier WHERE entity_id = :entity_id AND kind = ANY(CAST(:kinds AS smallint[]))"
        " ORDER BY id",
        entity_id=entity_id,
        kinds=kinds_of(space),
    )


async def evidence(uow: UnitOfWork, hops: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """For pairs of ids in either order, the best attested link: source, observations, first and last seen."""
    rows = await uow.rows(
        "SELECT DISTINCT ON (h.a, h.b) h.a, h.b, s.name, l.observations, l.first_seen_us, l.last_seen_us"
        " FROM unnest(CAST(:a AS bigint[]), CAST(:b AS bigint[])) AS h(a, b)"
        " JOIN link l ON l.strength >= 0 AND ((l.anchor_id = h.a AND l.value_id = h.b)"
        " OR (l.anchor_id = h.b AND l.value_id = h.a)) JOIN source s ON s.id = l.source_id"
        " ORDER BY h.a, h.b, l.observations DESC, l.last_seen_us DESC",
        a=[a for a, _ in hops],
        b=[b for _, b in hops],
    )
    return {(row.a, row.b): row for row in rows}


async def ledger_page(uow: UnitOfWork, before: int, size: int) -> list[LedgerEntry]:
    """Entries with numbers below `before`, newest first."""
    rows = await uow.rows(
        "SELECT op_id, space, operation, survivor_id, other_id, reason FROM ledger WHERE op_id < :before"
        " ORDER BY op_id DESC LIMIT :size",
        before=before,
        size=size,
    )
    return [LedgerEntry(r.op_id, Space(r.space), r.operation, r.survivor_id, r.other_id, r.reason) for r in rows]


async def shared_page(uow: UnitOfWork, after: tuple[int, int], size: int) -> Sequence[Any]:
    """Rows (id, kind, reason, note, links) of values that are out of use, below (links, id), highest degree first."""
    return await uow.rows(
        "SELECT i.id, i.kind, s.reason, s.note, s.links FROM shared s JOIN identifier i ON i.id = s.identifier_id"
        " WHERE (s.links, s.identifier_id) < (CAST(:links AS bigint), CAST(:id AS bigint))"
        " ORDER BY s.links DESC, s.identifier_id DESC LIMIT :size",
        links=after[0],
        id=after[1],
        size=size,
    )


async def addresses(uow: UnitOfWork, persons: Sequence[int], kind: Kind, scope: str, with_name: bool) -> list[Revealed]:
    """The best address of each person: the person's own before one that only a record of theirs names, latest first."""
    rows = await uow.rows(
        "WITH wanted AS (SELECT DISTINCT unnest(CAST(:persons AS bigint[])) AS person_id),"
        " sought AS (SELECT coalesce((SELECT id FROM scope WHERE name = :scope AND :scope <> ''), 0) AS scope_id),"
        " anchor AS (SELECT w.person_id, i.id FROM wanted w JOIN identifier i ON i.entity_id = w.person_id"
        " WHERE i.anchor AND i.kind = ANY(CAST(:person_kinds AS smallint[]))),"
        " candidate AS ("
        " SELECT a.person_id, a.id AS anchor_id, i.id, i.sealed, i.subject_key_id, 2 AS closeness, i.last_seen_us"
        " FROM anchor a JOIN identifier i ON i.id = a.id JOIN sought USING (scope_id)"
        " WHERE i.kind = :kind AND i.person_guard = 0"
        " UNION ALL"
        " SELECT a.person_id, a.id, i.id, i.sealed, i.subject_key_id,"
        " CASE WHEN i.entity_id = a.person_id THEN 1 ELSE 0 END, l.last_seen_us"
        " FROM anchor a JOIN link l ON l.anchor_id = a.id JOIN identifier i ON i.id = l.value_id JOIN sought USING (scope_id)"
        " WHERE i.kind = :kind AND i.person_guard = 0 AND l.value_id <> l.anchor_id AND l.strength = 0),"
        " best AS (SELECT DISTINCT ON (person_id) * FROM candidate"
        " ORDER BY person_id, closeness DESC, last_seen_us DESC, id),"
        " named AS (SELECT DISTINCT ON (a.person_id) a.person_id, p.anchor_id, p.subject_key_id, p.sealed"
        " FROM anchor a JOIN profile p ON p.anchor_id = a.id"
        " WHERE :with_name AND p.name <> 0 ORDER BY a.person_id, p.seen_us DESC)"
        " SELECT b.person_id, b.anchor_id, b.id, b.sealed, b.subject_key_id, k.kek_id, k.wrapped,"
        " n.anchor_id AS named_anchor, n.sealed AS profile, n.subject_key_id AS profile_key_id,"
        " nk.kek_id AS profile_kek_id, nk.wrapped AS profile_wrapped"
        " FROM best b JOIN subject_key k ON k.id = b.subject_key_id LEFT JOIN named n USING (person_id)"
        " LEFT JOIN subject_key nk ON nk.id = n.subject_key_id ORDER BY b.person_id",
        persons=persons,
        person_kinds=PERSON_KINDS,
        kind=int(kind),
        scope=scope,
        with_name=with_name,
    )
    return [
        Revealed(
            r.person_id,
            r.anchor_id,
            Cell(r.subject_key_id, r.kek_id, r.wrapped, identifier_place(r.id), r.sealed),
            Cell(r.profile_key_id, r.profile_kek_id, r.profile_wrapped, profile_place(r.named_anchor), r.profile)
            if r.profile_wrapped is not None
            else None,
        )
        for r in rows
    ]


async def audit_reveal(uow: UnitOfWork, *, caller: str, purpose: str, kind: str, scope: str, persons: Sequence[int]) -> None:
    """Writes down who saw whose addresses and why."""
    await uow.execute(
        "INSERT INTO reveal_audit (caller, purpose, kind, scope, person_ids)"
        " VALUES (:caller, :purpose, :kind, :scope, CAST(:persons AS bigint[]))",
        caller=caller,
        purpose=purpose,
        kind=kind,
        scope=scope,
        persons=persons,
    )


async def statistics(uow: UnitOfWork) -> Mapping[str, int]:
    """How much there is, by the names of the contract's fields."""
    rows = await uow.rows(
        "SELECT (SELECT count(DISTINCT entity_id) FROM identifier WHERE entity_id > 0 AND anchor"
        " AND kind = ANY(CAST(:person AS smallint[]))) AS persons,"
        " (SELECT count(DISTINCT entity_id) FROM identifier WHERE entity_id > 0 AND anchor"
        " AND kind = ANY(CAST(:vehicle AS smallint[]))) AS vehicles,"
        " (SELECT count(*) FROM identifier) AS identifiers,"
        " (SELECT count(*) FROM observation) AS observations,"
        " (SELECT count(*) FROM ledger WHERE operation = 'merge') AS merges,"
        " (SELECT count(*) FROM ledger WHERE operation = 'split') AS splits,"
        " (SELECT count(*) FROM shared) AS shared_identifiers,"
        " (SELECT coalesce(sum(identifiers), 0) FROM rejected) AS rejected_identifiers",
        person=PERSON_KINDS,
        vehicle=VEHICLE_KINDS,
    )
    return {name: int(value) for name, value in rows[0]._mapping.items()}


async def identifier_ids(uow: UnitOfWork, tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Token → id of identifiers that stand under these tokens; those of erased persons are known to nobody."""
    rows = await uow.fetch(
        "SELECT wanted.token, i.id FROM unnest($1::bytea[]) AS wanted(token)"
        " CROSS JOIN LATERAL (SELECT id, sealed FROM identifier WHERE token = wanted.token"
        " UNION SELECT id, sealed FROM identifier WHERE next_token = wanted.token OFFSET 0) i WHERE i.sealed <> ''",
        list(tokens),
    )
    return {bytes(row[0]): int(row[1]) for row in rows}


async def merges_page(uow: UnitOfWork, person_id: int, before: int, size: int) -> Sequence[Any]:
    """Merges of persons with numbers below `before`, newest first; of one person when it is not 0. `at_us`: when."""
    return await uow.fetch(
        "SELECT l.op_id, o.request_id, l.survivor_id, l.other_id, l.reason, cardinality(l.moved) AS moved, o.caller,"
        " (extract(epoch FROM l.at) * 1000000)::bigint AS at_us, coalesce(o.undone_by, 0) > 0 OR EXISTS"
        " (SELECT 1 FROM identifier i WHERE i.id = l.kept[1] AND l.op_id = ANY(i.apart)) AS undone"
        " FROM ledger l LEFT JOIN operation o ON o.id = l.cause AND o.kind = 'merge'"
        " WHERE l.operation = 'merge' AND l.space = 1 AND l.op_id < $1"
        " AND ($2::bigint = 0 OR l.survivor_id = $2 OR l.other_id = $2) ORDER BY l.op_id DESC LIMIT $3",
        before,
        person_id,
        size,
    )
