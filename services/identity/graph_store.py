"""The graph in SQL: identifiers, links, neighbourhoods, and the view of who is who. Writers hold one lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.identity.domain.clusters import Link, Node
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import REASON_OF, Kind, Reason, Space
from services.identity.events import LedgerEntry
from services.identity.vault import Vault

_KINDS = {int(kind): kind for kind in Kind}

# One writer of the graph at a time, over all replicas; the hot path does not take it.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('identity graph'))"


class LinkSeen(NamedTuple):
    """A link to store: ids, who claims it, when, and for an anchor's link to itself the name in clear."""

    space: Space
    anchor_id: int
    value_id: int
    name_token: bytes
    source_id: int
    seen_us: int
    name: str


@dataclass(frozen=True)
class Neighbourhood:
    """All that a change may touch: nodes, their links, and the present (entity, version) of each node."""

    nodes: Mapping[int, Node]
    links: frozenset[Link]
    owners: Mapping[int, tuple[int, int]]


async def lock(uow: UnitOfWork) -> None:
    """Waits until this transaction is the only one that changes the graph."""
    await uow.execute(LOCK)


async def identifier_ids(uow: UnitOfWork, tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Token → id of identifiers that are known."""
    rows = await uow.rows(
        "SELECT i.token, i.id FROM unnest(CAST(:tokens AS bytea[])) AS wanted(token) JOIN identifier i USING (token)",
        tokens=tokens,
    )
    return {row.token: row.id for row in rows}


async def ensure_identifiers(
    uow: UnitOfWork, vault: Vault, seen: Mapping[bytes, tuple[Known, bool, int]]
) -> tuple[dict[bytes, int], set[int]]:
    """Stores identifiers (token → known, is an anchor, seen at); returns token → id and the ids that became anchors."""
    ids = await identifier_ids(uow, list(seen))
    new = [(known, anchor, at) for token, (known, anchor, at) in seen.items() if token not in ids]
    # Inserted in the order of tokens, so that ids are dense whatever the batch repeats.
    new.sort(key=lambda entry: entry[0].token)
    rows = await uow.rows(
        "INSERT INTO identifier (id, kind, scope, token, sealed, anchor, entity_id, version, person_guard, vehicle_guard,"
        " first_seen_us, last_seen_us)"
        " SELECT nextval('identifier_id_seq'), kind, scope, token, sealed, anchor, 0, 0, 0, 0, seen, seen"
        " FROM unnest(CAST(:kinds AS smallint[]), CAST(:scopes AS text[]), CAST(:tokens AS bytea[]),"
        " CAST(:sealed AS bytea[]), CAST(:anchors AS boolean[]), CAST(:seen AS bigint[]))"
        " AS new(kind, scope, token, sealed, anchor, seen) RETURNING token, id, anchor",
        kinds=[int(known.kind) for known, _, _ in new],
        scopes=[known.scope for known, _, _ in new],
        tokens=[known.token for known, _, _ in new],
        sealed=[vault.seal(known.token, known.value) for known, _, _ in new],
        anchors=[anchor for _, anchor, _ in new],
        seen=[at for _, _, at in new],
    )
    became = {row.id for row in rows if row.anchor}
    old = [(ids[token], anchor, at) for token, (_, anchor, at) in seen.items() if token in ids]
    if old:
        turned = await uow.rows(
            "WITH seen AS (SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:anchors AS boolean[]), CAST(:at AS bigint[]))"
            " AS s(id, anchor, at)), before AS (SELECT i.id, i.anchor FROM identifier i JOIN seen USING (id))"
            " UPDATE identifier i SET last_seen_us = greatest(i.last_seen_us, s.at),"
            " first_seen_us = least(i.first_seen_us, s.at), anchor = i.anchor OR s.anchor"
            " FROM seen s JOIN before b USING (id) WHERE i.id = s.id RETURNING i.id, i.anchor AND NOT b.anchor AS turned",
            ids=[id_ for id_, _, _ in old],
            anchors=[anchor for _, anchor, _ in old],
            at=[at for _, _, at in old],
        )
        became |= {row.id for row in turned if row.turned}
    return ids | {row.token: row.id for row in rows}, became


async def add_links(uow: UnitOfWork, vault: Vault, links: Sequence[LinkSeen]) -> list[LinkSeen]:
    """Stores links or notes that they were seen again; returns those that are new."""
    if not links:
        return []
    rows = await uow.rows(
        "INSERT INTO link (space, anchor_id, value_id, name_token, source_id, sealed_name, first_seen_us, last_seen_us,"
        " observations)"
        " SELECT *, seen, 1 FROM unnest(CAST(:spaces AS smallint[]), CAST(:anchors AS bigint[]), CAST(:to AS bigint[]),"
        " CAST(:names AS bytea[]), CAST(:sources AS smallint[]), CAST(:sealed AS bytea[]), CAST(:seen AS bigint[]))"
        " AS new(space, anchor_id, value_id, name_token, source_id, sealed_name, seen)"
        " ON CONFLICT (space, anchor_id, value_id, name_token, source_id) DO UPDATE SET"
        " last_seen_us = greatest(link.last_seen_us, excluded.last_seen_us),"
        " first_seen_us = least(link.first_seen_us, excluded.first_seen_us),"
        " observations = link.observations + 1"
        " RETURNING space, anchor_id, value_id, name_token, source_id, observations",
        spaces=[int(link.space) for link in links],
        anchors=[link.anchor_id for link in links],
        to=[link.value_id for link in links],
        names=[link.name_token for link in links],
        sources=[link.source_id for link in links],
        sealed=[vault.seal(link.name_token, link.name) if link.name else b"" for link in links],
        seen=[link.seen_us for link in links],
    )
    new = {tuple(row[:5]) for row in rows if row.observations == 1}
    return [link for link in links if tuple(link[:5]) in new]


async def add_claims(uow: UnitOfWork, claims: Sequence[tuple[bytes, int, int, int]]) -> None:
    """Remembers (signature, person anchor, vehicle anchor, seen at)."""
    await uow.execute(
        "INSERT INTO claim (signature, person_anchor, vehicle_anchor, last_seen_us) SELECT * FROM"
        " unnest(CAST(:signatures AS bytea[]), CAST(:persons AS bigint[]), CAST(:vehicles AS bigint[]),"
        " CAST(:seen AS bigint[]))"
        " ON CONFLICT (signature) DO UPDATE SET last_seen_us = greatest(claim.last_seen_us, excluded.last_seen_us)",
        signatures=[claim[0] for claim in claims],
        persons=[claim[1] for claim in claims],
        vehicles=[claim[2] for claim in claims],
        seen=[claim[3] for claim in claims],
    )


async def add_relations(uow: UnitOfWork, relations: Mapping[tuple[int, int, str], tuple[int, int]]) -> None:
    """Stores relations (person anchor, vehicle anchor, kind) with when they were first and last seen."""
    if not relations:
        return
    keys = sorted(relations)
    await uow.execute(
        "INSERT INTO relation (person_anchor, vehicle_anchor, kind, first_seen_us, last_seen_us) SELECT * FROM"
        " unnest(CAST(:persons AS bigint[]), CAST(:vehicles AS bigint[]), CAST(:kinds AS text[]), CAST(:first AS bigint[]),"
        " CAST(:last AS bigint[]))"
        " ON CONFLICT (person_anchor, vehicle_anchor, kind) DO UPDATE SET"
        " first_seen_us = least(relation.first_seen_us, excluded.first_seen_us),"
        " last_seen_us = greatest(relation.last_seen_us, excluded.last_seen_us)",
        persons=[key[0] for key in keys],
        vehicles=[key[1] for key in keys],
        kinds=[key[2] for key in keys],
        first=[relations[key][0] for key in keys],
        last=[relations[key][1] for key in keys],
    )


async def neighbourhood(uow: UnitOfWork, space: Space, start: Iterable[int]) -> Neighbourhood:
    """Everything that hangs together with `start` over values that are not shared."""
    guard = "person_guard" if space is Space.PERSON else "vehicle_guard"
    # For each identifier found, the links at either end. Shared ones are not passed. The planner cannot know how far a walk
    # goes and would rather read whole tables: OFFSET 0 keeps each look-up a look-up by index.
    rows = await uow.rows(
        "WITH RECURSIVE near(id) AS (SELECT unnest(CAST(:ids AS bigint[])) UNION SELECT far.id FROM near"  # noqa: S608
        f" CROSS JOIN LATERAL (SELECT 1 FROM identifier WHERE id = near.id AND {guard} = 0 OFFSET 0) passable"
        " CROSS JOIN LATERAL ((SELECT value_id AS id FROM link WHERE space = :space AND anchor_id = near.id OFFSET 0)"
        " UNION ALL (SELECT anchor_id FROM link WHERE space = :space AND value_id = near.id OFFSET 0)) far)"
        " SELECT i.* FROM near CROSS JOIN LATERAL"
        f" (SELECT id, kind, token, anchor, {guard} AS guard, entity_id, version FROM identifier"
        " WHERE id = near.id OFFSET 0) i",
        ids=list(start),
        space=int(space),
    )
    nodes = {id_: Node(_KINDS[kind], token, anchor, REASON_OF.get(shared)) for id_, kind, token, anchor, shared, _, _ in rows}
    owners = {id_: (entity_id, version) for id_, _, _, _, _, entity_id, version in rows}
    # A link of an open node has its anchor among the nodes, so one end is enough to look it up by.
    found = await uow.rows(
        "SELECT l.anchor_id, l.value_id, l.name_token, s.name FROM unnest(CAST(:ids AS bigint[])) AS n(id) CROSS JOIN LATERAL"
        " (SELECT anchor_id, value_id, name_token, source_id FROM link WHERE space = :space AND anchor_id = n.id OFFSET 0) l"
        " JOIN source s ON s.id = l.source_id",
        space=int(space),
        ids=list(nodes),
    )
    return Neighbourhood(nodes, frozenset(link for link in map(Link._make, found) if link.value in nodes), owners)


async def draw(uow: UnitOfWork, space: Space, newcomers: int) -> tuple[int, list[int]]:
    """The next version of the graph and new entity ids, never used before.

    Drawn under the lock, so that versions grow in the order of commits.
    """
    sequence = "person_id_seq" if space is Space.PERSON else "vehicle_id_seq"
    rows = await uow.rows(
        "SELECT nextval('graph_version_seq') AS version,"  # noqa: S608
        f" ARRAY(SELECT nextval('{sequence}') FROM generate_series(1, :newcomers)) AS ids",
        newcomers=newcomers,
    )
    return int(rows[0].version), list(rows[0].ids)


async def write_owners(uow: UnitOfWork, owners: Mapping[int, int], version: int) -> None:
    """Writes the view: identifier → entity."""
    await uow.execute(
        "UPDATE identifier i SET entity_id = o.entity_id, version = :version"
        " FROM unnest(CAST(:ids AS bigint[]), CAST(:entities AS bigint[])) AS o(id, entity_id) WHERE i.id = o.id",
        ids=list(owners),
        entities=list(owners.values()),
        version=version,
    )


async def write_guards(uow: UnitOfWork, space: Space, guards: Mapping[int, int]) -> None:
    """Marks values as shared, for good."""
    if not guards:
        return
    column = "person_guard" if space is Space.PERSON else "vehicle_guard"
    await uow.execute(
        f"UPDATE identifier i SET {column} = g.guard"  # noqa: S608
        " FROM unnest(CAST(:ids AS bigint[]), CAST(:guards AS smallint[])) AS g(id, guard) WHERE i.id = g.id",
        ids=list(guards),
        guards=list(guards.values()),
    )


async def write_ledger(
    uow: UnitOfWork, space: Space, changes: Sequence[tuple[str, int, int, Reason | str, Sequence[int]]], version: int
) -> list[LedgerEntry]:
    """Appends (operation, survivor, other, reason, evidence) and returns the entries with their numbers."""
    if not changes:
        return []
    rows = await uow.rows(
        "INSERT INTO ledger (space, operation, survivor_id, other_id, reason, evidence, version)"
        " SELECT :space, operation, survivor_id, other_id, reason, CAST(evidence AS bigint[]), :version FROM"
        " unnest(CAST(:operations AS text[]), CAST(:survivors AS bigint[]), CAST(:others AS bigint[]),"
        " CAST(:reasons AS text[]), CAST(:evidence AS text[]))"
        " WITH ORDINALITY AS new(operation, survivor_id, other_id, reason, evidence, place) ORDER BY place"
        " RETURNING op_id, operation, survivor_id, other_id, reason",
        space=int(space),
        version=version,
        operations=[change[0] for change in changes],
        survivors=[change[1] for change in changes],
        others=[change[2] for change in changes],
        reasons=[str(change[3]) for change in changes],
        # Arrays of arrays of unequal length do not travel; their text form does.
        evidence=["{" + ",".join(map(str, change[4])) + "}" for change in changes],
    )
    return [LedgerEntry(r.op_id, space, r.operation, r.survivor_id, r.other_id, r.reason) for r in rows]


async def register(uow: UnitOfWork, identifier_ids_: Sequence[int], reason: str) -> int:
    """Puts identifiers on the register of dealer and staff values; returns how many were not on it."""
    rows = await uow.rows(
        "INSERT INTO registered (identifier_id, reason) SELECT unnest(CAST(:ids AS bigint[])), :reason"
        " ON CONFLICT (identifier_id) DO NOTHING RETURNING identifier_id",
        ids=identifier_ids_,
        reason=reason,
    )
    return len(rows)
