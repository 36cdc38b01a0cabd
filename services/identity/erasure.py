"""Erasing a person, proving it, and letting somebody come back by their own will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import orjson

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from services.identity import erasure_store, events, graph, graph_store, queries, relations
from services.identity.domain import suppression as domain
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import NUMBERS, Reason, Space
from services.identity.domain.observations import Observation
from services.identity.domain.suppression import Suppressed, suppressions
from services.identity.erasure_store import Person
from services.identity.store import Store
from services.identity.vault import Subject, Vault, identifier_place, profile_place

# Names that values, by their tokens ($1), are suppressed for. While nobody was erased it looks nothing up.
SUPPRESSED = (
    "SELECT wanted.token, s.name FROM unnest($1::bytea[]) AS wanted(token) CROSS JOIN LATERAL"
    " (SELECT id FROM identifier WHERE token = wanted.token"
    " UNION SELECT id FROM identifier WHERE next_token = wanted.token OFFSET 0) i"
    " JOIN suppression s ON s.identifier_id = i.id WHERE EXISTS (SELECT 1 FROM suppression)"
)
_PLACES = {"identifier": identifier_place, "profile": profile_place}


@dataclass(frozen=True)
class Manifest:
    """What an erasure did, in numbers; `erasure_id` is 0 while it is only tried. `removed`: rows by table."""

    erasure_id: int
    request_id: str
    person_id: int
    caller: str
    reason: str
    anchors: Sequence[int]
    tombstones: Sequence[int]
    destroyed_keys: Sequence[int]
    removed: Mapping[str, int]
    at: datetime


@dataclass(frozen=True)
class Check:
    """One thing that must not be found after an erasure: how many rows were looked for, how many are there all the same."""

    name: str
    looked_for: int
    found: int


async def erase(
    uow: UnitOfWork, store: Store, vault: Vault, *, person_id: int, request_id: str, caller: str, reason: str, dry_run: bool
) -> Manifest:
    """Erases a person, or says what would go. The same request gives the same manifest again.

    Raises NotFound for persons that are not, FailedPrecondition when the request id stands for another person, and
    KEK_MISSING when somebody else's value under a doomed key cannot be opened to be kept; then nothing has happened.
    """
    if not dry_run:
        await erasure_store.lock(uow)
        await graph_store.lock(uow)
    if (done := await find(uow, request_id)) is not None:
        if done.person_id != person_id:
            raise FailedPrecondition("this request id erased another person", reason="REQUEST_ID_TAKEN", field="request_id")
        return done
    person = await erasure_store.person(uow, person_id)
    if person is None:
        raise NotFound("no such person", reason="ENTITY_NOT_FOUND", field="person_id")
    manifest = Manifest(
        *(0, request_id, person_id, caller, reason, person.anchors, person.own, person.keys),
        *(await erasure_store.count(uow, person), datetime.now(UTC)),
    )
    if dry_run:
        return manifest
    await _seal_again(uow, vault, await erasure_store.sealed_beside(uow, person))
    told = await erasure_store.told_relations(uow, person_id)
    vehicles = await erasure_store.vehicles_beside(uow, person.anchors)
    manifest = replace(manifest, removed=await erasure_store.remove(uow, person))
    await erasure_store.bury(uow, person)
    manifest = await _record(uow, manifest, person)
    events.publish_relations(uow, told)
    events.publish_erased(uow, erasure_id=manifest.erasure_id, person_id=person_id, anchors=person.anchors)
    # Others' relations over the same cars may read differently now.
    await relations.queue(uow, [(vehicle, 0) for vehicle in vehicles])
    await graph.recompute(uow, store, person.touched, why="ERASED", reopen=person.reopen)
    return manifest


async def _seal_again(uow: UnitOfWork, vault: Vault, cells: Sequence[Any]) -> None:
    """Moves others' cells from keys that are to go to fresh ones, one for each owner."""
    if not cells:
        return
    owners = sorted({(row["entity_id"], 0 if row["entity_id"] else row["id"]) for row in cells})
    fresh: dict[tuple[int, int], Subject] = {
        owner: vault.subject(key_id)
        for owner, key_id in zip(owners, await erasure_store.new_key_ids(uow, len(owners)), strict=True)
    }
    await uow.copy("subject_key", ("id", "kek_id", "wrapped"), [(s.key_id, s.kek_id, s.wrapped) for s in fresh.values()])
    sealed: dict[str, list[tuple[int, int, bytes]]] = {}
    for row in cells:
        table, id_ = row["cell_table"], row["id"]
        place = _PLACES[table](id_)
        text = vault.open(row["key_id"], row["kek_id"], row["wrapped"], place, row["sealed"])
        subject = fresh[row["entity_id"], 0 if row["entity_id"] else id_]
        sealed.setdefault(table, []).append((id_, subject.key_id, subject.seal(place, text)))
    for table, rows in sealed.items():
        await erasure_store.write_sealed(uow, table, rows)


