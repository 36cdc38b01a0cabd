"""What callers state about consent: whose statements they are, and recording them once."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from chassis.db import UnitOfWork
from services.identity import consents, erasure, erasure_store, graph, graph_store, intake
from services.identity.domain.consents import Statement
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import NUMBERS, Reason, Space
from services.identity.domain.suppression import is_suppressed
from services.identity.intake import Batch
from services.identity.queries import kinds_of
from services.identity.store import Store
from services.identity.vault import Vault

RECORDED, ALREADY_RECORDED, CONSENT_ID_REUSED = "RECORDED", "ALREADY_RECORDED", "CONSENT_ID_REUSED"
UNKNOWN_ANCHOR, NOT_A_PERSON, ERASED = "UNKNOWN_ANCHOR", "NOT_A_PERSON", "ERASED"


@dataclass(frozen=True)
class Stated:
    """A statement whose anchor is still to be found: it is named, or known by an identifier, or a reason why it is none."""

    statement: Statement
    subject: int | Known | str


@dataclass(frozen=True)
class Outcome:
    """What became of a statement; anchor and person 0 when it was not recorded."""

    outcome: str
    anchor_id: int = 0
    person_id: int = 0


async def record(uow: UnitOfWork, store: Store, vault: Vault, stated: Sequence[Stated]) -> list[Outcome]:
    """Records statements; an outcome for each, in their order. The same id with the same content is recorded once."""
    # A person who is being erased must not leave a statement behind.
    await erasure_store.hold_off(uow)
    known = {s.subject.token: s.subject for s in stated if isinstance(s.subject, Known)}
    found = await _anchors_by_identifier(uow, store, vault, known.values()) if known else {}
    named = {s.subject for s in stated if isinstance(s.subject, int)}
    persons = await _persons(uow, named | {place for place in found.values() if isinstance(place, int)})
    outcomes: dict[int, Outcome] = {}
    good: dict[bytes, Statement] = {}
    for index, one in enumerate(stated):
        place = found[one.subject.token] if isinstance(one.subject, Known) else one.subject
        person = persons.get(place, UNKNOWN_ANCHOR) if isinstance(place, int) else place
        if isinstance(person, str):
            outcomes[index] = Outcome(person)
        elif isinstance(place, int):
            statement = replace(one.statement, anchor_id=place)
            if good.setdefault(statement.statement_id, statement) == statement:
                outcomes[index] = Outcome(RECORDED, place, person)
            else:
                outcomes[index] = Outcome(CONSENT_ID_REUSED)
    owners = {anchor: person for anchor, person in persons.items() if isinstance(person, int)}
    new = await consents.add(uow, good.values(), owners) if good else set()
    return await _told(uow, stated, outcomes, good, new)


async def _told(
    uow: UnitOfWork,
    stated: Sequence[Stated],
    outcomes: dict[int, Outcome],
    good: dict[bytes, Statement],
    new: set[bytes],
) -> list[Outcome]:
    """Tells statements that were there before, and ids that stand for something else, from new ones."""
    old = await consents.by_id(uow, [statement_id for statement_id in good if statement_id not in new])
    told: set[bytes] = set()
    for index, one in enumerate(stated):
        outcome, statement_id = outcomes[index], one.statement.statement_id
        if outcome.outcome != RECORDED:
            continue
        if statement_id in old and old[statement_id] != good[statement_id]:
            outcomes[index] = Outcome(CONSENT_ID_REUSED)
        elif statement_id in old or statement_id in told:
            outcomes[index] = replace(outcome, outcome=ALREADY_RECORDED)
        told.add(statement_id)
    return [outcomes[index] for index in range(len(stated))]


async def _persons(uow: UnitOfWork, anchors: Collection[int]) -> dict[int, int | str]:
    """Anchor → its person, or why it has none; those that are no anchors are missing."""
    rows = await uow.fetch(
        "SELECT id, entity_id, kind = ANY($2::smallint[]) FROM identifier"
        " WHERE id = ANY($1::bigint[]) AND anchor AND person_guard <> $3",
        list(anchors),
        kinds_of(Space.PERSON),
        NUMBERS[Reason.ERASED],
    )
    return {row[0]: row[1] if row[2] else NOT_A_PERSON for row in rows}


async def _anchors_by_identifier(uow: UnitOfWork, store: Store, vault: Vault, known: Iterable[Known]) -> dict[bytes, int | str]:
    """Token → anchor, made one where it was none, or why that cannot be.

    Facts hang on anchors: a number that opts out by SMS must be known by it when the record comes that it belongs to.
    """
    found: dict[bytes, int | str] = {}
    persons = []
    for one in known:
        if one.kind.space is Space.PERSON:
            persons.append(one)
        else:
            found[one.token] = NOT_A_PERSON
    erased = await erasure.suppressed(uow, vault, persons)
    for one in persons:
        if is_suppressed(one.token, 0, erased):
            found[one.token] = ERASED
    tokens = {token: one.token for one in persons for token in vault.lookup_tokens(one)}
    for token, id_ in await _anchor_ids(uow, list(tokens)):
        found.setdefault(tokens[token], id_)
    missing = [one for one in persons if one.token not in found]
    if missing:
        scopes = await store.scope_ids(uow, {one.scope for one in missing})
        await graph_store.lock(uow)
        now = time.time_ns() // 1000
        batch = Batch()
        for one in missing:
            batch.anchor[batch.value(one, now)] = True
        near, ids = await intake.near(uow, vault, batch)
        await intake.add_identifiers(uow, vault, near, batch, ids, scopes)
        await graph.settle(uow, store, near)
        found.update({token: ids[at] for token, at in batch.number.items()})
    return found


async def _anchor_ids(uow: UnitOfWork, tokens: Sequence[bytes]) -> list[tuple[bytes, int]]:
    rows = await uow.fetch(
        "SELECT wanted.token, i.id FROM unnest($1::bytea[]) AS wanted(token)"
        " CROSS JOIN LATERAL (SELECT id, anchor FROM identifier WHERE token = wanted.token"
        " UNION SELECT id, anchor FROM identifier WHERE next_token = wanted.token OFFSET 0) i WHERE i.anchor",
        list(tokens),
    )
    return [(bytes(row[0]), int(row[1])) for row in rows]
