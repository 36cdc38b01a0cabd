"""What stewards do to the graph by hand: set values aside and release them, merge persons and take merges apart again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import orjson

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from services.identity import graph, graph_store, neighbourhoods, queries
from services.identity.domain.kinds import (
    OPERATOR_STRENGTH,
    REASON_OF,
    RETRACTED_STRENGTH,
    Space,
)
from services.identity.graph_store import LinkSeen
from services.identity.neighbourhoods import Neighbourhood
from services.identity.store import Store

OPERATOR = "operator"
MERGED, ALREADY_MERGED, NOT_FOUND = "MERGED", "ALREADY_MERGED", "NOT_FOUND"
SAME_AS_TARGET, MOVE_LIMIT_EXCEEDED = "SAME_AS_TARGET", "MOVE_LIMIT_EXCEEDED"
UNMERGED, ALREADY_UNMERGED, STILL_LINKED = "UNMERGED", "ALREADY_UNMERGED", "STILL_LINKED"
LEDGER = "ledger/"


@dataclass(frozen=True)
class Outcome:
    """What became of one source of a merge."""

    source_id: int
    outcome: str
    moved_anchors: int


@dataclass(frozen=True)
class Merged:
    """The answer to a merge; `repeated` when it was given before."""

    person_id: int
    outcomes: Sequence[Outcome]
    repeated: bool = False


@dataclass(frozen=True)
class Undone:
    """The answer to an unmerge; persons that the merged one came apart into, the one that keeps its id first."""

    outcome: str
    person_ids: Sequence[int]
    moved_anchors: int


@dataclass(frozen=True)
class MergeOrder:
    """What a steward asks for; `op_id` is the caller's own."""

    op_id: str
    target_id: int
    source_ids: Sequence[int]
    move_limit: int
    reason: str
    caller: str
    dry_run: bool = False

    def digest(self) -> bytes:
        """Equal for orders that ask for the same."""
        return sha256(orjson.dumps([self.target_id, list(self.source_ids), self.move_limit])).digest()


async def merge_persons(uow: UnitOfWork, store: Store, order: MergeOrder) -> Merged:
    """Makes persons one; each source by itself. Raises NotFound for the target, FailedPrecondition OP_ID_REUSED."""
    operators = (await store.source_ids(uow, {OPERATOR}))[OPERATOR]
    await graph_store.lock(uow)
    earlier = await uow.fetch("SELECT request_sha256, outcome FROM operation WHERE request_id = $1", order.op_id)
    if earlier:
        if earlier[0][0] != order.digest():
            raise FailedPrecondition("this op_id was used for another merge", reason="OP_ID_REUSED", field="op_id")
        return _told_before(earlier[0][1])
    anchors = await _anchors(uow, [order.target_id, *order.source_ids])
    if order.target_id not in anchors:
        raise NotFound("no such person", reason="ENTITY_NOT_FOUND", field="target_id")
    near = await neighbourhoods.near(uow, await graph_store.near_ids(uow, [at for ids in anchors.values() for at in ids]))
    near.preferred = frozenset((order.target_id,))
    trust = await store.trust(uow)
    target = anchors[order.target_id]
    now = time.time_ns() // 1000
    outcomes: list[Outcome] = []
    links: list[LinkSeen] = []
    missing = [source for source in order.source_ids if source not in anchors]
    gone = await _became(uow, missing, order.target_id) if missing else set()
    for source in order.source_ids:
        mine, moved = anchors.get(source, []), sum(o.moved_anchors for o in outcomes if o.outcome == MERGED)
        if source == order.target_id:
            outcomes.append(Outcome(source, SAME_AS_TARGET, 0))
        elif not mine:
            outcomes.append(Outcome(source, ALREADY_MERGED if source in gone else NOT_FOUND, 0))
        elif moved + len(mine) > order.move_limit:
            outcomes.append(Outcome(source, MOVE_LIMIT_EXCEEDED, len(mine)))
        else:
            link = LinkSeen(mine[0], target[0], 0, operators, OPERATOR_STRENGTH, now)
            refused = _join(near, trust, link, mine, target)
            outcomes.append(Outcome(source, refused or MERGED, 0 if refused else len(mine)))
            links += [] if refused else [link]
    merged = Merged(order.target_id, outcomes)
    if order.dry_run:
        return merged
    stored = {
        "person_id": order.target_id,
        "outcomes": [[o.source_id, o.outcome, o.moved_anchors] for o in outcomes],
        "links": [[link.anchor_id, link.value_id] for link in links],
    }
    number = await _record(uow, order.op_id, "merge", order.caller, order.reason, order.digest(), stored)
    if links:
        await graph_store.write_apart(uow, {near.ids[node]: ops for node, ops in near.apart.items()})
        await graph.settle(uow, store, near, number, "OPERATOR")
    return merged