async def _record(uow: UnitOfWork, manifest: Manifest, person: Person) -> Manifest:
    rows = await uow.fetch(
        "INSERT INTO erasure (request_id, person_id, caller, reason, anchors, tombstones, destroyed_keys, removed, at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
        manifest.request_id,
        manifest.person_id,
        manifest.caller,
        manifest.reason,
        list(manifest.anchors),
        list(manifest.tombstones),
        list(manifest.destroyed_keys),
        orjson.dumps(dict(manifest.removed)),
        manifest.at,
    )
    erasure_id = int(rows[0][0])
    pairs = sorted(suppressions(person.own, person.others, person.names))
    await uow.fetch(
        "INSERT INTO suppression (identifier_id, name, erasure_id) SELECT id, name, $3"
        " FROM unnest($1::bigint[], $2::bigint[]) AS s(id, name) ON CONFLICT (identifier_id, name) DO NOTHING",
        [identifier for identifier, _ in pairs],
        [name for _, name in pairs],
        erasure_id,
    )
    return replace(manifest, erasure_id=erasure_id)


async def find(uow: UnitOfWork, request_id: str) -> Manifest | None:
    """The manifest of a request; None when nothing was erased under it."""
    rows = await uow.fetch(
        "SELECT id, request_id, person_id, caller, reason, anchors, tombstones, destroyed_keys, removed, at FROM erasure"
        " WHERE request_id = $1",
        request_id,
    )
    if not rows:
        return None
    found = dict(rows[0])
    return Manifest(erasure_id=found.pop("id"), removed=orjson.loads(found.pop("removed")), **found)


async def suppressed(uow: UnitOfWork, vault: Vault, seen: Sequence[Known]) -> Suppressed:
    """Which of these values were erased, by their tokens under the active key: what intake screens observations by."""
    tokens = {token: known.token for known in seen for token in vault.lookup_tokens(known)}
    rows = await uow.fetch(SUPPRESSED, list(tokens))
    found: dict[bytes, frozenset[int]] = {}
    for token, name in rows:
        found[tokens[token]] = found.get(tokens[token], frozenset()) | {name}
    return found


async def screen(uow: UnitOfWork, vault: Vault, observations: Sequence[Observation]) -> dict[bytes, Observation | None]:
    """Event id → what of it may enter, for events with values that were erased; None when it is refused as ERASED.

    An observation that lost values gets another signature: what it claims must not pass for known, or it would not be
    learned whole when the suppression is lifted.
    """
    # Where nobody was ever erased, thousands of values need not be looked up.
    if not await uow.fetch("SELECT 1 FROM suppression LIMIT 1"):
        return {}
    seen = {known.token: known for o in observations for known in o.persons}
    erased = await suppressed(uow, vault, list(seen.values())) if seen else {}
    screened: dict[bytes, Observation | None] = {}
    for o in observations if erased else ():
        left = domain.screen(o.persons, o.name, erased)
        if left is None:
            screened[o.event_id] = None
        elif len(left) < len(o.persons):
            signature = blake2b(o.signature + b"ERASED", digest_size=16).digest()
            screened[o.event_id] = o._replace(persons=left, signature=signature)
    return screened


async def buried(uow: UnitOfWork, anchors: Sequence[int]) -> set[int]:
    """Those of some anchors that were an erased person's: feedback on them is nobody's any more."""
    rows = await uow.fetch(
        "SELECT id FROM identifier WHERE id = ANY($1::bigint[]) AND person_guard = $2", list(anchors), NUMBERS[Reason.ERASED]
    )
    return {int(row[0]) for row in rows}


