"""The graph in SQL: neighbourhoods in, the view of who is who out. Writers hold one lock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from chassis.db import UnitOfWork
from services.identity.domain.kinds import REASON_OF, Space
from services.identity.domain.reasons import Told
from services.identity.events import LedgerEntry

# One writer of the graph at a time, over all replicas; the hot path does not take it.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('identity graph'))"

_NODE = (
    "id, token, kind, anchor, entity_id, born_id, component_id, version, person_guard, vehicle_guard, cleared, outside,"
    " apart, last_seen_us"
)
# The planner cannot know how few rows each look-up finds and would rather read whole tables: OFFSET 0 keeps each look-up a
# look-up by index. What is shared belongs to no component and comes alone.
_NEAR = f"""SELECT i.* FROM (SELECT DISTINCT component_id FROM hit WHERE component_id <> 0) c CROSS JOIN LATERAL
 (SELECT {_NODE} FROM identifier WHERE component_id = c.component_id OFFSET 0) i
 UNION ALL SELECT i.* FROM (SELECT DISTINCT id FROM hit WHERE component_id = 0) h CROSS JOIN LATERAL
 (SELECT {_NODE} FROM identifier WHERE id = h.id OFFSET 0) i"""  # noqa: S608
# All that hangs together with values, by their tokens ($1).
NEAR_TOKENS = f"""WITH hit AS MATERIALIZED (SELECT i.id, i.component_id FROM unnest($1::bytea[]) AS wanted(token)
 CROSS JOIN LATERAL (SELECT id, component_id FROM identifier WHERE token = wanted.token OFFSET 0) i) {_NEAR}"""  # noqa: S608
# Rows that stand under a second token while keys rotate.
NEXT_TOKENS = """SELECT i.next_token, i.token FROM unnest($1::bytea[]) AS wanted(token)
 CROSS JOIN LATERAL (SELECT token, next_token FROM identifier WHERE next_token = wanted.token OFFSET 0) i"""
# The same by ids ($1) and all that is linked to them, over shared values, too.
NEAR_IDS = f"""WITH start AS (SELECT unnest($1::bigint[]) AS id), further AS MATERIALIZED (SELECT id FROM start
 UNION SELECT l.value_id FROM start CROSS JOIN LATERAL (SELECT value_id FROM link WHERE anchor_id = start.id OFFSET 0) l
 UNION SELECT l.anchor_id FROM start CROSS JOIN LATERAL (SELECT anchor_id FROM link WHERE value_id = start.id OFFSET 0) l),
 hit AS MATERIALIZED (SELECT i.id, i.component_id FROM further CROSS JOIN LATERAL
 (SELECT id, component_id FROM identifier WHERE id = further.id OFFSET 0) i) {_NEAR}"""  # noqa: S608
LINKS = (
    "SELECT l.* FROM unnest($1::bigint[]) AS a(id) CROSS JOIN LATERAL"
    " (SELECT anchor_id, value_id, name, source_id, strength FROM link WHERE anchor_id = a.id OFFSET 0) l"
)
LINKS_TO = (
    "SELECT l.* FROM unnest($1::bigint[]) AS v(id) CROSS JOIN LATERAL"
    " (SELECT anchor_id, value_id, name, source_id, strength FROM link WHERE value_id = v.id OFFSET 0) l"
)


class LinkSeen(NamedTuple):
    """A link to store: ids, the hash of the name (0: nameless), who claims it, its strength if stated, when."""

    anchor_id: int
    value_id: int
    name: int
    source_id: int
    strength: int
    seen_us: int


class NewIdentifier(NamedTuple):
    """A row of `identifier`, as COPY takes it."""

    id: int
    kind: int
    scope_id: int
    token: bytes
    next_token: bytes | None
    sealed: bytes
    subject_key_id: int
    anchor: bool
    first_seen_us: int
    last_seen_us: int
    cleared: bool = False
    entity_id: int = 0
    born_id: int = 0
    component_id: int = 0
    version: int = 0
    person_guard: int = 0
    vehicle_guard: int = 0


async def lock(uow: UnitOfWork) -> None:
    """Waits until this transaction is the only one that changes the graph."""
    await uow.execute(LOCK)


async def near_tokens(uow: UnitOfWork, tokens: Iterable[bytes]) -> Sequence[Any]:
    """Rows of all that hangs together with these values."""
    return await uow.fetch(NEAR_TOKENS, list(tokens))


async def next_tokens(uow: UnitOfWork, tokens: Iterable[bytes]) -> dict[bytes, bytes]:
    """Token under the next key → the row's own, for rows that the rotation of keys has reached."""
    return {row[0]: row[1] for row in await uow.fetch(NEXT_TOKENS, list(tokens))}


async def near_ids(uow: UnitOfWork, ids: Iterable[int]) -> Sequence[Any]:
    """Rows of all that hangs together with these identifiers, or would if they linked."""
    return await uow.fetch(NEAR_IDS, list(ids))


async def by_ids(uow: UnitOfWork, ids: Collection[int]) -> Sequence[Any]:
    """Rows of these identifiers alone."""
    return await uow.fetch(f"SELECT {_NODE} FROM identifier WHERE id = ANY($1::bigint[])", list(ids))  # noqa: S608