async def unmerge(uow: UnitOfWork, store: Store, op_id: str, reason: str, caller: str, dry_run: bool) -> Undone:
    """Takes back a merge by its caller's id, or one of the ledger ("ledger/17"); raises NotFound."""
    await graph_store.lock(uow)
    if op_id.startswith(LEDGER):
        return await _part(uow, store, op_id, reason, caller, dry_run)
    rows = await uow.fetch("SELECT id, outcome, undone_by FROM operation WHERE request_id = $1 AND kind = 'merge'", op_id)
    if not rows:
        raise NotFound("no such merge", reason="MERGE_NOT_FOUND", field="op_id")
    number, outcome, undone_by = rows[0]
    links = orjson.loads(outcome)["links"]
    ends = [at for link in links for at in link]
    if undone_by:
        return Undone(ALREADY_UNMERGED, await _persons(uow, ends), 0)
    before = await _owner_of(uow, ends)
    operators = (await store.source_ids(uow, {OPERATOR}))[OPERATOR]
    now = time.time_ns() // 1000
    near = await neighbourhoods.near(uow, await graph_store.near_ids(uow, ends)) if ends else Neighbourhood()
    for anchor, value in links:
        near.link(LinkSeen(anchor, value, 0, operators, RETRACTED_STRENGTH, now))
    if dry_run:
        return _foreseen(near, await store.trust(uow), ends)
    undo = await _record(uow, "", "unmerge", caller, reason, sha256(op_id.encode()).digest(), {"undoes": op_id})
    await uow.fetch("UPDATE operation SET undone_by = $2 WHERE id = $1", number, undo)
    await graph.settle(uow, store, near, undo, UNMERGED)
    return await _undone(uow, ends, before)


async def _part(uow: UnitOfWork, store: Store, op_id: str, reason: str, caller: str, dry_run: bool) -> Undone:
    """Keeps the sides of a merge in the ledger apart for good."""
    number = int(op_id.removeprefix(LEDGER)) if op_id.removeprefix(LEDGER).isdigit() else 0
    rows = await uow.fetch(
        "SELECT moved, kept FROM ledger WHERE op_id = $1 AND operation = 'merge' AND space = $2", number, int(Space.PERSON)
    )
    if not rows:
        raise NotFound("no such merge", reason="MERGE_NOT_FOUND", field="op_id")
    moved, kept = rows[0]
    ends = [*kept, *moved]
    before = await _owner_of(uow, ends)
    near = await neighbourhoods.near(uow, await graph_store.near_ids(uow, ends))
    marks: dict[int, tuple[int, ...]] = {}
    for side, anchors in ((number, kept), (-number, moved)):
        for anchor in anchors:
            if (node := near.node.get(anchor)) is not None:
                marks[node] = (*near.apart.get(node, ()), side)
    if any(number in near.apart.get(near.node[at], ()) for at in kept if at in near.node):
        return Undone(ALREADY_UNMERGED, await _persons(uow, ends), 0)
    near.apart |= marks
    if dry_run:
        return _foreseen(near, await store.trust(uow), ends)
    undo = await _record(uow, "", "unmerge", caller, reason, sha256(op_id.encode()).digest(), {"undoes": op_id})
    await graph_store.write_apart(uow, {near.ids[node]: operations for node, operations in marks.items()})
    await graph.settle(uow, store, near, undo, UNMERGED)
    return await _undone(uow, ends, before)


def _told_before(outcome: bytes) -> Merged:
    told = orjson.loads(outcome)
    return Merged(told["person_id"], [Outcome(*each) for each in told["outcomes"]], repeated=True)


