"""What callers may ask, in SQL; nothing here changes anything but the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.db import UnitOfWork
from services.identity.domain.kinds import Kind, Space
from services.identity.events import LedgerEntry

PERSON_KINDS = [int(kind) for kind in Kind if kind.space is Space.PERSON]
VEHICLE_KINDS = [int(kind) for kind in Kind if kind.space is Space.VEHICLE]


def kinds_of(space: Space) -> list[int]:
    """Numbers of the kinds that identify entities of a space."""
    return PERSON_KINDS if space is Space.PERSON else VEHICLE_KINDS


@dataclass(frozen=True)
class Revealed:
    """A person's address, still sealed, the anchor it hangs on, and the sealed name with its token."""

    person_id: int
    anchor_id: int
    token: bytes
    sealed: bytes
    name_token: bytes
    sealed_name: bytes


async def entity_ids(uow: UnitOfWork, tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Token → entity id; 0 for values that are nobody's."""
    rows = await uow.rows(
        "SELECT i.token, i.entity_id FROM unnest(CAST(:tokens AS bytea[])) AS wanted(token) JOIN identifier i USING (token)",
        tokens=tokens,
    )
    return {row.token: row.entity_id for row in rows}


async def members(uow: UnitOfWork, space: Space, entity_id: int) -> Sequence[Any]:
    """Rows (id, kind, anchor) of one entity's identifiers."""
    return await uow.rows(
        "SELECT id, kind, anchor FROM identifier WHERE entity_id = :entity_id AND kind = ANY(CAST(:kinds AS smallint[]))"
        " ORDER BY id",
        entity_id=entity_id,
        kinds=kinds_of(space),
    )


async def relations(uow: UnitOfWork, space: Space, anchors: Sequence[int]) -> Sequence[Any]:
    """Rows (kind, other, first_seen_us, last_seen_us) of relations over anchors, one per kind and other entity."""
    mine, other = ("person_anchor", "vehicle_anchor") if space is Space.PERSON else ("vehicle_anchor", "person_anchor")
    return await uow.rows(
        f"SELECT r.kind, i.entity_id AS other, min(r.first_seen_us) AS first_seen_us,"  # noqa: S608
        f" max(r.last_seen_us) AS last_seen_us FROM relation r JOIN identifier i ON i.id = r.{other}"
        f" WHERE r.{mine} = ANY(CAST(:anchors AS bigint[])) GROUP BY r.kind, i.entity_id ORDER BY r.kind, i.entity_id",
        anchors=anchors,
    )


async def evidence(uow: UnitOfWork, space: Space, hops: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """For pairs of ids in either order, the best attested link: source, observations, first and last seen."""
    rows = await uow.rows(
        "SELECT DISTINCT ON (h.a, h.b) h.a, h.b, s.name, l.observations, l.first_seen_us, l.last_seen_us"
        " FROM unnest(CAST(:a AS bigint[]), CAST(:b AS bigint[])) AS h(a, b)"
        " JOIN link l ON l.space = :space AND ((l.anchor_id = h.a AND l.value_id = h.b)"
        " OR (l.anchor_id = h.b AND l.value_id = h.a)) JOIN source s ON s.id = l.source_id"
        " ORDER BY h.a, h.b, l.observations DESC, l.last_seen_us DESC",
        a=[a for a, _ in hops],
        b=[b for _, b in hops],
        space=int(space),
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
    """Rows (id, kind, guard, anchors) of values that stopped linking, below (anchors, id), highest degree first."""
    return await uow.rows(
        "SELECT * FROM (SELECT i.id, i.kind, greatest(i.person_guard, i.vehicle_guard) AS guard,"
        " (SELECT count(DISTINCT l.anchor_id) FROM link l WHERE l.value_id = i.id AND l.space IN (1, 2)) AS anchors"
        " FROM identifier i WHERE i.person_guard > 0 OR i.vehicle_guard > 0) AS shared"
        " WHERE (anchors, id) < (CAST(:anchors AS bigint), CAST(:id AS bigint)) ORDER BY anchors DESC, id DESC LIMIT :size",
        anchors=after[0],
        id=after[1],
        size=size,
    )


async def addresses(uow: UnitOfWork, persons: Sequence[int], kind: Kind, scope: str, with_name: bool) -> list[Revealed]:
    """The best address of each person: the person's own before one that only a record of theirs names, latest first."""
    rows = await uow.rows(
        "WITH wanted AS (SELECT DISTINCT unnest(CAST(:persons AS bigint[])) AS person_id),"
        " anchor AS (SELECT w.person_id, i.id FROM wanted w JOIN identifier i ON i.entity_id = w.person_id"
        " WHERE i.anchor AND i.kind = ANY(CAST(:person_kinds AS smallint[]))),"
        " candidate AS ("
        " SELECT a.person_id, a.id AS anchor_id, i.token, i.sealed, 2 AS closeness, i.last_seen_us"
        " FROM anchor a JOIN identifier i ON i.id = a.id WHERE i.kind = :kind AND i.scope = :scope AND i.person_guard = 0"
        " UNION ALL"
        " SELECT a.person_id, a.id, i.token, i.sealed, CASE WHEN i.entity_id = a.person_id THEN 1 ELSE 0 END, l.last_seen_us"
        " FROM anchor a JOIN link l ON l.space = 1 AND l.anchor_id = a.id JOIN identifier i ON i.id = l.value_id"
        " WHERE i.kind = :kind AND i.scope = :scope AND i.person_guard = 0 AND l.value_id <> l.anchor_id),"
        " best AS (SELECT DISTINCT ON (person_id) * FROM candidate"
        " ORDER BY person_id, closeness DESC, last_seen_us DESC, token),"
        " name AS (SELECT DISTINCT ON (a.person_id) a.person_id, l.name_token, l.sealed_name"
        " FROM anchor a JOIN link l ON l.space = 1 AND l.anchor_id = a.id AND l.value_id = a.id"
        " WHERE :with_name AND l.sealed_name <> '' ORDER BY a.person_id, l.last_seen_us DESC)"
        " SELECT b.person_id, b.anchor_id, b.token, b.sealed, coalesce(n.name_token, '') AS name_token,"
        " coalesce(n.sealed_name, '') AS sealed_name FROM best b LEFT JOIN name n USING (person_id) ORDER BY b.person_id",
        persons=persons,
        person_kinds=PERSON_KINDS,
        kind=int(kind),
        scope=scope,
        with_name=with_name,
    )
    return [Revealed(r.person_id, r.anchor_id, r.token, r.sealed, r.name_token, r.sealed_name) for r in rows]


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
        "SELECT (SELECT count(DISTINCT entity_id) FROM identifier WHERE anchor AND kind = ANY(CAST(:person AS smallint[])))"
        " AS persons,"
        " (SELECT count(DISTINCT entity_id) FROM identifier WHERE anchor AND kind = ANY(CAST(:vehicle AS smallint[])))"
        " AS vehicles,"
        " (SELECT count(*) FROM identifier) AS identifiers,"
        " (SELECT count(*) FROM observation) AS observations,"
        " (SELECT count(*) FROM ledger WHERE operation = 'merge') AS merges,"
        " (SELECT count(*) FROM ledger WHERE operation = 'split') AS splits,"
        " (SELECT count(*) FROM identifier WHERE person_guard > 0 OR vehicle_guard > 0) AS shared_identifiers,"
        " (SELECT coalesce(sum(identifiers), 0) FROM rejected) AS rejected_identifiers",
        person=PERSON_KINDS,
        vehicle=VEHICLE_KINDS,
    )
    return {name: int(value) for name, value in rows[0]._mapping.items()}