async def links_of(uow: UnitOfWork, anchors: Collection[int]) -> Sequence[Any]:
    """Rows (anchor, value, name, source, strength) of what anchors came with."""
    return await uow.fetch(LINKS, list(anchors)) if anchors else []


async def links_to(uow: UnitOfWork, values: Collection[int]) -> Sequence[Any]:
    """Rows (anchor, value, name, source, strength) of what came with values."""
    return await uow.fetch(LINKS_TO, list(values)) if values else []


async def draw_rows(uow: UnitOfWork, identifiers: int, subjects: int) -> tuple[int, int]:
    """First of as many consecutive ids of identifiers and of subject keys. Under the lock nobody draws between."""
    rows = await uow.fetch(
        "SELECT setval('identifier_id_seq', nextval('identifier_id_seq') + $1 - 1) - $1 + 1,"
        " setval('subject_key_id_seq', nextval('subject_key_id_seq') + $2 - 1) - $2 + 1",
        max(identifiers, 1),
        max(subjects, 1),
    )
    return int(rows[0][0]), int(rows[0][1])


async def draw_entities(uow: UnitOfWork, persons: int, vehicles: int, components: int) -> tuple[int, int, int, int]:
    """The next version of the graph, and the first of as many new persons, vehicles and components, never used before.

    Drawn under the lock, so that versions grow in the order of commits. Ids are dense: what is not needed is not drawn.
    """
    rows = await uow.fetch(
        "SELECT nextval('graph_version_seq'),"
        " CASE WHEN $1 > 0 THEN setval('person_id_seq', nextval('person_id_seq') + $1 - 1) - $1 + 1 ELSE 0 END,"
        " CASE WHEN $2 > 0 THEN setval('vehicle_id_seq', nextval('vehicle_id_seq') + $2 - 1) - $2 + 1 ELSE 0 END,"
        " CASE WHEN $3 > 0 THEN setval('component_id_seq', nextval('component_id_seq') + $3 - 1) - $3 + 1 ELSE 0 END",
        persons,
        vehicles,
        components,
    )
    version, person, vehicle, component = rows[0]
    return int(version), int(person), int(vehicle), int(component)


async def insert_identifiers(uow: UnitOfWork, rows: Sequence[Sequence[Any]]) -> None:
    """Stores rows as NewIdentifier has them."""
    await uow.copy("identifier", NewIdentifier._fields, rows)


async def update_identifiers(uow: UnitOfWork, rows: Sequence[Sequence[Any]]) -> None:
    """Writes (id, anchor, entity, first entity, component, version, guards of persons and vehicles, last seen)."""
    if rows:
        await uow.fetch(
            "UPDATE identifier i SET anchor = n.anchor, entity_id = n.entity_id, born_id = n.born_id,"
            " component_id = n.component_id, version = n.version, person_guard = n.person_guard,"
            " vehicle_guard = n.vehicle_guard, last_seen_us = n.last_seen_us"
            " FROM unnest($1::bigint[], $2::boolean[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[],"
            " $8::smallint[], $9::bigint[]) AS n(id, anchor, entity_id, born_id, component_id, version, person_guard,"
            " vehicle_guard, last_seen_us) WHERE i.id = n.id",
            *map(list, zip(*rows, strict=True)),
        )


async def mark_outside(uow: UnitOfWork, values: Collection[int]) -> None:
    """Notes that anchors out of use came with these values."""
    if values:
        await uow.fetch("UPDATE identifier SET outside = true WHERE id = ANY($1::bigint[])", list(values))


async def insert_links(uow: UnitOfWork, links: Sequence[LinkSeen]) -> None:
    """Stores links that are known to be new."""
    columns = ("anchor_id", "value_id", "name", "source_id", "strength", "first_seen_us", "last_seen_us", "observations")
    await uow.copy("link", columns, [(*link, link.seen_us, 1) for link in links])


async def store_links(uow: UnitOfWork, links: Sequence[LinkSeen]) -> None:
    """Stores links or notes that they were seen again; what was taken back counts again when it is stated again."""
    if links:
        await uow.fetch(
            "INSERT INTO link (anchor_id, value_id, name, source_id, strength, first_seen_us, last_seen_us, observations)"
            " SELECT anchor_id, value_id, name, source_id, strength, seen, seen, 1 FROM unnest($1::bigint[], $2::bigint[],"
            " $3::bigint[], $4::smallint[], $5::smallint[], $6::bigint[])"
            " AS new(anchor_id, value_id, name, source_id, strength, seen)"
            " ON CONFLICT (anchor_id, value_id, name, source_id) DO UPDATE SET strength = excluded.strength,"
            " last_seen_us = greatest(link.last_seen_us, excluded.last_seen_us),"
            " first_seen_us = least(link.first_seen_us, excluded.first_seen_us), observations = link.observations + 1",
            *map(list, zip(*links, strict=True)),
        )