def _reconcile(near: Neighbourhood, mine: Sequence[int], target: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """An operator's later word lifts what kept these two apart; returns the marks as they were."""
    nodes = {at: near.node[at] for at in (*mine, *target)}
    here = {op for at in mine for op in near.apart.get(nodes[at], ())}
    there = {op for at in target for op in near.apart.get(nodes[at], ())}
    lifted = {op for op in here if -op in there}
    if not lifted:
        return {}
    lifted |= {-op for op in lifted}
    were = {node: near.apart[node] for node in nodes.values() if node in near.apart}
    for node, operations in were.items():
        near.apart[node] = tuple(op for op in operations if op not in lifted)
    return were


def _join(near: Neighbourhood, trust: Any, link: LinkSeen, mine: Sequence[int], target: Sequence[int]) -> str:
    """Adds the link when it joins its ends; else leaves everything as it was and says why it does not."""
    marks = _reconcile(near, mine, target)
    before = near.links.get(link[:4])
    near.link(link)
    solved = graph.solve(near, trust).parts[Space.PERSON]
    if solved.label[near.node[link.anchor_id]] == solved.label[near.node[link.value_id]]:
        return ""
    state = int(solved.state[list(near.links).index(link[:4])])
    del near.links[link[:4]]
    near.links |= {} if before is None else {link[:4]: before}
    near.new_links = [each for each in near.new_links if each != link]
    near.changed_links = [each for each in near.changed_links if each != link]
    near.apart |= marks
    return str(REASON_OF[state])


def _foreseen(near: Neighbourhood, trust: Any, ends: Sequence[int]) -> Undone:
    """What an unmerge would do; persons that would be new stand as 0."""
    label = graph.solve(near, trust).parts[Space.PERSON].label
    nodes = [near.node[at] for at in ends if at in near.node]
    labels = np.array([label[node] for node in nodes])
    first = labels[0] if len(labels) else 0
    moved = int((labels != first).sum())
    person = near.entity[nodes[0]] if nodes else 0
    return Undone(UNMERGED if moved else STILL_LINKED, [person, *[0] * (len(np.unique(labels)) - 1)], moved)


async def _undone(uow: UnitOfWork, ends: Sequence[int], before: dict[int, int]) -> Undone:
    after = await _owner_of(uow, ends)
    moved = sum(after[at] != before.get(at) for at in after)
    persons = await _persons(uow, ends)
    stayed = [person for person in persons if person in before.values()]
    came = [person for person in persons if person not in stayed]
    return Undone(UNMERGED if len(persons) > 1 else STILL_LINKED, [*stayed, *came], moved)


async def _owner_of(uow: UnitOfWork, anchors: Sequence[int]) -> dict[int, int]:
    rows = await uow.fetch("SELECT id, entity_id FROM identifier WHERE id = ANY($1::bigint[])", list(anchors))
    return {int(row[0]): int(row[1]) for row in rows}


async def _persons(uow: UnitOfWork, anchors: Sequence[int]) -> list[int]:
    return sorted(set((await _owner_of(uow, anchors)).values()) - {0})


async def _anchors(uow: UnitOfWork, persons: Sequence[int]) -> dict[int, list[int]]:
    """Person → anchors, the oldest first."""
    rows = await uow.fetch(
        "SELECT entity_id, array_agg(id ORDER BY id) FROM identifier WHERE entity_id = ANY($1::bigint[]) AND anchor"
        " AND kind = ANY($2::smallint[]) GROUP BY entity_id",
        list(persons),
        queries.PERSON_KINDS,
    )
    return {int(row[0]): list(row[1]) for row in rows}


async def _became(uow: UnitOfWork, persons: Sequence[int], target: int) -> set[int]:
    """Those of some persons that have become part of another."""
    rows = await uow.fetch(
        "SELECT DISTINCT l.other_id FROM ledger l JOIN identifier i ON i.id = ANY(l.moved) WHERE l.operation = 'merge'"
        " AND l.space = 1 AND l.other_id = ANY($1::bigint[]) AND i.entity_id = $2",
        list(persons),
        target,
    )
    return {int(row[0]) for row in rows}


async def _record(
    uow: UnitOfWork, request_id: str, kind: str, caller: str, reason: str, digest: bytes, outcome: dict[str, Any]
) -> int:
    """Writes the operation down; its number is what the ledger names as cause."""
    rows = await uow.fetch(
        "INSERT INTO operation (request_id, kind, caller, reason, request_sha256, outcome, undone_by)"
        " VALUES (coalesce(nullif($1, ''), $2 || '/' || gen_random_uuid()), $2, $3, $4, $5, $6, 0) RETURNING id",
        request_id,
        kind,
        caller,
        reason,
        digest,
        orjson.dumps(outcome),
    )
    return int(rows[0][0])
