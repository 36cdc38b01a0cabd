"""Evidence on relations in SQL: counted as it comes, read back with the entities that anchors belong to now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from chassis.db import UnitOfWork
from services.identity.domain.kinds import Kind
from services.identity.domain.observations import Observation
from services.identity.domain.relations import (
    DAY_US,
    Counted,
    Evidence,
    evidence_of,
    month_of,
)

DEALER = "dealer:"
_OF_VEHICLE = (Evidence.OWNS, Evidence.BOUGHT)
_DEALER_FIRST = int(Evidence.ADVISED_AT)
_KINDS = {int(kind): kind for kind in Evidence}


class Key(NamedTuple):
    """What a row of evidence is about; sorted, so that two writers meet in the same order."""

    subject_id: int
    object_id: int
    kind: int
    source_id: int
    month: int


def counts(observation: Observation) -> bool:
    """Whether an event is evidence on a relation: every one that shows a car or comes from a dealer, known or new, so that
    what comes late counts as what comes in time."""
    return bool(observation.vehicles) or observation.source.startswith(DEALER)


def _lives_or_uses(observation: Observation) -> bool:
    """Whether a record says where somebody lives or which device is theirs."""
    return bool(observation.address_hash) or any(known[0] == Kind.DEVICE for known in observation.persons)


async def record(
    uow: UnitOfWork, told: Sequence[tuple[Observation, int, int]], news: Collection[bytes], sources: Mapping[str, int]
) -> None:
    """Counts what events with their person and vehicle anchors (0: none) show. Give it each event once.

    `news`: signatures of claims that are new; `sources`: numbers of the sources.
    """
    told = [entry for entry in told if counts(entry[0]) or (entry[0].signature in news and _lives_or_uses(entry[0]))]
    if not told:
        return
    codes = {source: source.removeprefix(DEALER) for source in {o.source for o, _, _ in told} if source.startswith(DEALER)}
    ids = await dealer_ids(uow, set(codes.values())) if codes else {}
    dealer_of = {source: ids[code] for source, code in codes.items()}
    rows: dict[Key, list[int]] = {}
    touched: set[int] = set()
    for o, person, vehicle in told:
        dealer, at = dealer_of.get(o.source, 0), o.occurred_us
        month, day = month_of(at)
        for kind in evidence_of(o.event, o.relation, person=person > 0, vehicle=vehicle > 0, dealer=dealer > 0):
            between_them = kind < Evidence.SOLD_AT
            subject = vehicle if not between_them and kind < Evidence.ADVISED_AT else person
            since = _first_sold(o.vehicle_properties) if kind in _OF_VEHICLE else 0
            key = Key(subject, vehicle if between_them else dealer, int(kind), sources[o.source], month)
            if (row := rows.get(key)) is None:
                rows[key] = [day, 1, at, at, since]
            else:
                row[0] |= day
                row[1] += 1
                row[2], row[3] = min(row[2], at), max(row[3], at)
                row[4] = min(row[4] or since, since or row[4])
            touched.add(vehicle if between_them else subject)
        # An address or a device says who may live together and who uses what.
        if person and o.signature in news and _lives_or_uses(o):
            touched.add(person)
    await _count(uow, rows)
    await queue(uow, [(anchor, 0) for anchor in sorted(touched)])


def _first_sold(properties: bytes) -> int:
    """The day of first sale among a vehicle's attributes, as microseconds; 0 when none is there."""
    if b'"sold_on"' not in properties:
        return 0
    try:
        day = datetime.fromisoformat(orjson.loads(properties)["sold_on"][:10]).replace(tzinfo=UTC)
    except (ValueError, TypeError, KeyError):
        return 0
    return max(0, int(day.timestamp()) * 1_000_000 // DAY_US * DAY_US)


async def dealer_ids(uow: UnitOfWork, codes: Collection[str]) -> dict[str, int]:
    """Numbers of dealers by code, new ones included."""
    rows = await uow.fetch("SELECT code, id FROM dealer WHERE code = ANY($1::text[])", list(codes))
    ids = {row[0]: row[1] for row in rows}
    if missing := sorted(set(codes) - ids.keys()):
        # Only those that are not there yet: each attempt to insert uses up a number, and dealers are dense.
        await uow.fetch(
            "INSERT INTO dealer (code, address) SELECT code, 0 FROM unnest($1::text[]) AS new(code)"
            " ON CONFLICT (code) DO NOTHING",
            missing,
        )
        rows = await uow.fetch("SELECT code, id FROM dealer WHERE code = ANY($1::text[])", missing)
        ids |= {row[0]: row[1] for row in rows}
    return ids


async def _count(uow: UnitOfWork, rows: Mapping[Key, Sequence[int]]) -> None:
    if not rows:
        return
    ordered = sorted(rows)
    await uow.fetch(
        "INSERT INTO relation_evidence (subject_id, object_id, kind, source_id, month, days, observations, first_seen_us,"
        " last_seen_us, since_us) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::smallint[],"
        " $5::smallint[], $6::integer[], $7::integer[], $8::bigint[], $9::bigint[], $10::bigint[])"
        " ON CONFLICT (subject_id, object_id, kind, source_id, month) DO UPDATE SET"
        " days = relation_evidence.days | excluded.days,"
        " observations = relation_evidence.observations + excluded.observations,"
        " first_seen_us = least(relation_evidence.first_seen_us, excluded.first_seen_us),"
        " last_seen_us = greatest(relation_evidence.last_seen_us, excluded.last_seen_us),"
        " since_us = coalesce(least(nullif(relation_evidence.since_us, 0), nullif(excluded.since_us, 0)), 0)",
        *map(list, zip(*ordered, strict=True)),
        *map(list, zip(*(rows[key] for key in ordered), strict=True)),
    )


async def queue(uow: UnitOfWork, anchors: Sequence[tuple[int, int]]) -> None:
    """Has the relations of anchors looked at again: (anchor, the entity it left or 0)."""
    if anchors:
        await uow.fetch(
            "INSERT INTO inference_queue (anchor_id, left_id) SELECT * FROM unnest($1::bigint[], $2::bigint[])",
            *map(list, zip(*anchors, strict=True)),
        )


# Evidence on vehicles ($1), their anchors' rows replaced by entities. The planner cannot know how few rows each look-up
# finds: OFFSET 0 keeps each look-up a look-up by index.
_SUMS = (
    "bit_or(r.days) AS days, sum(r.observations)::bigint AS observations, min(r.first_seen_us) AS first_us,"
    " max(r.last_seen_us) AS last_us, coalesce(min(nullif(r.since_us, 0)), 0) AS since_us"
)
_EVIDENCE = "subject_id, object_id, kind, source_id, month, days, observations, first_seen_us, last_seen_us, since_us"
# Of a car that too many people are seen with, a rental or a demonstrator, only owners are of interest.
_ON_CARS = (
    f" SELECT r.kind, p.entity_id, car.entity_id, s.name, r.month, {_SUMS} FROM car CROSS JOIN LATERAL"  # noqa: S608
    f" (SELECT {_EVIDENCE} FROM relation_evidence WHERE object_id = car.id AND kind <= 9"
    f" AND (car.person_guard = 0 OR kind IN ({int(Evidence.OWNS)}, {int(Evidence.BOUGHT)})) OFFSET 0) r"
    " CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE id = r.subject_id OFFSET 0) p"
    " JOIN source s ON s.id = r.source_id WHERE p.entity_id <> 0 GROUP BY 1, 2, 3, 4, 5"
)
_CARS = (
    " car AS MATERIALIZED (SELECT i.id, i.entity_id, i.person_guard FROM wanted CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT id, entity_id, person_guard FROM identifier WHERE entity_id = wanted.id AND anchor"
    f" AND kind IN ({int(Kind.VIN)}, {int(Kind.PLATE)}) OFFSET 0) i)"
)
ON_VEHICLES = (
    f"WITH wanted AS (SELECT unnest($1::bigint[]) AS id),{_CARS}{_ON_CARS}"  # noqa: S608
    f" UNION ALL SELECT r.kind, car.entity_id, r.object_id, s.name, r.month, {_SUMS} FROM car CROSS JOIN LATERAL"
    f" (SELECT {_EVIDENCE} FROM relation_evidence WHERE subject_id = car.id OFFSET 0) r"
    " JOIN source s ON s.id = r.source_id GROUP BY 1, 2, 3, 4, 5"
)
# Vehicles that persons' anchors ($1) are seen with, and all evidence of the persons with dealers.
VEHICLES_OF = (
    "SELECT DISTINCT v.entity_id FROM unnest($1::bigint[]) AS a(id) CROSS JOIN LATERAL"
    " (SELECT object_id FROM relation_evidence WHERE subject_id = a.id AND kind <= 9 OFFSET 0) r"
    " CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE id = r.object_id OFFSET 0) v WHERE v.entity_id <> 0"
)
# The same without dealers for all vehicles that persons' anchors ($1) are seen with.
AROUND = f"WITH wanted AS ({VEHICLES_OF.replace('v.entity_id FROM', 'v.entity_id AS id FROM', 1)}),{_CARS}{_ON_CARS}"
ADVICE = (
    f"SELECT r.kind, a.person_id, r.object_id, s.name, r.month, {_SUMS}"  # noqa: S608
    " FROM unnest($1::bigint[], $2::bigint[]) AS a(id, person_id) CROSS JOIN LATERAL"
    f" (SELECT {_EVIDENCE} FROM relation_evidence WHERE subject_id = a.id AND kind >= {_DEALER_FIRST} OFFSET 0) r"
    " JOIN source s ON s.id = r.source_id GROUP BY 1, 2, 3, 4, 5"
)


def counted(rows: Iterable[Any]) -> list[Counted]:
    """Rows as the statements below give them, by their columns."""
    return [Counted(_KINDS[kind], *rest) for kind, *rest in rows]


async def on_vehicles(uow: UnitOfWork, vehicles: Collection[int]) -> list[Counted]:
    """All evidence on vehicles: with persons and with dealers."""
    return counted(await uow.fetch(ON_VEHICLES, list(vehicles))) if vehicles else []


async def around(uow: UnitOfWork, anchors: Collection[int]) -> list[Counted]:
    """Evidence of persons, these and others, on all vehicles that these anchors are seen with."""
    return counted(await uow.fetch(AROUND, list(anchors))) if anchors else []


async def vehicles_of(uow: UnitOfWork, anchors: Collection[int]) -> list[int]:
    """Vehicles that the persons of these anchors are seen with."""
    return [row[0] for row in await uow.fetch(VEHICLES_OF, list(anchors))] if anchors else []
