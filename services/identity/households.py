"""Households in SQL: who shares an address and a thing, suggestions, decisions, members."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chassis.db import UnitOfWork
from chassis.errors import NotFound
from services.identity import entities, relations
from services.identity.announcements import LOCK, announce
from services.identity.domain import households
from services.identity.domain.households import Joining, Pairing
from services.identity.domain.kinds import NUMBERS, Kind, Reason, Space

_PERSON_KINDS = ", ".join(str(int(kind)) for kind in Kind if kind.space is Space.PERSON)
_THINGS: Mapping[int, str] = {int(Kind.MOBILE): "mobile", int(Kind.DEVICE): "device"}
# Values that somebody took out of use say nothing; a family's tablet that guards took out does.
_MUTE = ", ".join(str(NUMBERS[reason]) for reason in (Reason.REGISTERED, Reason.QUARANTINED, Reason.ERASED))
# More records than this at an address or around a value are a crowd, whoever they are.
_MOST_ROWS = 200

RESIDENTS = (
    "WITH mine AS MATERIALIZED (SELECT i.id FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL (SELECT id FROM identifier"  # noqa: S608
    f" WHERE entity_id = p.id AND anchor AND kind IN ({_PERSON_KINDS}) OFFSET 0) i),"
    " home AS MATERIALIZED (SELECT DISTINCT f.address FROM mine CROSS JOIN LATERAL"
    " (SELECT address FROM profile WHERE anchor_id = mine.id AND address <> 0 OFFSET 0) f)"
    " SELECT f.address, f.anchor_id, f.seen_us, i.entity_id FROM home CROSS JOIN LATERAL"
    f" (SELECT anchor_id, address, seen_us FROM profile WHERE address = home.address AND address <> 0 LIMIT {_MOST_ROWS}) f"
    " CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE id = f.anchor_id OFFSET 0) i WHERE i.entity_id <> 0"
)
# Mobiles and devices of persons' anchors ($1), with everybody on them.
SHARERS = (
    "WITH thing AS MATERIALIZED (SELECT DISTINCT v.id, v.kind FROM unnest($1::bigint[]) AS a(id) CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT value_id FROM link WHERE anchor_id = a.id AND strength >= 0 OFFSET 0) l"
    " CROSS JOIN LATERAL (SELECT id, kind FROM identifier"
    f" WHERE id = l.value_id AND kind IN ({', '.join(map(str, _THINGS))}) AND person_guard NOT IN ({_MUTE}) OFFSET 0) v)"
    " SELECT thing.kind, thing.id, i.entity_id FROM thing CROSS JOIN LATERAL"
    f" (SELECT anchor_id FROM link WHERE value_id = thing.id AND strength >= 0 LIMIT {_MOST_ROWS}) l CROSS JOIN LATERAL"
    " (SELECT entity_id FROM identifier WHERE id = l.anchor_id OFFSET 0) i WHERE i.entity_id <> 0 GROUP BY 1, 2, 3"
)
ANCHORS = (
    "SELECT i.id, i.entity_id FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL (SELECT id, entity_id FROM identifier"  # noqa: S608
    f" WHERE entity_id = p.id AND anchor AND kind IN ({_PERSON_KINDS}) OFFSET 0) i"
)


# Suggestions in which anchors ($1) stand on either side, with the persons of both.
KNOWN = (
    "SELECT s.id, s.state, a.entity_id, b.entity_id FROM (SELECT h.* FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL"
    " (SELECT id, state, anchor_a, anchor_b FROM household_suggestion WHERE anchor_a = p.id OFFSET 0) h"
    " UNION SELECT h.* FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL"
    " (SELECT id, state, anchor_a, anchor_b FROM household_suggestion WHERE anchor_b = p.id OFFSET 0) h) s"
    " CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE id = s.anchor_a OFFSET 0) a"
    " CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE id = s.anchor_b OFFSET 0) b"
)


async def suggest(uow: UnitOfWork, persons: Collection[int]) -> int:
    """Brings the pending suggestions of persons up to date; returns how many are new. The caller holds the LOCK."""
    at: defaultdict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    rows: defaultdict[int, int] = defaultdict(int)
    for address, anchor, seen, person in await uow.fetch(RESIDENTS, list(persons)):
        rows[address] += 1
        before = at[address].get(person, (anchor, seen))
        at[address][person] = min(anchor, before[0]), min(seen, before[1])
    together = {address: mine for address, mine in at.items() if len(mine) > 1 and rows[address] < _MOST_ROWS}
    residents = {person for mine in together.values() for person in mine}
    person_of = {row[0]: row[1] for row in await uow.fetch(ANCHORS, list(residents | set(persons)))}
    sharers: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    first: dict[tuple[int, int], int] = {}
    if residents:
        anchors = [anchor for anchor, person in person_of.items() if person in residents]
        for row in await relations.around(uow, anchors):
            sharers["vehicle", row.object].add(row.subject)
            first[row.subject, row.object] = min(row.first_us, first.get((row.subject, row.object), row.first_us))
        for kind, thing, person in await uow.fetch(SHARERS, anchors):
            sharers[_THINGS[kind], thing].add(person)
    dealers = {row[0] for row in await uow.fetch("SELECT address FROM dealer WHERE address <> 0")}
    pairs = households.suggest({address: mine.keys() for address, mine in together.items()}, sharers, dealers)
    known = await _known(uow, person_of)
    await _withdraw(uow, known, {(pair.a, pair.b) for pair in pairs}, set(persons))
    new = [_row(pair, together, first) for pair in pairs if (pair.a, pair.b) not in known]
    # Columns of unequal lengths travel side by side.
    await uow.fetch(
        "INSERT INTO household_suggestion (anchor_a, anchor_b, confidence, evidence, since_us, state, decided_by)"
        " SELECT *, 'pending', '' FROM unnest($1::bigint[], $2::bigint[], $3::real[], $4::bytea[], $5::bigint[])"
        " ON CONFLICT (anchor_a, anchor_b) DO NOTHING",
        *map(list, zip(*new, strict=True)),
    ) if new else None
    return len(new)


def _row(
    pair: Pairing, together: Mapping[int, Mapping[int, tuple[int, int]]], first: Mapping[tuple[int, int], int]
) -> tuple[int, int, float, bytes, int]:
    """The suggestion by the records that speak for it, since there is evidence on both."""
    homes = [mine for mine in together.values() if pair.a in mine and pair.b in mine]
    anchors = [min(mine[person][0] for mine in homes) for person in (pair.a, pair.b)]
    cars = [thing for kind, thing in pair.shared if kind == "vehicle"]
    since = max(
        min([first[person, car] for car in cars if (person, car) in first] or [min(mine[person][1] for mine in homes)])
        for person in (pair.a, pair.b)
    )
    evidence = {"shared": [kind for kind, _ in pair.shared], "residents": pair.residents, "addresses": pair.addresses}
    return anchors[0], anchors[1], pair.confidence, orjson.dumps(evidence), since


async def _known(uow: UnitOfWork, person_of: Mapping[int, int]) -> dict[tuple[int, int], tuple[int, str]]:
    """Pairs of persons that a suggestion stands for, whatever its records: (id, state)."""
    rows = await uow.fetch(KNOWN, list(person_of))
    return {(min(a, b), max(a, b)): (id_, state) for id_, state, a, b in rows}


async def _withdraw(
    uow: UnitOfWork,
    known: Mapping[tuple[int, int], tuple[int, str]],
    found: Collection[tuple[int, int]],
    persons: Collection[int],
) -> None:
    """Takes back what was suggested of persons and holds no more: an address turned out to be an office, somebody moved."""
    gone = [
        id_
        for pair, (id_, state) in known.items()
        if state == "pending" and pair not in found and (pair[0] in persons or pair[1] in persons)
    ]
    if gone:
        await uow.fetch("DELETE FROM household_suggestion WHERE id = ANY($1::bigint[])", gone)


@dataclass(frozen=True)
class Suggestion:
    """Two persons, as they are now, who may live together; `id` names the suggestion, times in microseconds."""

    id: int
    person_a: int
    person_b: int
    confidence: float
    residents: int
    shared: Sequence[str]
    since_us: int
    state: str
    decided_by: str


async def page(uow: UnitOfWork, state: str, before: tuple[float, int], size: int) -> list[Suggestion]:
    """Suggestions below (confidence, id), most confident first."""
    rows = await uow.fetch(
        "SELECT s.id, a.entity_id, b.entity_id, s.confidence, s.evidence, s.since_us, s.state, s.decided_by"
        " FROM (SELECT * FROM household_suggestion WHERE state = $1 AND (confidence, id) < ($2::real, $3)"
        " ORDER BY confidence DESC, id DESC LIMIT $4) s"
        " JOIN identifier a ON a.id = s.anchor_a JOIN identifier b ON b.id = s.anchor_b"
        " ORDER BY s.confidence DESC, s.id DESC",
        state,
        *before,
        size,
    )
    found = []
    for id_, a, b, confidence, evidence, since, is_state, by in rows:
        told = orjson.loads(evidence)
        found.append(Suggestion(id_, a, b, confidence, told["residents"], told["shared"], since, is_state, by))
    return found


async def decide(uow: UnitOfWork, suggestion_id: int, accept: bool, caller: str) -> tuple[str, int]:
    """(outcome, household of both or 0); raises NotFound."""
    await uow.execute(LOCK)
    rows = await uow.fetch(
        "SELECT s.state, s.anchor_a, s.anchor_b, a.entity_id, b.entity_id, s.since_us, s.confidence"
        " FROM household_suggestion s JOIN identifier a ON a.id = s.anchor_a JOIN identifier b ON b.id = s.anchor_b"
        " WHERE s.id = $1",
        suggestion_id,
    )
    if not rows:
        raise NotFound("no such suggestion", reason="SUGGESTION_NOT_FOUND", field="suggestion_id")
    state, anchor_a, anchor_b, a, b, since, confidence = rows[0]
    of = await _households(uow, {a, b})
    both = of[a] if a in of and of.get(a) == of.get(b) else 0
    if state != "pending":
        return "ALREADY_DECIDED", both
    if not accept:
        await _decided(uow, suggestion_id, "rejected", caller)
        return "REJECTED", both
    outcome = households.join(a, b, of)
    if outcome is Joining.DIFFERENT_HOUSEHOLDS:
        return str(outcome), 0
    await _decided(uow, suggestion_id, "accepted", caller)
    if outcome in (Joining.ALREADY_TOGETHER, Joining.SAME_PERSON):
        return str(outcome), both
    household = of.get(a) or of.get(b) or int((await uow.fetch("INSERT INTO household DEFAULT VALUES RETURNING id"))[0][0])
    joining = [anchor for anchor, person in ((anchor_a, a), (anchor_b, b)) if person not in of]
    await uow.fetch(
        "INSERT INTO household_member (household_id, anchor_id, valid_from_us, valid_to_us, confidence, suggestion_id)"
        " SELECT $1, unnest($2::bigint[]), $3, 0, $4, $5 ON CONFLICT (household_id, anchor_id)"
        " DO UPDATE SET valid_to_us = 0, confidence = excluded.confidence, suggestion_id = excluded.suggestion_id",
        household,
        joining,
        since,
        confidence,
        suggestion_id,
    )
    await _announced(uow, {a, b})
    return str(outcome), household


async def _decided(uow: UnitOfWork, suggestion_id: int, state: str, caller: str) -> None:
    await uow.fetch("UPDATE household_suggestion SET state = $2, decided_by = $3 WHERE id = $1", suggestion_id, state, caller)


async def _households(uow: UnitOfWork, persons: Collection[int]) -> dict[int, int]:
    """Person → the household it belongs to now."""
    person_of = {row[0]: row[1] for row in await uow.fetch(ANCHORS, list(persons))}
    rows = await uow.fetch(
        "SELECT anchor_id, household_id FROM household_member WHERE anchor_id = ANY($1::bigint[]) AND valid_to_us = 0"
        " ORDER BY household_id DESC",
        list(person_of),
    )
    return {person_of[row[0]]: row[1] for row in rows}


async def end_membership(uow: UnitOfWork, household_id: int, person_id: int, at_us: int) -> bool:
    """Ends a membership, not before it began; False when there is none."""
    await uow.execute(LOCK)
    anchors = [row[0] for row in await uow.fetch(ANCHORS, [person_id])]
    rows = await uow.fetch(
        "UPDATE household_member SET valid_to_us = greatest($3, valid_from_us + 1)"
        " WHERE household_id = $1 AND anchor_id = ANY($2::bigint[]) AND valid_to_us = 0 RETURNING 1",
        household_id,
        anchors,
        at_us,
    )
    if rows:
        await _announced(uow, {person_id})
    return bool(rows)


async def _announced(uow: UnitOfWork, persons: Collection[int]) -> Any:
    return await announce(uow, await entities.of_persons(uow, persons), [], persons)