async def add_claims(uow: UnitOfWork, claims: Sequence[tuple[bytes, int, int, int]]) -> None:
    """Remembers (signature, person anchor, vehicle anchor, seen at)."""
    await uow.fetch(
        "INSERT INTO claim (signature, person_anchor, vehicle_anchor, last_seen_us)"
        " SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[])"
        " ON CONFLICT (signature) DO UPDATE SET last_seen_us = greatest(claim.last_seen_us, excluded.last_seen_us)",
        *map(list, zip(*claims, strict=True)),
    )


async def unowned(uow: UnitOfWork, space: Space, entities: Collection[int]) -> set[int]:
    """Those of some entity ids that are nobody's now."""
    kinds = "9 AND 10" if space is Space.VEHICLE else "1 AND 8"
    rows = await uow.fetch(
        f"SELECT w.id FROM unnest($1::bigint[]) AS w(id) WHERE NOT EXISTS"  # noqa: S608
        f" (SELECT 1 FROM identifier i WHERE i.entity_id = w.id AND i.kind BETWEEN {kinds})"
        # The number of an erased person must never be somebody else's.
        " AND NOT ($2 AND EXISTS (SELECT 1 FROM erasure e WHERE e.person_id = w.id))",
        list(entities),
        space is Space.PERSON,
    )
    return {int(row[0]) for row in rows}


async def write_shared(uow: UnitOfWork, values: Mapping[int, tuple[int, int]], note: str = "") -> None:
    """Puts values (id → reason number, links so far) on the list of shared ones."""
    if values:
        await uow.fetch(
            "INSERT INTO shared (identifier_id, reason, note, links) SELECT id, reason, $4, links"
            " FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS s(id, reason, links)"
            " ON CONFLICT (identifier_id) DO UPDATE SET reason = excluded.reason, note = excluded.note",
            list(values),
            [str(REASON_OF[reason]) for reason, _ in values.values()],
            [links for _, links in values.values()],
            note,
        )


async def unlist_shared(uow: UnitOfWork, values: Collection[int]) -> None:
    """Takes those of some values off the list of shared ones that are in use again."""
    if values:
        await uow.fetch(
            "DELETE FROM shared s USING identifier i WHERE i.id = s.identifier_id AND i.id = ANY($1::bigint[])"
            " AND i.person_guard = 0 AND i.vehicle_guard = 0",
            list(values),
        )


async def count_shared(uow: UnitOfWork, more: Mapping[int, int]) -> None:
    """Adds links to the degree of shared values."""
    if more:
        await uow.fetch(
            "UPDATE shared s SET links = s.links + m.links FROM unnest($1::bigint[], $2::bigint[]) AS m(id, links)"
            " WHERE s.identifier_id = m.id",
            list(more),
            list(more.values()),
        )


def array_text(numbers: Sequence[int]) -> str:
    """An array as PostgreSQL reads it from text."""
    return "{" + ",".join(map(str, numbers)) + "}"


async def write_ledger(
    uow: UnitOfWork, space: Space, changes: Sequence[Told], version: int, cause: int = 0
) -> list[LedgerEntry]:
    """Appends changes and returns the entries with their numbers."""
    if not changes:
        return []
    rows = await uow.fetch(
        "INSERT INTO ledger (space, operation, survivor_id, other_id, reason, evidence, moved, kept, cause, version)"
        " SELECT $1, operation, survivor_id, other_id, reason, evidence::bigint[], moved::bigint[], kept::bigint[], $2, $3 FROM"
        " unnest($4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[])"
        " WITH ORDINALITY AS new(operation, survivor_id, other_id, reason, evidence, moved, kept, place) ORDER BY place"
        " RETURNING op_id, operation, survivor_id, other_id, reason",
        int(space),
        cause,
        version,
        *([change[column] for change in changes] for column in range(4)),
        # Arrays of arrays of unequal length do not travel; their text form does.
        *(
            [array_text(ids) for ids in column]
            for column in zip(*((c.evidence, c.moved, c.kept) for c in changes), strict=True)
        ),
    )
    return [LedgerEntry(r["op_id"], space, r["operation"], r["survivor_id"], r["other_id"], r["reason"]) for r in rows]


async def write_apart(uow: UnitOfWork, marks: Mapping[int, Sequence[int]]) -> None:
    """Writes on which sides of undone merges anchors stand; empty for none."""
    if marks:
        await uow.fetch(
            "UPDATE identifier i SET apart = nullif(m.apart::bigint[], '{}')"
            " FROM unnest($1::bigint[], $2::text[]) AS m(id, apart) WHERE i.id = m.id",
            list(marks),
            [array_text(operations) for operations in marks.values()],
        )


async def first_seen(uow: UnitOfWork, anchors: Sequence[int], kind: int) -> dict[int, int]:
    """When anchors were first seen with a value of a kind (by the links' primary key); those without any are missing."""
    rows = await uow.rows(
        "SELECT l.anchor_id, min(l.first_seen_us) AS first FROM link l JOIN identifier i ON i.id = l.value_id"
        " WHERE l.anchor_id = ANY(CAST(:anchors AS bigint[])) AND i.kind = :kind GROUP BY 1",
        anchors=list(anchors),
        kind=int(kind),
    )
    return {row.anchor_id: row.first for row in rows}
