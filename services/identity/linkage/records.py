"""The records of identity's own tables as linkage reads them: opened in memory, batch by batch, nothing kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from chassis.db import Database
from chassis.errors import FailedPrecondition
from services.identity.domain.kinds import Kind
from services.identity.linkage.profile import Record
from services.identity.vault import Subject, Vault, identifier_place, profile_place

BATCH = 2000
_LAST_PERSON_KIND = int(Kind.ID_CARD)
_VEHICLES = (Kind.VIN, Kind.PLATE)

# $1: the last record read, $2: how many.
PROFILES = (
    "SELECT p.anchor_id, i.entity_id, p.sealed, p.subject_key_id AS key_id, k.kek_id, k.wrapped"
    " FROM (SELECT * FROM profile WHERE anchor_id > $1 ORDER BY anchor_id LIMIT $2) p"
    " JOIN identifier i ON i.id = p.anchor_id JOIN subject_key k ON k.id = p.subject_key_id"
    f" WHERE i.entity_id <> 0 AND i.kind <= {_LAST_PERSON_KIND} ORDER BY p.anchor_id"
)
LAST = "SELECT max(anchor_id) FROM (SELECT anchor_id FROM profile WHERE anchor_id > $1 ORDER BY anchor_id LIMIT $2) p"
# What is shared says nothing of a person, and what was taken back nothing at all.
VALUES = (
    "SELECT a.id AS anchor_id, v.id, v.kind, v.entity_id, v.sealed, v.subject_key_id AS key_id, k.kek_id, k.wrapped"
    " FROM unnest($1::bigint[]) AS a(id) CROSS JOIN LATERAL"
    " (SELECT DISTINCT value_id FROM link WHERE anchor_id = a.id AND strength >= 0 OFFSET 0) l"
    " JOIN identifier v ON v.id = l.value_id JOIN subject_key k ON k.id = v.subject_key_id"
    f" WHERE v.person_guard = 0 AND v.kind IN ({int(Kind.MOBILE)}, {int(Kind.ID_CARD)}, {int(Kind.VIN)}, {int(Kind.PLATE)})"
    " ORDER BY a.id, v.id"
)


@dataclass
class Customers:
    """Of each record read, by position: its anchor and its person. `cards`: numbers of the id cards that persons hold."""

    anchors: list[int] = field(default_factory=list)
    persons: list[int] = field(default_factory=list)
    cards: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    unreadable: int = 0


async def read(database: Database, vault: Vault, customers: Customers, batch: int = BATCH) -> AsyncIterator[list[Record]]:
    """Records that say anything of their person, for the profile `customers`; notes in `customers` whose they are.

    A value that does not open is left out and counted; raises FailedPrecondition KEK_MISSING.
    """
    after = 0
    while True:
        async with database.read() as uow:
            last = (await uow.fetch(LAST, after, batch))[0][0]
            if last is None:
                return
            profiles = await uow.fetch(PROFILES, after, batch)
            values = await uow.fetch(VALUES, [row["anchor_id"] for row in profiles])
        after = last
        yield _opened(vault, customers, profiles, values)


def _opened(vault: Vault, customers: Customers, profiles: Any, values: Any) -> list[Record]:
    keys: dict[int, Subject] = {}

    def text(row: Any, place: bytes) -> str:
        try:
            if row["key_id"] not in keys:
                keys[row["key_id"]] = vault.unwrap(row["key_id"], row["kek_id"], row["wrapped"])
            return keys[row["key_id"]].open(place, row["sealed"])
        except FailedPrecondition as error:
            if error.reason != "SEALED_VALUE_UNREADABLE":
                raise
            customers.unreadable += 1
            return ""

    records: dict[int, dict[str, Any]] = {}
    person_of: dict[int, int] = {}
    for row in profiles:
        said = orjson.loads(text(row, profile_place(row["anchor_id"])) or "{}")
        person_of[row["anchor_id"]] = row["entity_id"]
        customers.anchors.append(row["anchor_id"])
        customers.persons.append(row["entity_id"])
        records[row["anchor_id"]] = {
            "name": said.get("name"),
            "address": said.get("address"),
            "birth_date": said.get("birth_date"),
            "mobiles": [],
            "vehicles": [],
        }
    for row in values:
        record, kind = records[row["anchor_id"]], Kind(row["kind"])
        if kind is Kind.MOBILE:
            record["mobiles"].append(text(row, identifier_place(row["id"])))
        elif kind is Kind.ID_CARD:
            customers.cards[person_of[row["anchor_id"]]].add(row["id"])
        elif kind in _VEHICLES and row["entity_id"]:
            # Which car, not what stands on it: its number will do.
            record["vehicles"].append(str(row["entity_id"]))
    return list(records.values())
