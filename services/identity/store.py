"""The hot path in SQL: claims that are known, observations, and the counters beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from chassis.db import UnitOfWork
from services.identity.domain.graphs import Ints
from services.identity.domain.kinds import Kind, trust
from services.identity.domain.observations import Observation

LAST_PERSON_KIND = int(Kind.ID_CARD)


CLAIMS = """SELECT c.signature, c.last_seen_us, c.person_anchor, p.entity_id, p.version, c.vehicle_anchor, v.entity_id,
 v.version FROM unnest($1::bytea[]) AS wanted(signature)
 CROSS JOIN LATERAL (SELECT * FROM claim WHERE signature = wanted.signature OFFSET 0) c
 LEFT JOIN LATERAL (SELECT entity_id, version FROM identifier WHERE id = c.person_anchor OFFSET 0) p ON true
 LEFT JOIN LATERAL (SELECT entity_id, version FROM identifier WHERE id = c.vehicle_anchor OFFSET 0) v ON true"""


class Owner(NamedTuple):
    """An anchor and the entity it belongs to since `version`; zeros where there is none."""

    anchor_id: int
    entity_id: int
    version: int


NOBODY = Owner(0, 0, 0)


class Claim(NamedTuple):
    """A known claim: whose anchors it names, who owns them now, and when it was last seen."""

    person: Owner
    vehicle: Owner
    last_seen_us: int


class Store:
    """Set-based statements; what it remembers between them is only numbers of names, which never change."""

    def __init__(self) -> None:
        self._source_ids: dict[str, int] = {}
        self._scope_ids: dict[str, int] = {}
        self._trust: Ints = np.zeros(1, np.int64)

    async def source_ids(self, uow: UnitOfWork, names: Iterable[str]) -> Mapping[str, int]:
        """Numbers of sources, new ones included. Call it before taking the graph's lock, or two writers may deadlock."""
        return await _numbers(uow, "source", self._source_ids, names)

    async def scope_ids(self, uow: UnitOfWork, names: Iterable[str]) -> Mapping[str, int]:
        """Numbers of scopes (appids, sources of record ids), likewise."""
        return await _numbers(uow, "scope", self._scope_ids, set(names) - {""})

    async def trust(self, uow: UnitOfWork) -> Ints:
        """Weight of each source's word, by its number; of all sources that this transaction sees."""
        newest = await uow.fetch("SELECT max(id) FROM source")
        if (newest[0][0] or 0) >= len(self._trust):
            rows = await uow.fetch("SELECT id, name FROM source")
            weights = np.zeros(max(row[0] for row in rows) + 1, np.int64)
            for number, name in rows:
                weights[number] = trust(name)
            self._trust = weights
        return self._trust

    async def claims(self, uow: UnitOfWork, signatures: Sequence[bytes]) -> dict[bytes, Claim]:
        """The known ones among claims, with the present owners of their anchors: the one query of the hot path."""
        rows = await uow.fetch(CLAIMS, list(signatures))
        return {
            row[0]: Claim(
                Owner(row[2], row[3], row[4]) if row[2] else NOBODY,
                Owner(row[5], row[6], row[7]) if row[5] else NOBODY,
                row[1],
            )
            for row in rows
        }

    async def owners(self, uow: UnitOfWork, anchors: Sequence[int]) -> dict[int, Owner]:
        """Present owners of anchors; those that are no anchors are missing."""
        rows = await uow.rows(
            "SELECT id, entity_id, version FROM identifier WHERE id = ANY(CAST(:ids AS bigint[])) AND anchor", ids=anchors
        )
        return {row.id: Owner(row.id, row.entity_id, row.version) for row in rows}

    async def person_anchors(self, uow: UnitOfWork, anchors: Sequence[int]) -> dict[int, Owner]:
        """Like `owners`, of persons only."""
        rows = await uow.rows(
            "SELECT id, entity_id, version FROM identifier"
            " WHERE id = ANY(CAST(:ids AS bigint[])) AND anchor AND kind <= :last_person_kind",
            ids=anchors,
            last_person_kind=LAST_PERSON_KIND,
        )
        return {row.id: Owner(row.id, row.entity_id, row.version) for row in rows}

    async def add_observations(self, uow: UnitOfWork, seen: Sequence[tuple[Observation, int, int]]) -> set[bytes]:
        """Stores events with their person and vehicle anchor; returns the ids of those that were not there before."""
        ids = await self.source_ids(uow, {observation.source for observation, _, _ in seen})
        rows = await uow.fetch(
            "INSERT INTO observation (event_id, source_id, person_anchor, vehicle_anchor, occurred_us, received_us)"
            " SELECT * FROM unnest($1::bytea[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])"
            " ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
            [o.event_id for o, _, _ in seen],
            [ids[o.source] for o, _, _ in seen],
            [person for _, person, _ in seen],
            [vehicle for _, _, vehicle in seen],
            [o.occurred_us for o, _, _ in seen],
            [o.received_us for o, _, _ in seen],
        )
        return {row[0] for row in rows}

    async def count_refused(self, uow: UnitOfWork, refused: Counter[tuple[str, str, str]]) -> None:
        """Adds refused identifiers to their counters."""
        if not refused:
            return
        ids = await self.source_ids(uow, {source for source, _, _ in refused})
        keys = sorted(refused)
        await uow.execute(
            "INSERT INTO rejected (source_id, kind, reason, identifiers) SELECT * FROM unnest(CAST(:sources AS smallint[]),"
            " CAST(:kinds AS text[]), CAST(:reasons AS text[]), CAST(:counts AS bigint[]))"
            " ON CONFLICT (source_id, kind, reason) DO UPDATE SET identifiers = rejected.identifiers + excluded.identifiers",
            sources=[ids[source] for source, _, _ in keys],
            kinds=[kind for _, kind, _ in keys],
            reasons=[reason for _, _, reason in keys],
            counts=[refused[key] for key in keys],
        )


async def _numbers(uow: UnitOfWork, table: str, known: dict[str, int], names: Iterable[str]) -> Mapping[str, int]:
    missing = sorted(set(names) - known.keys())
    if not missing:
        return known
    # Only names that are not there yet: each attempt to insert uses up a number, and numbers are small.
    await uow.execute(
        f"INSERT INTO {table} (name) SELECT name FROM unnest(CAST(:names AS text[])) AS new(name)"  # noqa: S608
        f" WHERE NOT EXISTS (SELECT 1 FROM {table} s WHERE s.name = new.name) ON CONFLICT (name) DO NOTHING",
        names=missing,
    )
    rows = await uow.rows(f"SELECT id, name, xmin = pg_current_xact_id()::xid AS own FROM {table}")  # noqa: S608
    # Our own may yet be rolled back; only what somebody committed is true for ever.
    known.update({row.name: row.id for row in rows if not row.own})
    return {row.name: row.id for row in rows}
