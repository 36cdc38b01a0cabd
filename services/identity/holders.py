"""Holders of cars and names of persons, for who asks all the time: few statements, planned once, whatever the number asked for.

Relations are worked out from evidence as GetEntity has them, for whom no answer may be older than the last merge.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from chassis.db import Reader
from services.identity import entities, relations
from services.identity.domain.holders import NOBODY, Holder, adviser, holder
from services.identity.domain.kinds import Kind, Space
from services.identity.domain.relations import advice_relations
from services.identity.queries import Cell
from services.identity.vault import profile_place

_PERSON_KINDS = ", ".join(str(int(kind)) for kind in Kind if kind.space is Space.PERSON)
# Beside evidence, in its columns: which of the tokens ($1, by its number from 1) is of which vehicle.
_NAMED = 40
HOLDERS = (
    "WITH named AS MATERIALIZED (SELECT asked.number, i.entity_id AS id FROM unnest($1::bytea[]) WITH ORDINALITY"  # noqa: S608
    " AS asked(token, number) CROSS JOIN LATERAL (SELECT entity_id FROM identifier WHERE token = asked.token"
    " UNION ALL SELECT entity_id FROM identifier WHERE next_token = asked.token OFFSET 0) i WHERE i.entity_id <> 0), "
    + relations.ON_VEHICLES.replace("WITH ", "", 1).replace(
        "SELECT unnest($1::bigint[]) AS id", "SELECT DISTINCT id FROM named"
    )
    + f" UNION ALL SELECT {_NAMED}::smallint, id, number, '', 0::smallint, 0, 0::bigint, 0::bigint, 0::bigint, 0::bigint"  # noqa: S608
    " FROM named"
)
# What dealers advised persons ($1).
ADVISERS = (
    f"WITH own AS MATERIALIZED (SELECT i.id, i.entity_id AS person_id FROM unnest($1::bigint[]) AS p(id) CROSS JOIN LATERAL"  # noqa: S608
    f" (SELECT id, entity_id FROM identifier WHERE entity_id = p.id AND anchor AND kind IN ({_PERSON_KINDS}) OFFSET 0) i) "
    + relations.ADVICE.replace("unnest($1::bigint[], $2::bigint[]) AS a(id, person_id)", "own a")
)
# The latest names of persons ($1), and a line in the audit of whose (caller $2, purpose $3): both or neither.
NAMES = (
    "WITH named AS MATERIALIZED (SELECT DISTINCT ON (i.entity_id) i.entity_id AS person_id, p.anchor_id, p.sealed, k.id,"  # noqa: S608
    " k.kek_id, k.wrapped FROM unnest($1::bigint[]) AS w(id) CROSS JOIN LATERAL (SELECT id, entity_id FROM identifier"
    f" WHERE entity_id = w.id AND anchor AND kind IN ({_PERSON_KINDS}) OFFSET 0) i CROSS JOIN LATERAL"
    " (SELECT anchor_id, sealed, subject_key_id, seen_us FROM profile WHERE anchor_id = i.id AND name <> 0 OFFSET 0) p"
    " CROSS JOIN LATERAL (SELECT id, kek_id, wrapped FROM subject_key WHERE id = p.subject_key_id OFFSET 0) k"
    " ORDER BY i.entity_id, p.seen_us DESC, p.anchor_id),"
    " audited AS (INSERT INTO reveal_audit (caller, purpose, kind, scope, person_ids)"
    " SELECT $2, $3, 'name', '', array_agg(person_id) FROM named HAVING count(*) > 0)"
    " SELECT person_id, id, kek_id, wrapped, anchor_id, sealed FROM named"
)


class Sealed(NamedTuple):
    """A person and the cell that has the name in it."""

    person_id: int
    profile: Cell


async def find(reader: Reader, tokens: Sequence[Sequence[bytes]]) -> list[Holder]:
    """Who holds the vehicle of each plate; a plate has all tokens that its row may stand under."""
    flat = [(number, token) for number, each in enumerate(tokens) for token in each]
    rows = await reader.fetch(HOLDERS, [token for _, token in flat])
    vehicles = {flat[row[2] - 1][0]: row[1] for row in rows if row[0] == _NAMED}
    evidence = entities.by_vehicle(relations.counted(row for row in rows if row[0] != _NAMED))
    found = {car: holder(car, entities.of_vehicle(car, evidence.get(car, ()))) for car in set(vehicles.values())}
    alone = {each.person_id for each in found.values() if each.person_id and not each.serviced_by}
    advisers = await _advisers(reader, alone) if alone else {}
    found = {car: each._replace(advised_by=advisers.get(each.person_id, 0)) for car, each in found.items()}
    return [found[vehicles[number]] if number in vehicles else NOBODY for number in range(len(tokens))]


async def _advisers(reader: Reader, persons: Collection[int]) -> dict[int, int]:
    rows = relations.counted(await reader.fetch(ADVISERS, sorted(persons)))
    return {person: adviser(advice_relations(person, [row for row in rows if row.subject == person])) for person in persons}


async def names(reader: Reader, persons: Sequence[int], caller: str, purpose: str) -> list[Sealed]:
    """The sealed names of those who have one, written down as revealed."""
    rows = await reader.fetch(NAMES, list(persons), caller, purpose)
    return [Sealed(row[0], Cell(row[1], row[2], row[3], profile_place(row[4]), row[5])) for row in rows]
