"""Hashes for lists that advertisers give to platforms: of whom, of what, and in which form. No value leaves."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chassis.db import Reader
from services.identity import consents
from services.identity.domain.consents import ALL, State, Statement, of_person
from services.identity.domain.kinds import Kind
from services.identity.queries import PERSON_KINDS, Cell
from services.identity.vault import identifier_place

CHANNEL, PURPOSE, PERSONALISATION = "ads", "marketing", "personalisation"
# Of one kind; who has more of them is a shop, not a person.
MOST = 10
_CHINA = "+86"

ANCHORS = """
    SELECT id, entity_id FROM identifier WHERE entity_id = ANY($1::bigint[]) AND anchor AND kind = ANY($2::smallint[])
"""
# Nothing that is shared or guarded, nor what records of another person name, too: one of the two may not have allowed it.
IDENTIFIERS = """
    SELECT * FROM (
        SELECT i.entity_id, i.kind, i.id, i.sealed, i.subject_key_id, k.kek_id, k.wrapped,
            row_number() OVER (PARTITION BY i.entity_id, i.kind ORDER BY i.last_seen_us DESC, i.id) AS place
        FROM identifier i JOIN subject_key k ON k.id = i.subject_key_id
        WHERE i.entity_id = ANY($1::bigint[]) AND i.kind = ANY($2::smallint[]) AND i.person_guard = 0
            AND NOT EXISTS (SELECT FROM link l JOIN identifier a ON a.id = l.anchor_id
                WHERE l.value_id = i.id AND l.strength = 0 AND a.anchor AND a.entity_id NOT IN (0, i.entity_id))
    ) AS theirs WHERE place <= $3 ORDER BY entity_id, kind, place
"""


@dataclass(frozen=True)
class Form:
    """How a platform wants identifiers hashed; the words are those of the contract."""

    algorithm: str
    mobile_form: str
    device_capitals: bool

    def digest(self, kind: Kind, value: str) -> bytes:
        """The hash of a value in its normal form."""
        written = value
        if kind is Kind.MOBILE:
            written = self._mobile(value)
        elif kind is Kind.DEVICE and self.device_capitals:
            written = value.upper()
        return hashlib.new(self.algorithm, written.encode(), usedforsecurity=False).digest()

    def _mobile(self, e164: str) -> str:
        if self.mobile_form == "e164":
            return e164
        return e164.removeprefix(_CHINA) if self.mobile_form == "national" and e164.startswith(_CHINA) else e164[1:]


class Sealed(NamedTuple):
    """One identifier of a person."""

    person_id: int
    kind: Kind
    address: Cell


async def allowed(reader: Reader, persons: Iterable[int], now_us: int) -> list[int]:
    """Those of some persons who gave separate consent to advertising on this channel, and forbid no personalisation."""
    owners = {row[0]: row[1] for row in await reader.fetch(ANCHORS, sorted(set(persons)), PERSON_KINDS)}
    said: defaultdict[int, list[Statement]] = defaultdict(list)
    for row in await reader.fetch(consents.OF_ANCHORS, list(owners)):
        statement = consents.line(row).statement
        if statement.purpose in (PURPOSE, PERSONALISATION) and statement.channel in (CHANNEL, ALL):
            said[owners[statement.anchor_id]].append(statement)
    return sorted(person for person, statements in said.items() if _may(statements, now_us))


def _may(statements: Sequence[Statement], now_us: int) -> bool:
    given = of_person([s for s in statements if s.purpose == PURPOSE], PURPOSE, CHANNEL, now_us)
    told_apart = of_person([s for s in statements if s.purpose == PERSONALISATION], PERSONALISATION, CHANNEL, now_us)
    return given.state is State.GIVEN and told_apart.state is not State.WITHDRAWN


async def identifiers(reader: Reader, persons: Sequence[int], kinds: Sequence[Kind]) -> list[Sealed]:
    """Their identifiers of some kinds, by person."""
    if not persons:
        return []
    rows = await reader.fetch(IDENTIFIERS, list(persons), [int(kind) for kind in kinds], MOST)
    return [
        Sealed(
            row["entity_id"],
            Kind(row["kind"]),
            Cell(row["subject_key_id"], row["kek_id"], row["wrapped"], identifier_place(row["id"]), row["sealed"]),
        )
        for row in rows
    ]
