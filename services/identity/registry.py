"""Master data of dealers: codes, social credit codes, own addresses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from chassis.db import UnitOfWork
from services.identity import graph_store, intake, relations
from services.identity.domain import addresses
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Kind
from services.identity.graph_store import NewIdentifier
from services.identity.vault import Vault, identifier_place


@dataclass(frozen=True)
class DealerRecord:
    """What the car maker knows of a dealer; empty texts: not known."""

    code: str
    uscc: str
    address: str


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a dealer's record: its place, the field, an UPPER_SNAKE reason."""

    index: int
    field: str
    reason: str


async def register(uow: UnitOfWork, vault: Vault, dealers: Sequence[DealerRecord]) -> tuple[list[int], list[Refusal]]:
    """Ids in the order given, 0 where a record is refused; the others are taken. Repeating it changes nothing."""
    # Identifiers get their numbers under the graph's lock.
    await graph_store.lock(uow)
    known: dict[int, Known] = {}
    refused: dict[int, Refusal] = {}
    for index, dealer in enumerate(dealers):
        if dealer.uscc:
            value = vault.known("uscc", "", dealer.uscc)
            if isinstance(value, Known):
                known[index] = value
            else:
                refused[index] = Refusal(index, "uscc", value)
        if dealer.address and not addresses.normal(dealer.address):
            refused.setdefault(index, Refusal(index, "address", "NOT_AN_ADDRESS"))
    tokens = [token for value in known.values() for token in vault.lookup_tokens(value)]
    rows = await uow.fetch("SELECT token, entity_id FROM identifier WHERE token = ANY($1::bytea[])", tokens)
    owner = {row[0]: row[1] for row in rows}
    ids = await relations.dealer_ids(uow, {d.code for index, d in enumerate(dealers) if index not in refused})
    new: dict[bytes, tuple[Known, int]] = {}
    for index, value in known.items():
        if index in refused:
            continue
        mine = ids[dealers[index].code]
        of = next((owner[t] for t in vault.lookup_tokens(value) if t in owner), 0)
        of = of or new.get(value.token, (value, 0))[1]
        if of and of != mine:
            refused[index] = Refusal(index, "uscc", "BELONGS_TO_ANOTHER_DEALER")
        elif not of:
            new[value.token] = value, mine
    await _add(uow, vault, new)
    hashes = {
        ids[d.code]: vault.address_hash(addresses.normal(d.address))
        for index, d in enumerate(dealers)
        if d.address and index not in refused
    }
    await uow.fetch(
        "UPDATE dealer d SET address = n.address FROM unnest($1::bigint[], $2::bigint[]) AS n(id, address) WHERE d.id = n.id",
        list(hashes),
        list(hashes.values()),
    )
    return [0 if index in refused else ids[d.code] for index, d in enumerate(dealers)], sorted(
        refused.values(), key=lambda refusal: refusal.index
    )


async def _add(uow: UnitOfWork, vault: Vault, new: dict[bytes, tuple[Known, int]]) -> None:
    """Stores codes as identifiers of their dealers, each under a data key of its own."""
    if not new:
        return
    first_id, first_key = await graph_store.draw_rows(uow, len(new), len(new))
    now = time.time_ns() // 1000
    subjects, rows = [], []
    for place, (token, (known, dealer)) in enumerate(new.items()):
        subject = vault.subject(first_key + place)
        subjects.append(subject)
        id_ = first_id + place
        rows.append(
            NewIdentifier(
                id=id_,
                kind=int(Kind.USCC),
                scope_id=0,
                token=token,
                next_token=vault.next_token(known),
                sealed=subject.seal(identifier_place(id_), known.value),
                subject_key_id=subject.key_id,
                anchor=False,
                entity_id=dealer,
                born_id=0,
                component_id=0,
                version=0,
                person_guard=0,
                vehicle_guard=0,
                cleared=False,
                first_seen_us=now,
                last_seen_us=now,
            )
        )
    await intake.store_keys(uow, subjects)
    await graph_store.insert_identifiers(uow, rows)
