"""Entities with their relations as they are now, read from evidence; and the numbers of devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chassis.db import Reader, UnitOfWork
from services.identity import relations
from services.identity.domain.dealers import dealer_relations
from services.identity.domain.kinds import Kind, Space
from services.identity.domain.relations import (
    MEMBER_OF,
    USES,
    Counted,
    Evidence,
    Relation,
    Support,
    advice_relations,
    confidence,
    vehicle_relations,
)

MOST_RELATIONS = 1000
_PERSON_KINDS = ", ".join(str(int(kind)) for kind in Kind if kind.space is Space.PERSON)
_DEVICE = int(Kind.DEVICE)


@dataclass(frozen=True)
class Entity:
    """One entity: its anchors, how many identifiers of each kind, its relations; `code` of dealers only."""

    anchors: Sequence[int]
    identifiers: Mapping[str, int]
    relations: Sequence[Relation]
    code: str = ""
    # Evidence is not read where there may be thousands of relations.
    evidenced: bool = field(default=True)


async def read(reader: Reader, space: Space, entity_id: int) -> Entity | None:
    """An entity, or None when there is none of that id; of persons and vehicles in a single statement."""
    if space is Space.PERSON or space is Space.VEHICLE:
        return await _anchored(reader, space, entity_id)
    if space is Space.DEALER:
        return await _dealer(reader, entity_id)
    return await (_household if space is Space.HOUSEHOLD else _device)(reader, entity_id)


async def _anchored(reader: Reader, space: Space, entity_id: int) -> Entity | None:
    rows = await reader.fetch(ANCHORED[space], entity_id)
    members = sorted((row[1], row[2], row[4]) for row in rows if row[0] == _MEMBER)
    if not members:
        return None
    identifiers: defaultdict[str, int] = defaultdict(int)
    for _, kind, _ in members:
        identifiers[_KIND_NAMES[kind]] += 1
    anchors = [id_ for id_, _, anchor in members if anchor]
    evidence = [row for row in rows if row[0] != _MEMBER]
    if space is Space.VEHICLE:
        found = of_vehicles(relations.counted(evidence))
    else:
        cars = of_vehicles(relations.counted(row for row in evidence if row[0] <= Evidence.SEEN_WITH))
        found = [r for r in cars if r.subject == (Space.PERSON, entity_id)]
        found += _of_persons([row for row in evidence if row[0] > Evidence.SEEN_WITH])
    return Entity(anchors, identifiers, _present_first(found))


def of_vehicles(rows: Iterable[Counted]) -> list[Relation]:
    """Relations of vehicles with persons and dealers, from all evidence on them."""
    return [relation for car, mine in by_vehicle(rows).items() for relation in of_vehicle(car, mine)]


def by_vehicle(rows: Iterable[Counted]) -> Mapping[int, Sequence[Counted]]:
    """Evidence by the vehicle that it is on."""
    cars: defaultdict[int, list[Counted]] = defaultdict(list)
    for row in rows:
        cars[row.object if row.kind <= Evidence.SEEN_WITH else row.subject].append(row)
    return cars


def of_vehicle(vehicle: int, rows: Sequence[Counted]) -> list[Relation]:
    """Relations of one vehicle."""
    return [*vehicle_relations(vehicle, rows), *dealer_relations(vehicle, rows)]


async def of_persons(uow: UnitOfWork, persons: Collection[int]) -> list[Relation]:
    """Relations of persons to dealers, devices and households."""
    rows = await uow.fetch(
        "SELECT i.id, i.entity_id FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL (SELECT id, entity_id FROM identifier"  # noqa: S608
        f" WHERE entity_id = p.id AND anchor AND kind IN ({_PERSON_KINDS}) OFFSET 0) i",
        list(persons),
    )
    return await of_anchors(uow, {row[0]: row[1] for row in rows})


async def of_anchors(uow: UnitOfWork, person_of: Mapping[int, int]) -> list[Relation]:
    """Like `of_persons`, by all their anchors → person."""
    if not person_of:
        return []
    return _of_persons(await uow.fetch(HOLDINGS, list(person_of), list(person_of.values())))


def _of_persons(rows: Sequence[Any]) -> list[Relation]:
    advised: defaultdict[int, list[Counted]] = defaultdict(list)
    for row in relations.counted(row for row in rows if row[0] == Evidence.ADVISED_AT):
        advised[row.subject].append(row)
    found = [relation for person, mine in advised.items() for relation in advice_relations(person, mine)]
    return found + _uses(row for row in rows if row[0] == _USES) + _memberships(row for row in rows if row[0] == _MEMBER_OF)


# Beside evidence, in its columns: who uses what, and who lives where (from and to in place of first and last, confidence in
# ten-thousandths in place of the first sale).
_USES, _MEMBER_OF = 30, 31
_USED = (
    f"SELECT {_USES}::smallint, {{person}}, {{device}}, s.name, 0::smallint, 0, l.observations::bigint, l.first_seen_us,"
    " l.last_seen_us, 0::bigint"
)
_LIVED = (
    f"SELECT {_MEMBER_OF}::smallint, {{person}}, m.household_id, '', 0::smallint, 0, 0::bigint, m.valid_from_us,"
    " m.valid_to_us, round(m.confidence * 10000)::bigint"
)
_ANCHORS = " FROM unnest($1::bigint[], $2::bigint[]) AS a(id, person_id) CROSS JOIN LATERAL"
# Of persons' anchors ($1, persons $2). A device that is an anchor itself is used by its own person. What was taken back does
# not count.
HOLDINGS = (
    f"{relations.ADVICE} UNION ALL {_USED.format(person='a.person_id', device='d.id')}{_ANCHORS}"  # noqa: S608
    " (SELECT value_id, source_id, first_seen_us, last_seen_us, observations FROM link"
    " WHERE anchor_id = a.id AND strength >= 0 OFFSET 0) l"
    " CROSS JOIN LATERAL (SELECT id FROM device WHERE identifier_id = l.value_id OFFSET 0) d"
    " JOIN source s ON s.id = l.source_id"
    f" UNION ALL SELECT {_USES}::smallint, a.person_id, d.id, '', 0::smallint, 0, 1::bigint, i.first_seen_us, i.last_seen_us,"
    f" 0::bigint{_ANCHORS} (SELECT id FROM device WHERE identifier_id = a.id OFFSET 0) d JOIN identifier i ON i.id = a.id"
    f" UNION ALL {_LIVED.format(person='a.person_id')}{_ANCHORS} (SELECT household_id, valid_from_us, valid_to_us, confidence"
    " FROM household_member WHERE anchor_id = a.id OFFSET 0) m"
)
# An entity's identifiers and all evidence on it in one statement, hence of one moment: GetEntity is asked often. By one
# number ($1) and not by arrays: their lengths would have PostgreSQL plan anew each time, which takes thrice as long as reading.
# A member, in evidence's columns: its id and kind in place of who and what, whether it is an anchor in place of the month.
_MEMBER = 32
_OWN = {
    space: "own AS MATERIALIZED (SELECT id, kind, anchor, entity_id FROM identifier WHERE entity_id = $1"  # noqa: S608
    f" AND kind IN ({', '.join(str(int(kind)) for kind in Kind if kind.space is space)}))"
    for space in (Space.PERSON, Space.VEHICLE)
}
_MEMBERS = (
    f" UNION ALL SELECT {_MEMBER}::smallint, id, kind::bigint, '', anchor::int::smallint, 0, 0::bigint, 0::bigint, 0::bigint,"  # noqa: S608
    " 0::bigint FROM own"
)
_PERSONS_ANCHORS = "(SELECT id, entity_id AS person_id FROM own WHERE anchor) a"
ANCHORED = {
    Space.PERSON: f"{relations.AROUND} UNION ALL {HOLDINGS}{_MEMBERS}".replace("WITH ", f"WITH {_OWN[Space.PERSON]}, ", 1)
    .replace("unnest($1::bigint[], $2::bigint[]) AS a(id, person_id)", _PERSONS_ANCHORS)
    .replace("unnest($1::bigint[]) AS a(id)", _PERSONS_ANCHORS),
    Space.VEHICLE: f"{relations.ON_VEHICLES}{_MEMBERS}".replace("WITH ", f"WITH {_OWN[Space.VEHICLE]}, ", 1).replace(
        "unnest($1::bigint[])", "$1::bigint"
    ),
}
# Of an enum, looking a name up costs more than of a dict.
_KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}


def _uses(rows: Iterable[Any]) -> list[Relation]:
    by_device: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in rows:
        by_device[row[1], row[2]].append(row)
    found = []
    for (person, device), mine in sorted(by_device.items()):
        first, last = min(row[7] for row in mine), max(row[8] for row in mine)
        # Links count a claim once a day at most.
        days = sum(row[6] for row in mine)
        counted = Support(days, days, days, tuple(sorted({row[3] for row in mine if row[3]})), first, last)
        found.append(
            Relation(
                *(USES, (Space.PERSON, person), (Space.DEVICE, device), first, 0),
                *(round(confidence("SEEN", days), 4), True, "SEEN", counted),
            )
        )
    return found


def _memberships(rows: Iterable[Any]) -> list[Relation]:
    """One per person and household: two of a person's records may speak for the same membership."""
    by_household: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in rows:
        by_household[row[1], row[2]].append(row)
    found = []
    for (person, household), mine in sorted(by_household.items()):
        to = 0 if any(row[8] == 0 for row in mine) else max(row[8] for row in mine)
        counted = Support(0, 0, 0, (), min(row[7] for row in mine), to)
        found.append(
            Relation(
                *(MEMBER_OF, (Space.PERSON, person), (Space.HOUSEHOLD, household), counted.first_us, to),
                *(max(row[9] for row in mine) / 10_000, True, "ACCEPTED", counted),
            )
        )
    return found