async def lift(
    uow: UnitOfWork, vault: Vault, *, request_id: str, identifiers: Sequence[Known], caller: str, reason: str
) -> tuple[list[int], list[int]]:
    """Takes back suppressions, of an erasure or of single values; returns the identifiers and erasures concerned.

    A tombstone goes entirely: who comes again is somebody new, with new numbers.
    """
    await erasure_store.lock(uow)
    await graph_store.lock(uow)
    if request_id:
        done = await find(uow, request_id)
        if done is None:
            raise NotFound("nothing was erased under this request id", reason="ERASURE_NOT_FOUND", field="request_id")
        rows = await uow.fetch(
            "DELETE FROM suppression WHERE erasure_id = $1 RETURNING identifier_id, erasure_id", done.erasure_id
        )
    else:
        rows = await uow.fetch(
            "DELETE FROM suppression s USING identifier i WHERE s.identifier_id = i.id"
            " AND (i.token = ANY($1::bytea[]) OR i.next_token = ANY($1::bytea[])) RETURNING s.identifier_id, s.erasure_id",
            [token for known in identifiers for token in vault.lookup_tokens(known)],
        )
    lifted, erasures = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    if not lifted:
        return [], []
    await uow.fetch(
        "DELETE FROM identifier i WHERE i.id = ANY($1::bigint[]) AND i.sealed = ''"
        " AND NOT EXISTS (SELECT 1 FROM suppression s WHERE s.identifier_id = i.id)",
        lifted,
    )
    await uow.fetch(
        "INSERT INTO suppression_lift (identifier_ids, erasure_ids, caller, reason) VALUES ($1, $2, $3, $4)",
        lifted,
        erasures,
        caller,
        reason,
    )
    return lifted, erasures


async def prove(uow: UnitOfWork, manifest: Manifest) -> list[Check]:
    """Looks for everything that must be gone, now; a check passes when nothing is found."""
    gone = list(manifest.tombstones)
    checks = [
        await _check(uow, "identifier.sealed", "identifier", "id = ANY($1::bigint[]) AND sealed <> ''", gone),
        await _check(uow, "identifier.entity_id", "identifier", "id = ANY($1::bigint[]) AND entity_id <> 0", gone),
        await _check(uow, "subject_key", "subject_key", "id = ANY($1::bigint[])", list(manifest.destroyed_keys)),
        await _check(uow, "link", "link", "anchor_id = ANY($1::bigint[]) OR value_id = ANY($1::bigint[])", gone),
        *[
            await _check(uow, table, table, condition.replace("$1", "$1::bigint[]"), gone)
            for table, condition in {**erasure_store.OF_ANCHORS, **erasure_store.OF_IDENTIFIERS}.items()
        ],
    ]
    members = await queries.members(uow, Space.PERSON, manifest.person_id)
    checks.append(Check("GetEntity", 1, len(members)))
    tokens = [row[0] for row in await uow.fetch("SELECT token FROM identifier WHERE id = ANY($1::bigint[])", gone)]
    resolved = await queries.entity_ids(uow, tokens)
    checks.append(Check("ResolveIdentifiers", len(tokens), sum(entity != 0 for entity in resolved.values())))
    rows = await uow.fetch(
        "SELECT count(*), count(*) FILTER (WHERE NOT EXISTS"
        " (SELECT 1 FROM suppression s WHERE s.identifier_id = t.id AND s.name = 0)) FROM unnest($1::bigint[]) AS t(id)"
        " WHERE NOT EXISTS (SELECT 1 FROM suppression_lift l WHERE t.id = ANY(l.identifier_ids))",
        gone,
    )
    checks.append(Check("not suppressed", *map(int, rows[0])))
    return checks


async def _check(uow: UnitOfWork, name: str, table: str, condition: str, ids: Sequence[int]) -> Check:
    rows = await uow.fetch(f"SELECT count(*) FROM {table} WHERE {condition}", ids)  # noqa: S608
    return Check(name, len(ids), int(rows[0][0]))
