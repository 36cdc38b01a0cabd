"""What records say of persons beside identifiers, sealed: name, address, birth date; the latest replaces older ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition
from services.identity import graph_store, intake
from services.identity.domain.observations import Observation
from services.identity.vault import Subject, Vault, profile_place


async def write_profiles(
    uow: UnitOfWork, vault: Vault, told: Mapping[int, Observation], subjects: Mapping[int, Subject]
) -> None:
    """Keeps what is later than what is known. `told`: by anchor; `subjects`: data keys of anchors that are new."""
    if not told:
        return
    known = {
        row["anchor_id"]: row
        for row in await uow.fetch(
            "SELECT p.anchor_id, p.seen_us, k.id, k.kek_id, k.wrapped FROM profile p"
            " JOIN subject_key k ON k.id = p.subject_key_id"
            " WHERE p.anchor_id = ANY($1::bigint[])",
            [at for at in told if at not in subjects],
        )
    }
    later = {a: o for a, o in told.items() if a not in known or o.occurred_us >= known[a]["seen_us"]}
    keys = _known_keys(vault, {anchor: known[anchor] for anchor in later if anchor in known})
    keys |= await _new_keys(uow, vault, [anchor for anchor in later if anchor not in subjects and anchor not in keys])
    rows = []
    for anchor, o in later.items():
        subject = subjects.get(anchor) or keys[anchor]
        said = {"name": o.person_name, "address": o.address, "birth_date": o.birth_date}
        text = orjson.dumps({name: value for name, value in said.items() if value}).decode()
        sealed = subject.seal(profile_place(anchor), text)
        rows.append((anchor, subject.key_id, sealed, o.name, o.address_hash, o.occurred_us))
    if rows:
        await uow.fetch(
            "INSERT INTO profile (anchor_id, subject_key_id, sealed, name, address, seen_us)"
            " SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])"
            " ON CONFLICT (anchor_id) DO UPDATE SET subject_key_id = excluded.subject_key_id, sealed = excluded.sealed,"
            " name = excluded.name, address = excluded.address, seen_us = excluded.seen_us",
            *map(list, zip(*rows, strict=True)),
        )


def _known_keys(vault: Vault, rows: Mapping[int, Any]) -> dict[int, Subject]:
    """The keys that profiles are sealed under: with a new one each time, copies of older profiles would outlive an erasure."""
    keys = {}
    for anchor, row in rows.items():
        try:
            keys[anchor] = vault.unwrap(row["id"], row["kek_id"], row["wrapped"])
        except FailedPrecondition:
            # What is new must not be lost for a key that is missing; the old profile cannot be read anyway.
            continue
    return keys


async def _new_keys(uow: UnitOfWork, vault: Vault, anchors: Collection[int]) -> dict[int, Subject]:
    if not anchors:
        return {}
    _, first = await graph_store.draw_rows(uow, 0, len(anchors))
    subjects = {anchor: vault.subject(key_id) for key_id, anchor in enumerate(anchors, first)}
    await intake.store_keys(uow, subjects.values())
    return subjects