def _present_first(found: Sequence[Relation]) -> list[Relation]:
    """At most as many as an answer holds, present before past, latest first."""
    ranked = sorted(found, key=lambda r: (r.valid_to_us != 0, -r.valid_from_us, r.kind, r.object, r.subject))
    return ranked[:MOST_RELATIONS]


async def _dealer(reader: Reader, dealer_id: int) -> Entity | None:
    rows = await reader.fetch("SELECT code FROM dealer WHERE id = $1", dealer_id)
    if not rows:
        return None
    codes = await reader.fetch("SELECT count(*) FROM identifier WHERE entity_id = $1 AND kind = $2", dealer_id, int(Kind.USCC))
    # A dealer may have thousands of cars: what was told last is read, not worked out.
    told = await reader.fetch(
        "SELECT kind, subject_kind, subject_id, valid_from_us, valid_to_us, confidence, stated FROM relation"
        " WHERE object_id = $1 AND object_kind = $2 ORDER BY valid_to_us <> 0, valid_from_us DESC, subject_id LIMIT $3",
        dealer_id,
        int(Space.DEALER),
        MOST_RELATIONS,
    )
    found = [
        Relation(
            *(row[0], (Space(row[1]), row[2]), (Space.DEALER, dealer_id), row[3], row[4], round(row[5], 4), row[6], ""),
            Support(0, 0, 0, (), row[3], row[4]),
        )
        for row in told
    ]
    identifiers = {"uscc": int(codes[0][0])} if codes[0][0] else {}
    return Entity([], identifiers, found, rows[0][0], evidenced=False)


