"""What linkage supposes: pairs into the review queue, or, above the operator's threshold, as probable links."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from services.identity import graph, graph_store, neighbourhoods, stewardship
from services.identity.domain.kinds import MAX_PROBABLE_STRENGTH
from services.identity.graph_store import LinkSeen
from services.identity.stewardship import MergeOrder
from services.identity.store import Store

SOURCE = "linkage"
PENDING, LINKED, ACCEPTED, REJECTED = "pending", "linked", "accepted", "rejected"
MOVE_LIMIT = 10_000


class Pair(NamedTuple):
    """Two anchors that may be one person: probability 0 to 1, match weights in bits by comparison."""

    anchor_a: int
    anchor_b: int
    probability: float
    match_weights: Mapping[str, float]


async def suggest(uow: UnitOfWork, store: Store, pairs: Sequence[Pair], threshold: float) -> tuple[int, int]:
    """Keeps pairs; returns how many wait for review and how many were linked. What somebody decided stays decided.

    `threshold`: probability from which a pair is linked; above 1 nothing is.
    """
    if not pairs:
        return 0, 0
    source = (await store.source_ids(uow, {SOURCE}))[SOURCE]
    await graph_store.lock(uow)
    ordered = {tuple(sorted(pair[:2])): pair for pair in pairs}
    rows = await uow.fetch(
        "INSERT INTO suggestion (anchor_a, anchor_b, probability, explanation, state, decided_by)"
        " SELECT a, b, p, explanation, CASE WHEN p >= $5 THEN 'linked' ELSE 'pending' END, ''"
        " FROM unnest($1::bigint[], $2::bigint[], $3::real[], $4::bytea[]) AS new(a, b, p, explanation)"
        # Linkage takes a while: whom it read may have been erased since.
        " WHERE 2 = (SELECT count(*) FROM identifier i WHERE i.id IN (a, b) AND i.anchor)"
        " ON CONFLICT (anchor_a, anchor_b) DO UPDATE SET probability = excluded.probability,"
        " explanation = excluded.explanation, state = excluded.state, at = now()"
        " WHERE suggestion.state IN ('pending', 'linked') RETURNING anchor_a, anchor_b, state, probability",
        [a for a, _ in ordered],
        [b for _, b in ordered],
        [pair.probability for pair in ordered.values()],
        [orjson.dumps(dict(pair.match_weights)) for pair in ordered.values()],
        threshold,
    )
    linked = [(int(r[0]), int(r[1]), float(r[3])) for r in rows if r[2] == LINKED]
    if linked:
        near = await neighbourhoods.near(uow, await graph_store.near_ids(uow, {at for a, b, _ in linked for at in (a, b)}))
        now = time.time_ns() // 1000
        for a, b, probability in linked:
            if a in near.node and b in near.node:
                near.link(LinkSeen(a, b, 0, source, max(1, round(probability * MAX_PROBABLE_STRENGTH)), now))
        await graph.settle(uow, store, near, why="PROBABLE")
    return len(rows) - len(linked), len(linked)


async def page(uow: UnitOfWork, state: str, before: int, size: int) -> Sequence[Any]:
    """Suggestions in a state, newest first, with the persons that their anchors belong to now."""
    return await uow.fetch(
        "SELECT s.id, a.entity_id AS person_a, b.entity_id AS person_b, s.probability, s.explanation, s.state, s.decided_by"
        " FROM suggestion s JOIN identifier a ON a.id = s.anchor_a JOIN identifier b ON b.id = s.anchor_b"
        " WHERE s.state = $1 AND s.id < $2 ORDER BY s.id DESC LIMIT $3",
        state,
        before,
        size,
    )


async def decide(uow: UnitOfWork, store: Store, suggestion_id: int, accept: bool, caller: str) -> tuple[str, str, str]:
    """Returns (state, op_id of the merge, its outcome). Raises NotFound, FailedPrecondition when it was decided otherwise."""
    await graph_store.lock(uow)
    rows = await uow.fetch(
        "SELECT s.state, a.entity_id, b.entity_id FROM suggestion s JOIN identifier a ON a.id = s.anchor_a"
        " JOIN identifier b ON b.id = s.anchor_b WHERE s.id = $1",
        suggestion_id,
    )
    if not rows:
        raise NotFound("no such suggestion", reason="SUGGESTION_NOT_FOUND", field="suggestion_id")
    was, person_a, person_b = rows[0]
    wanted = ACCEPTED if accept else REJECTED
    op_id = f"suggestion/{suggestion_id}" if accept else ""
    if was in (ACCEPTED, REJECTED) and was != wanted:
        raise FailedPrecondition(f"it was {was} before", reason="ALREADY_DECIDED", field="accept")
    outcome = ""
    if accept and person_a == person_b:
        outcome = stewardship.ALREADY_MERGED
    elif accept:
        order = MergeOrder(op_id, person_a, [person_b], MOVE_LIMIT, "suggestion accepted", caller)
        outcome = (await stewardship.merge_persons(uow, store, order)).outcomes[0].outcome
        if outcome != stewardship.MERGED:
            return was, "", outcome
    elif was == LINKED:
        await _withdraw_link(uow, store, suggestion_id)
    await uow.fetch("UPDATE suggestion SET state = $2, decided_by = $3 WHERE id = $1", suggestion_id, wanted, caller)
    return wanted, op_id, outcome


async def _withdraw_link(uow: UnitOfWork, store: Store, suggestion_id: int) -> None:
    source = (await store.source_ids(uow, {SOURCE}))[SOURCE]
    rows = await uow.fetch(
        "UPDATE link l SET strength = -1 FROM suggestion s WHERE s.id = $1 AND l.source_id = $2"
        " AND l.anchor_id = s.anchor_a AND l.value_id = s.anchor_b RETURNING l.anchor_id, l.value_id",
        suggestion_id,
        source,
    )
    await graph.recompute(uow, store, {at for row in rows for at in row}, why="SUGGESTION_REJECTED")
