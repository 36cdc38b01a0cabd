"""The hot path in SQL: claims that are known, observations, and the counters beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.identity.domain.kinds import Kind
from services.identity.domain.observations import Observation

LAST_PERSON_KIND = int(Kind.ID_CARD)


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
    """Set-based statements; what it remembers between them is only the numbers of sources, which never change."""

    def __init__(self) -> None:
        self._source_ids: dict[str, int] = {}

    async def source_ids(self, uow: UnitOfWork, names: Iterable[str]) -> Mapping[str, int]:
        """Numbers of sources, new ones included. Call it before taking the graph's lock, or two writers may deadlock."""
        missing = sorted(set(names) - self._source_ids.keys())
        if not missing:
            return self._source_ids
        # Only names that are not there yet: each attempt to insert uses up a number, and numbers are small.
        await uow.execute(
            "INSERT INTO source (name) SELECT name FROM unnest(CAST(:names AS text[])) AS new(name)"
            " WHERE NOT EXISTS (SELECT 1 FROM source s WHERE s.name = new.name) ON CONFLICT (name) DO NOTHING",
            names=missing,
        )
        rows = await uow.rows("SELECT id, name, xmin = pg_current_xact_id()::xid AS own FROM source")
        # Our own may yet be rolled back; only what somebody committed is true for ever.
        self._source_ids |= {row.name: row.id for row in rows if not row.own}
        return {row.name: row.id for row in rows}

    async def claims(self, uow: UnitOfWork, signatures: Sequence[bytes]) -> dict[bytes, Claim]:
        """The known ones among claims, with the present owners of their anchors: the one query of the hot path."""
        rows = await uow.rows(
            "SELECT c.signature, c.last_seen_us, c.person_anchor, p.entity_id AS person, p.version AS person_version,"
            " c.vehicle_anchor, v.entity_id AS vehicle, v.version AS vehicle_version"
            " FROM unnest(CAST(:signatures AS bytea[])) AS wanted(signature)"
            " JOIN claim c USING (signature)"
            " LEFT JOIN identifier p ON p.id = c.person_anchor LEFT JOIN identifier v ON v.id = c.vehicle_anchor",
            signatures=signatures,
        )
        return {
            signature: Claim(
                Owner(person_anchor, person, person_version) if person_anchor else NOBODY,
                Owner(vehicle_anchor, vehicle, vehicle_version) if vehicle_anchor else NOBODY,
                last_seen,
            )
            for (
                signature,
                last_seen,
                person_anchor,
                person,
                person_version,
                vehicle_anchor,
                vehicle,
                vehicle_version,
            ) in rows
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
        rows = await uow.rows(
            "INSERT INTO observation (event_id, source_id, person_anchor, vehicle_anchor, occurred_us, received_us)"
            " SELECT * FROM unnest(CAST(:events AS bytea[]), CAST(:sources AS smallint[]), CAST(:persons AS bigint[]),"
            " CAST(:vehicles AS bigint[]), CAST(:occurred AS bigint[]), CAST(:received AS bigint[]))"
            " ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
            events=[o.event_id for o, _, _ in seen],
            sources=[ids[o.source] for o, _, _ in seen],
            persons=[person for _, person, _ in seen],
            vehicles=[vehicle for _, _, vehicle in seen],
            occurred=[o.occurred_us for o, _, _ in seen],
            received=[o.received_us for o, _, _ in seen],
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

    async def state_consents(self, uow: UnitOfWork, statements: Sequence[tuple[int, str, bool, int]]) -> list[tuple[int, str]]:
        """Keeps (anchor, channel, opted out, stated at), the latest per anchor and channel; returns the keys that changed."""
        rows = await uow.rows(
            "INSERT INTO consent (anchor_id, channel, opted_out, stated_us) SELECT * FROM unnest(CAST(:anchors AS bigint[]),"
            " CAST(:channels AS text[]), CAST(:opted_out AS boolean[]), CAST(:stated AS bigint[]))"
            " ON CONFLICT (anchor_id, channel) DO UPDATE SET opted_out = excluded.opted_out, stated_us = excluded.stated_us"
            " WHERE consent.stated_us < excluded.stated_us RETURNING anchor_id, channel",
            anchors=[anchor for anchor, _, _, _ in statements],
            channels=[channel for _, channel, _, _ in statements],
            opted_out=[out for _, _, out, _ in statements],
            stated=[at for _, _, _, at in statements],
        )
        return [(row.anchor_id, row.channel) for row in rows]