async def _household(reader: Reader, household_id: int) -> Entity | None:
    rows = await reader.fetch(
        f"{_LIVED.format(person='i.entity_id')}, m.anchor_id FROM household_member m"
        " JOIN identifier i ON i.id = m.anchor_id WHERE m.household_id = $1 ORDER BY m.anchor_id",
        household_id,
    )
    if not rows:
        return None
    return Entity([row[10] for row in rows], {}, _present_first(_memberships(rows)), evidenced=False)


async def _device(reader: Reader, device_id: int) -> Entity | None:
    rows = await reader.fetch(
        "SELECT i.id, i.anchor FROM device d JOIN identifier i ON i.id = d.identifier_id WHERE d.id = $1", device_id
    )
    if not rows:
        return None
    used = await reader.fetch(
        f"{_USED.format(person='i.entity_id', device='$1::bigint')} FROM link l JOIN identifier i ON i.id = l.anchor_id"
        " JOIN source s ON s.id = l.source_id WHERE l.value_id = $2 AND l.strength >= 0 AND i.entity_id <> 0"
        " ORDER BY l.last_seen_us DESC LIMIT $3",
        device_id,
        rows[0][0],
        MOST_RELATIONS,
    )
    return Entity([rows[0][0]] if rows[0][1] else [], {"device": 1}, _present_first(_uses(used)))


async def number_devices(uow: UnitOfWork, persons: Collection[int]) -> int:
    """Gives the devices of persons their ids as entities; returns how many are new."""
    rows = await uow.fetch(
        "WITH mine AS MATERIALIZED (SELECT i.id, i.kind FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL"  # noqa: S608
        f" (SELECT id, kind FROM identifier WHERE entity_id = p.id AND anchor AND kind IN ({_PERSON_KINDS}) OFFSET 0) i),"
        " used AS (SELECT v.id FROM mine CROSS JOIN LATERAL"
        " (SELECT value_id FROM link WHERE anchor_id = mine.id AND strength >= 0 OFFSET 0) l"
        f" CROSS JOIN LATERAL (SELECT id FROM identifier WHERE id = l.value_id AND kind = {_DEVICE} OFFSET 0) v"
        f" UNION SELECT id FROM mine WHERE kind = {_DEVICE})"
        " INSERT INTO device (identifier_id) SELECT used.id FROM used LEFT JOIN LATERAL"
        " (SELECT 1 AS known FROM device WHERE identifier_id = used.id OFFSET 0) d ON true"
        " WHERE d.known IS NULL ORDER BY used.id"
        " ON CONFLICT (identifier_id) DO NOTHING RETURNING id",
        list(persons),
    )
    return len(rows)
